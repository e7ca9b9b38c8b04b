/*
 * proxy_header_read() on every prefix of an input: it never asks for a byte behind the header, says
 * nothing before the header is whole unless it is none, and then says the same whatever comes
 * behind.
 */
#include "tests/fuzz/fuzz.h"

#include "protocol/proxy_header.h"

static bool names_a_client(enum proxy_header_kind kind)
{
    return kind == PROXY_HEADER_TCP4 || kind == PROXY_HEADER_TCP6 || kind == PROXY_HEADER_UNIX;
}

static bool is_whole(enum proxy_header_kind kind)
{
    return names_a_client(kind) || kind == PROXY_HEADER_LOCAL;
}

static void check_alone(const struct proxy_header *h, size_t len)
{
    FUZZ_CHECK((h->kind == PROXY_HEADER_INVALID) == (h->why != NULL));
    FUZZ_CHECK(h->size <= PROXY_HEADER_MAX);
    if (h->kind == PROXY_HEADER_INCOMPLETE) {
        FUZZ_CHECK(h->size > len); /* or a reader would wait for nothing */
    }
    if (is_whole(h->kind)) {
        FUZZ_CHECK(h->size >= PROXY_HEADER_FIXED && h->size <= len);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct proxy_header whole = proxy_header_read(data, size);
    check_alone(&whole, size);
    bool was_told = false;
    for (size_t len = 0; len <= size && len <= 600; len++) {
        uint8_t *prefix = fuzz_copy(data, len);
        const struct proxy_header h = proxy_header_read(prefix, len);
        check_alone(&h, len);
        free(prefix);
        FUZZ_CHECK(h.kind != PROXY_HEADER_INCOMPLETE || !was_told);
        was_told = h.kind != PROXY_HEADER_INCOMPLETE;
        if (was_told) {
            FUZZ_CHECK(h.kind == whole.kind && h.why == whole.why && h.port == whole.port);
            FUZZ_CHECK(memcmp(h.address, whole.address, sizeof h.address) == 0);
        } else {
            FUZZ_CHECK(!is_whole(whole.kind) || (len < whole.size && h.size <= whole.size));
        }
    }
    return 0;
}

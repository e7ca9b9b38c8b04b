/*
 * startup_read() on every prefix of an input: what it claims lies within the packet, and what it
 * says does not change when more bytes arrive.
 */
#include "tests/fuzz/fuzz.h"

#include "protocol/startup.h"

/* More of an input than this is read whole, but not prefix by prefix. */
enum { PREFIXES_MAX = 320, SPANS = 8 };

static void check_span(struct span s, const uint8_t *packet, size_t size)
{
    if (s.len == 0) {
        return;
    }
    const uint8_t *start = (const uint8_t *)s.ptr;
    FUZZ_CHECK(start >= packet && start < packet + size);
    FUZZ_CHECK(s.len <= (size_t)(packet + size - start));
}

static void list_spans(const struct startup *s, struct span spans[SPANS])
{
    const struct span all[SPANS] = {s->cancel_key,       s->user,     s->database,
                                    s->application_name, s->options,  s->client_encoding,
                                    s->replication,      s->isolation};
    memcpy(spans, all, sizeof all);
}

static bool is_known(enum startup_kind kind)
{
    return kind != STARTUP_INCOMPLETE && kind != STARTUP_INVALID;
}

static void check_alone(const struct startup *s, const uint8_t *bytes, size_t len)
{
    struct span spans[SPANS];
    list_spans(s, spans);
    FUZZ_CHECK(s->size <= len);
    if (!is_known(s->kind)) {
        return;
    }
    FUZZ_CHECK(s->size >= STARTUP_LENGTH_MIN && s->size <= STARTUP_LENGTH_MAX);
    for (size_t i = 0; i < SPANS; i++) {
        check_span(spans[i], bytes, s->size);
        if (i > 0 && spans[i].len > 0) {
            FUZZ_CHECK(s->kind == STARTUP_PROTOCOL_3);
            FUZZ_CHECK(spans[i].ptr[spans[i].len] == '\0');
            FUZZ_CHECK(memchr(spans[i].ptr, 0, spans[i].len) == NULL);
        }
    }
    if (s->kind == STARTUP_SSL || s->kind == STARTUP_GSSENC) {
        FUZZ_CHECK(s->size == 8);
    }
    if (s->kind == STARTUP_CANCEL) {
        FUZZ_CHECK(s->cancel_key.len >= 4 && s->cancel_key.len <= CANCEL_KEY_MAX);
        FUZZ_CHECK(s->cancel_key.len + 12 == s->size);
    }
}

static void check_same(const struct startup *whole, const struct startup *part)
{
    struct span spans[SPANS], again[SPANS];
    list_spans(whole, spans);
    list_spans(part, again);
    FUZZ_CHECK(part->kind == whole->kind && part->size == whole->size);
    FUZZ_CHECK(part->major == whole->major && part->minor == whole->minor);
    FUZZ_CHECK(part->cancel_pid == whole->cancel_pid);
    for (size_t i = 0; i < SPANS; i++) {
        FUZZ_CHECK(spans[i].len == again[i].len);
        FUZZ_CHECK(spans[i].len == 0 || memcmp(spans[i].ptr, again[i].ptr, spans[i].len) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct startup whole = startup_read(data, size);
    check_alone(&whole, data, size);
    bool was_told = false;
    for (size_t len = 0; len <= size && len <= PREFIXES_MAX; len++) {
        uint8_t *prefix = fuzz_copy(data, len);
        const struct startup s = startup_read(prefix, len);
        check_alone(&s, prefix, len);
        FUZZ_CHECK(s.kind != STARTUP_INCOMPLETE || !was_told);
        was_told = s.kind != STARTUP_INCOMPLETE;
        if (was_told) {
            check_same(&whole, &s);
        }
        FUZZ_CHECK(!is_known(whole.kind) || was_told == (len >= whole.size));
        free(prefix);
    }
    return 0;
}

/* Reads startup packets; see startup.h. */
#include "protocol/startup.h"

#include <string.h>

#define REQUEST_CODE(low) (1234u << 16 | (low))
#define CANCEL_REQUEST REQUEST_CODE(5678u)
#define SSL_REQUEST REQUEST_CODE(5679u)
#define GSSENC_REQUEST REQUEST_CODE(5680u)

void startup_write_ssl_request(uint8_t out[8])
{
    store_u32(out, 8);
    store_u32(out + 4, SSL_REQUEST);
}

static bool span_is(struct span s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.ptr, text, s.len) == 0;
}

/* Pairs of strings, ended by an empty name. What is malformed is the server's to refuse. */
static void read_parameters(struct startup *s, struct reader r)
{
    const struct {
        const char *name;
        struct span *value;
    } known[] = {
        {"user", &s->user},
        {"database", &s->database},
        {"application_name", &s->application_name},
        {"options", &s->options},
        {"client_encoding", &s->client_encoding},
        {"replication", &s->replication},
        {"default_transaction_isolation", &s->isolation},
    };
    for (;;) {
        struct span name = reader_cstr(&r);
        if (!r.ok || name.len == 0) {
            return;
        }
        struct span value = reader_cstr(&r);
        for (size_t i = 0; r.ok && i < sizeof known / sizeof known[0]; i++) {
            if (span_is(name, known[i].name)) {
                *known[i].value = value;
            }
        }
    }
}

struct startup startup_read(const uint8_t *bytes, size_t len)
{
    struct startup s = {.kind = STARTUP_INCOMPLETE};
    if (len < 4) {
        return s;
    }
    uint32_t size = load_u32(bytes);
    if (size < STARTUP_LENGTH_MIN || size > STARTUP_LENGTH_MAX) {
        s.kind = STARTUP_INVALID;
        return s;
    }
    if (len < size) {
        return s;
    }
    struct reader r = reader_of(bytes + 4, size - 4);
    uint32_t code = reader_u32(&r);
    s.size = size;
    s.major = (uint16_t)(code >> 16);
    s.minor = (uint16_t)(code & 0xffff);
    if (code == SSL_REQUEST || code == GSSENC_REQUEST) {
        s.kind = size != 8 ? STARTUP_INVALID : code == SSL_REQUEST ? STARTUP_SSL : STARTUP_GSSENC;
    } else if (code == CANCEL_REQUEST) {
        s.cancel_pid = reader_u32(&r);
        s.cancel_key = (struct span){.ptr = (const char *)r.at, .len = (size_t)(r.end - r.at)};
        bool fits = r.ok && s.cancel_key.len >= 4 && s.cancel_key.len <= CANCEL_KEY_MAX;
        s.kind = fits ? STARTUP_CANCEL : STARTUP_CANCEL_INVALID;
    } else if (s.major == 3) {
        s.kind = STARTUP_PROTOCOL_3;
        read_parameters(&s, r);
    } else {
        s.kind = STARTUP_PROTOCOL_OTHER;
    }
    return s;
}

/* The end of the parameters: the empty name, which must be the packet's last byte. */
static bool has_terminator(const uint8_t *packet, size_t size)
{
    struct reader r = reader_of(packet + STARTUP_LENGTH_MIN, size - STARTUP_LENGTH_MIN);
    while (reader_cstr(&r).len > 0) {
        reader_cstr(&r);
    }
    return reader_done(&r);
}

bool startup_write_application_name(struct writer *w, const uint8_t *packet, size_t size,
                                    const char *name)
{
    static const char key[] = "application_name";
    struct startup s = startup_read(packet, size);
    if (s.kind != STARTUP_PROTOCOL_3 || s.size != size || !has_terminator(packet, size)) {
        return false;
    }
    const uint8_t *old = (const uint8_t *)s.application_name.ptr;
    size_t before = old != NULL ? (size_t)(old - packet) : size - 1;
    size_t behind = old != NULL ? before + s.application_name.len + 1 : before;
    writer_begin(w, 0);
    writer_bytes(w, packet + 4, before - 4);
    if (old == NULL) {
        writer_cstr(w, key);
    }
    writer_cstr(w, name);
    writer_bytes(w, packet + behind, size - behind);
    writer_end(w);
    return w->ok && w->len <= STARTUP_LENGTH_MAX;
}

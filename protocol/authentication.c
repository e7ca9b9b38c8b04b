/* Reads and writes the messages of authentication; see authentication.h. */
#include "protocol/authentication.h"

#include <stdio.h>
#include <string.h>

#include "protocol/frame.h"

static struct reader body_of(const uint8_t *message, size_t size)
{
    return reader_of(message + FRAME_HEADER, size - FRAME_HEADER);
}

static struct span rest_of(const struct reader *r)
{
    return (struct span){.ptr = (const char *)r->at, .len = (size_t)(r->end - r->at)};
}

static bool span_is(struct span s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.ptr, text, s.len) == 0;
}

bool authentication_read(const uint8_t *message, size_t size, struct authentication *out)
{
    struct reader r = body_of(message, size);
    out->code = reader_u32(&r);
    out->data = rest_of(&r);
    return message[0] == 'R' && r.ok;
}

/* Names, each ended by NUL, and an empty one behind the last. */
bool authentication_read_sasl(const uint8_t *message, size_t size, struct sasl_offer *out)
{
    struct reader r = body_of(message, size);
    *out = (struct sasl_offer){0};
    if (message[0] != 'R' || reader_u32(&r) != AUTHENTICATION_SASL) {
        return false;
    }
    for (;;) {
        struct span name = reader_cstr(&r);
        if (name.len == 0) {
            return reader_done(&r);
        }
        out->mechanisms++;
        out->scram = out->scram || span_is(name, SCRAM_SHA_256);
        out->plus = out->plus || span_is(name, SCRAM_SHA_256_PLUS);
    }
}

/* PostgreSQL counts the length word in. */
static enum sasl_read check_response(const uint8_t *message, size_t size)
{
    if (message[0] != 'p') {
        return SASL_OTHER_MESSAGE;
    }
    return size - 1 > SCRAM_MESSAGE_MAX ? SASL_TOO_LONG : SASL_READ;
}

enum sasl_read authentication_read_initial(const uint8_t *message, size_t size,
                                           struct sasl_initial *out)
{
    static const uint32_t absent = UINT32_MAX;
    struct reader r = body_of(message, size);
    *out = (struct sasl_initial){.mechanism = {.ptr = "", .len = 0}};
    enum sasl_read result = check_response(message, size);
    if (result != SASL_READ) {
        return result;
    }
    out->mechanism = reader_cstr(&r);
    if (!r.ok) {
        return SASL_NO_STRING;
    }
    uint32_t len = reader_u32(&r);
    struct span data = rest_of(&r);
    if (!r.ok || (len != absent && len > data.len)) {
        return SASL_TOO_SHORT;
    }
    if (data.len != (len == absent ? 0 : len)) {
        return SASL_TOO_MUCH;
    }
    if (len != absent) {
        out->data = data;
    }
    return SASL_READ;
}

enum sasl_read authentication_read_response(const uint8_t *message, size_t size, struct span *data)
{
    struct reader r = body_of(message, size);
    *data = rest_of(&r);
    return check_response(message, size);
}

void authentication_read_error(enum sasl_read result, uint8_t type, struct scram_error *out)
{
    static const char *const texts[] = {[SASL_NO_STRING] = "invalid string in message",
                                        [SASL_TOO_SHORT] = "insufficient data left in message",
                                        [SASL_TOO_MUCH] = "invalid message format"};
    *out = (struct scram_error){.sqlstate = "08P01"};
    if (result == SASL_TOO_LONG) {
        *out = (struct scram_error){.sqlstate = "28P01"};
    } else if (result == SASL_OTHER_MESSAGE) {
        snprintf(out->message, sizeof out->message, "expected SASL response, got message type %u",
                 (unsigned)type);
    } else {
        snprintf(out->message, sizeof out->message, "%s", texts[result]);
    }
}

static void write_authentication(struct writer *w, enum authentication_code code, struct span data)
{
    writer_begin(w, 'R');
    writer_u32(w, code);
    writer_bytes(w, data.ptr, data.len);
    writer_end(w);
}

void authentication_write_ok(struct writer *w)
{
    write_authentication(w, AUTHENTICATION_OK, (struct span){.ptr = "", .len = 0});
}

void authentication_write_sasl(struct writer *w, bool plus)
{
    static const char both[] = SCRAM_SHA_256_PLUS "\0" SCRAM_SHA_256 "\0";
    static const char one[] = SCRAM_SHA_256 "\0";
    write_authentication(w, AUTHENTICATION_SASL,
                         plus ? (struct span){.ptr = both, .len = sizeof both}
                              : (struct span){.ptr = one, .len = sizeof one});
}

void authentication_write_sasl_without_plus(struct writer *w, const uint8_t *message, size_t size)
{
    struct reader r = body_of(message, size);
    writer_begin(w, 'R');
    writer_u32(w, reader_u32(&r));
    for (;;) {
        struct span name = reader_cstr(&r);
        if (name.len == 0) {
            break;
        }
        if (!span_is(name, SCRAM_SHA_256_PLUS)) {
            writer_bytes(w, name.ptr, name.len);
            writer_u8(w, 0);
        }
    }
    writer_u8(w, 0);
    writer_end(w);
}

void authentication_write_continue(struct writer *w, struct span data)
{
    write_authentication(w, AUTHENTICATION_SASL_CONTINUE, data);
}

void authentication_write_final(struct writer *w, struct span data)
{
    write_authentication(w, AUTHENTICATION_SASL_FINAL, data);
}

void authentication_write_initial(struct writer *w, const char *mechanism, struct span data)
{
    writer_begin(w, 'p');
    writer_cstr(w, mechanism);
    writer_u32(w, (uint32_t)data.len);
    writer_bytes(w, data.ptr, data.len);
    writer_end(w);
}

void authentication_write_response(struct writer *w, struct span data)
{
    writer_begin(w, 'p');
    writer_bytes(w, data.ptr, data.len);
    writer_end(w);
}

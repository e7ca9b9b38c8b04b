/* Words, the reading cursor and the message writer; see bytes.h. */
#include "protocol/bytes.h"

#include <stdlib.h>
#include <string.h>

void store_u32(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)(value >> 24);
    p[1] = (uint8_t)(value >> 16);
    p[2] = (uint8_t)(value >> 8);
    p[3] = (uint8_t)value;
}

struct reader reader_of(const uint8_t *bytes, size_t len)
{
    return (struct reader){.at = bytes, .end = bytes + len, .ok = true};
}

static const uint8_t *reader_take(struct reader *r, size_t len)
{
    if (!r->ok || (size_t)(r->end - r->at) < len) {
        r->ok = false;
        return NULL;
    }
    const uint8_t *p = r->at;
    r->at += len;
    return p;
}

uint8_t reader_u8(struct reader *r)
{
    const uint8_t *p = reader_take(r, 1);
    return p == NULL ? 0 : p[0];
}

uint16_t reader_u16(struct reader *r)
{
    const uint8_t *p = reader_take(r, 2);
    uint16_t value = 0;
    if (p != NULL) {
        value = (uint16_t)(p[0] << 8 | p[1]);
    }
    return value;
}

uint32_t reader_u32(struct reader *r)
{
    const uint8_t *p = reader_take(r, 4);
    return p == NULL ? 0 : load_u32(p);
}

struct span reader_cstr(struct reader *r)
{
    const uint8_t *nul = NULL;
    if (r->ok && r->at < r->end) {
        nul = memchr(r->at, 0, (size_t)(r->end - r->at));
    }
    if (nul == NULL) {
        r->ok = false;
        return (struct span){.ptr = "", .len = 0};
    }
    struct span s = {.ptr = (const char *)r->at, .len = (size_t)(nul - r->at)};
    r->at = nul + 1;
    return s;
}

bool reader_done(const struct reader *r)
{
    return r->ok && r->at == r->end;
}

void writer_init(struct writer *w, size_t cap)
{
    *w = (struct writer){.cap = cap, .ok = true};
}

void writer_fini(struct writer *w)
{
    free(w->bytes);
    *w = (struct writer){.ok = false};
}

static uint8_t *writer_reserve(struct writer *w, size_t len)
{
    if (!w->ok || len > w->cap || w->len > w->cap - len) {
        w->ok = false;
        return NULL;
    }
    if (w->room - w->len < len) {
        size_t room = w->room == 0 ? 256 : w->room * 2;
        while (room < w->len + len) {
            room *= 2;
        }
        room = room > w->cap ? w->cap : room;
        uint8_t *bytes = realloc(w->bytes, room);
        if (bytes == NULL) {
            w->ok = false;
            return NULL;
        }
        w->bytes = bytes;
        w->room = room;
    }
    uint8_t *p = w->bytes + w->len;
    w->len += len;
    return p;
}

void writer_begin(struct writer *w, uint8_t type)
{
    if (type != 0) {
        writer_u8(w, type);
    }
    w->message = w->len;
    writer_u32(w, 0);
}

void writer_u8(struct writer *w, uint8_t value)
{
    uint8_t *p = writer_reserve(w, 1);
    if (p != NULL) {
        p[0] = value;
    }
}

void writer_u16(struct writer *w, uint16_t value)
{
    uint8_t *p = writer_reserve(w, 2);
    if (p != NULL) {
        p[0] = (uint8_t)(value >> 8);
        p[1] = (uint8_t)value;
    }
}

void writer_u32(struct writer *w, uint32_t value)
{
    uint8_t *p = writer_reserve(w, 4);
    if (p != NULL) {
        store_u32(p, value);
    }
}

void writer_bytes(struct writer *w, const void *bytes, size_t len)
{
    uint8_t *p = writer_reserve(w, len);
    if (p != NULL && len > 0) {
        memcpy(p, bytes, len);
    }
}

void writer_cstr(struct writer *w, const char *string)
{
    writer_bytes(w, string, strlen(string) + 1);
}

void writer_end(struct writer *w)
{
    if (w->ok) {
        store_u32(w->bytes + w->message, (uint32_t)(w->len - w->message));
    }
}

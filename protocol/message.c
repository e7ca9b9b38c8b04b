/* Reads and writes single messages; see message.h. */
#include "protocol/message.h"

#include <stdio.h>
#include <string.h>

#include "protocol/frame.h"

static struct reader body_of(const uint8_t *message, size_t size)
{
    return reader_of(message + FRAME_HEADER, size - FRAME_HEADER);
}

bool message_read_query(const uint8_t *message, size_t size, struct span *query)
{
    struct reader r = body_of(message, size);
    *query = reader_cstr(&r);
    return reader_done(&r);
}

bool message_read_parse(const uint8_t *message, size_t size, struct message_parse *out)
{
    struct reader r = body_of(message, size);
    out->name = reader_cstr(&r);
    out->query = reader_cstr(&r);
    out->type_count = reader_u16(&r);
    out->types = r.at;
    for (uint16_t i = 0; i < out->type_count && r.ok; i++) {
        reader_u32(&r);
    }
    return reader_done(&r);
}

bool message_read_bind(const uint8_t *message, size_t size, struct span *portal,
                       struct span *statement)
{
    struct reader r = body_of(message, size);
    *portal = reader_cstr(&r);
    *statement = reader_cstr(&r);
    return r.ok;
}

/* A value from `r`; a length below zero is NULL's. */
static bool read_value(struct reader *r, struct message_value *out)
{
    const uint32_t length = reader_u32(r);
    out->is_null = length > INT32_MAX;
    out->bytes = (struct span){.ptr = (const char *)r->at, .len = out->is_null ? 0 : length};
    if (!r->ok || out->bytes.len > (size_t)(r->end - r->at)) {
        return false;
    }
    r->at += out->bytes.len;
    return true;
}

/* `count` values; false when one is cut off. */
static bool walk_values(struct reader *r, struct message_values *out)
{
    struct message_value value;
    out->count = reader_u16(r);
    out->at = r->at;
    for (uint16_t i = 0; i < out->count; i++) {
        if (!read_value(r, &value)) {
            return false;
        }
    }
    out->end = r->at;
    return r->ok;
}

bool message_read_row(const uint8_t *message, size_t size, struct message_values *out)
{
    struct reader r = body_of(message, size);
    *out = (struct message_values){.next = 0};
    return walk_values(&r, out) && reader_done(&r);
}

bool message_read_values(const uint8_t *message, size_t size, struct message_values *out)
{
    struct reader r = body_of(message, size);
    reader_cstr(&r);
    reader_cstr(&r);
    *out = (struct message_values){.format_count = reader_u16(&r), .formats = r.at};
    for (uint16_t i = 0; i < out->format_count; i++) {
        reader_u16(&r);
    }
    return walk_values(&r, out) && (out->format_count <= 1 || out->format_count == out->count);
}

bool message_next_value(struct message_values *values, struct message_value *out)
{
    struct reader r = reader_of(values->at, (size_t)(values->end - values->at));
    if (values->next >= values->count || !read_value(&r, out)) {
        return false;
    }
    const uint16_t format = values->format_count == 1 ? 0 : values->next;
    out->is_binary = values->format_count > 0 && values->formats[2 * format + 1] == 1 &&
                     values->formats[2 * format] == 0;
    values->at = r.at;
    values->next++;
    return true;
}

bool message_read_portal(const uint8_t *message, size_t size, struct span *portal)
{
    struct reader r = body_of(message, size);
    *portal = reader_cstr(&r);
    return r.ok;
}

bool message_read_close(const uint8_t *message, size_t size, struct span *statement)
{
    struct reader r = body_of(message, size);
    uint8_t kind = reader_u8(&r);
    *statement = reader_cstr(&r);
    return reader_done(&r) && kind == 'S';
}

bool message_read_parameter_status(const uint8_t *message, size_t size,
                                   struct message_parameter *out)
{
    struct reader r = body_of(message, size);
    out->name = reader_cstr(&r);
    out->value = reader_cstr(&r);
    return reader_done(&r);
}

bool message_read_error(const uint8_t *message, size_t size, struct message_error *out)
{
    struct reader r = body_of(message, size);
    *out = (struct message_error){0};
    for (;;) {
        uint8_t field = reader_u8(&r);
        if (field == 0) {
            return reader_done(&r);
        }
        struct span value = reader_cstr(&r);
        if (!r.ok) {
            return false;
        }
        switch (field) {
        case 'S':
            out->severity = value.ptr;
            break;
        case 'V':
            out->severity_code = value.ptr;
            break;
        case 'C':
            out->sqlstate = value.ptr;
            break;
        case 'M':
            out->message = value.ptr;
            break;
        case 'D':
            out->detail = value.ptr;
            break;
        case 'H':
            out->hint = value.ptr;
            break;
        case 'P':
            out->position = value.ptr;
            break;
        default:
            break;
        }
    }
}

static void write_field(struct writer *w, char field, const char *value)
{
    if (value != NULL) {
        writer_u8(w, (uint8_t)field);
        writer_cstr(w, value);
    }
}

void message_write_error(struct writer *w, const struct message_error *error)
{
    writer_begin(w, 'E');
    write_field(w, 'S', error->severity);
    write_field(w, 'V', error->severity_code);
    write_field(w, 'C', error->sqlstate);
    write_field(w, 'M', error->message);
    write_field(w, 'D', error->detail);
    write_field(w, 'H', error->hint);
    write_field(w, 'P', error->position);
    writer_u8(w, 0);
    writer_end(w);
}

void message_write_moved(struct writer *w, const uint8_t *message, size_t size,
                         const char *position)
{
    struct reader r = body_of(message, size);
    writer_begin(w, message[0]);
    for (uint8_t field = reader_u8(&r); field != 0; field = reader_u8(&r)) {
        const struct span value = reader_cstr(&r);
        write_field(w, (char)field, field == 'P' ? position : value.ptr);
    }
    writer_u8(w, 0);
    writer_end(w);
}

void message_write_ready(struct writer *w, char status)
{
    writer_begin(w, 'Z');
    writer_u8(w, (uint8_t)status);
    writer_end(w);
}

void message_write_query(struct writer *w, const char *text, size_t len)
{
    writer_begin(w, 'Q');
    writer_bytes(w, text, len);
    writer_u8(w, 0);
    writer_end(w);
}

void message_begin_query(struct writer *w, size_t len)
{
    writer_begin(w, 'Q');
    if (w->ok) {
        store_u32(w->bytes + w->message, (uint32_t)(4 + len + 1));
    }
}

void message_write_close(struct writer *w, struct span statement)
{
    writer_begin(w, 'C');
    writer_u8(w, 'S');
    writer_bytes(w, statement.ptr, statement.len);
    writer_u8(w, 0);
    writer_end(w);
}

void message_write_parse(struct writer *w, struct span name, const char *text, size_t len,
                         const uint32_t *types, size_t type_count)
{
    writer_begin(w, 'P');
    writer_bytes(w, name.ptr, name.len);
    writer_u8(w, 0);
    writer_bytes(w, text, len);
    writer_u8(w, 0);
    writer_u16(w, (uint16_t)type_count);
    for (size_t i = 0; i < type_count; i++) {
        writer_u32(w, types[i]);
    }
    writer_end(w);
}

static void write_close(struct writer *w, const char *name)
{
    writer_begin(w, 'C');
    writer_u8(w, 'S');
    writer_cstr(w, name);
    writer_end(w);
}

void message_write_batch(struct writer *w, const char *name, const char *text)
{
    write_close(w, name); /* what an earlier batch that failed may have left */
    message_write_parse(w, (struct span){name, strlen(name)}, text, strlen(text), NULL, 0);
    writer_begin(w, 'B');
    writer_cstr(w, name);
    writer_cstr(w, name);
    writer_u16(w, 0); /* formats of parameters, */
    writer_u16(w, 0); /* parameters, */
    writer_u16(w, 0); /* formats of columns */
    writer_end(w);
    writer_begin(w, 'E');
    writer_cstr(w, name);
    writer_u32(w, 0); /* all rows */
    writer_end(w);
    write_close(w, name);
    writer_begin(w, 'S');
    writer_end(w);
}

void message_write_columns(struct writer *w, const struct message_column *columns, size_t count)
{
    writer_begin(w, 'T');
    writer_u16(w, (uint16_t)count);
    for (size_t i = 0; i < count; i++) {
        const bool is_text = columns[i].type == MESSAGE_TEXT;
        writer_cstr(w, columns[i].name);
        writer_u32(w, 0); /* no table, */
        writer_u16(w, 0); /* no attribute of one */
        writer_u32(w, columns[i].type);
        writer_u16(w, is_text ? UINT16_MAX : 8); /* its size, */
        writer_u32(w, UINT32_MAX);               /* no modifier, */
        writer_u16(w, 0);                        /* text's format */
    }
    writer_end(w);
}

void message_begin_row(struct writer *w, size_t count)
{
    writer_begin(w, 'D');
    writer_u16(w, (uint16_t)count);
}

void message_write_value(struct writer *w, const char *text)
{
    if (text == NULL) {
        writer_u32(w, UINT32_MAX);
        return;
    }
    const size_t len = strlen(text);
    writer_u32(w, (uint32_t)len);
    writer_bytes(w, text, len);
}

void message_write_number(struct writer *w, int64_t number)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)number);
    message_write_value(w, text);
}

void message_write_complete(struct writer *w, const char *tag)
{
    writer_begin(w, 'C');
    writer_cstr(w, tag);
    writer_end(w);
}

void message_write_empty(struct writer *w)
{
    writer_begin(w, 'I');
    writer_end(w);
}

void message_write_parameter(struct writer *w, const char *name, const char *value)
{
    writer_begin(w, 'S');
    writer_cstr(w, name);
    writer_cstr(w, value);
    writer_end(w);
}

void message_write_negotiation(struct writer *w, uint32_t version)
{
    writer_begin(w, 'v');
    writer_u32(w, version);
    writer_u32(w, 0);
    writer_end(w);
}

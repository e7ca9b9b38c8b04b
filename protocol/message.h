/*
 * The messages the proxy looks into or makes itself (PostgreSQL documentation, "Message Formats"
 * and "Error and Notice Message Fields"). Readers borrow the message's bytes, which begin at its
 * type.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/bytes.h"

struct message_parse {
    struct span name;
    struct span query;
    uint16_t type_count;
    const uint8_t *types; /* type_count big-endian words */
};

/* False when the message is malformed: the server will say so (08P01). */
bool message_read_query(const uint8_t *message, size_t size, struct span *query);
bool message_read_parse(const uint8_t *message, size_t size, struct message_parse *out);
/* The portal that a Bind makes, and the statement that it names. */
bool message_read_bind(const uint8_t *message, size_t size, struct span *portal,
                       struct span *statement);
/* The values that a Bind has for its parameters, one after the other. */
struct message_values {
    const uint8_t *formats, *at, *end;
    uint16_t format_count, count, next;
};
struct message_value {
    struct span bytes;
    bool is_null, is_binary;
};
/* False when the message is malformed, or not whole. */
bool message_read_values(const uint8_t *message, size_t size, struct message_values *out);
/* False behind the last one. */
bool message_next_value(struct message_values *values, struct message_value *out);
/* The values of a DataRow, likewise; all of them in text's format. */
bool message_read_row(const uint8_t *message, size_t size, struct message_values *out);
/* The portal that an Execute runs. */
bool message_read_portal(const uint8_t *message, size_t size, struct span *portal);
/* The statement that a Close ends or a Describe is about; false also when it is a portal. */
bool message_read_close(const uint8_t *message, size_t size, struct span *statement);

struct message_parameter {
    struct span name, value;
};
bool message_read_parameter_status(const uint8_t *message, size_t size,
                                   struct message_parameter *out);

/* Fields of an ErrorResponse or NoticeResponse; NULL where absent. */
struct message_error {
    const char *severity;      /* S, localised */
    const char *severity_code; /* V: ERROR, FATAL, PANIC, ... */
    const char *sqlstate;      /* C */
    const char *message;       /* M */
    const char *detail;        /* D */
    const char *hint;          /* H */
    const char *position;      /* P, in characters of the query from 1 */
};
bool message_read_error(const uint8_t *message, size_t size, struct message_error *out);

void message_write_error(struct writer *w, const struct message_error *error);
/* The ErrorResponse or NoticeResponse `message` with another position; NULL: with none. Only of one
 * that message_read_error() can read. */
void message_write_moved(struct writer *w, const uint8_t *message, size_t size,
                         const char *position);
void message_write_ready(struct writer *w, char status);
void message_write_query(struct writer *w, const char *text, size_t len);
/* Only what stands before a text of `len` bytes; the text and its NUL follow from elsewhere. */
void message_begin_query(struct writer *w, size_t len);
void message_write_close(struct writer *w, struct span statement);
void message_write_parse(struct writer *w, struct span name, const char *text, size_t len,
                         const uint32_t *types, size_t type_count);
/* A batch of its own that runs one text without parameters and has its rows as text: Close, Parse,
 * Bind, Execute, Close and Sync. All under `name`, so that the unnamed statement stays. */
void message_write_batch(struct writer *w, const char *name, const char *text);

/* What only a server sends. */
enum message_type { MESSAGE_TEXT = 25, MESSAGE_INT8 = 20 }; /* OIDs of pg_type */
struct message_column {
    const char *name;
    enum message_type type;
};
/* RowDescription, of columns in text's format that are no table's. */
void message_write_columns(struct writer *w, const struct message_column *columns, size_t count);
/* A DataRow: `count` values follow, and writer_end(). */
void message_begin_row(struct writer *w, size_t count);
void message_write_value(struct writer *w, const char *text); /* NULL: NULL */
void message_write_number(struct writer *w, int64_t number);
void message_write_complete(struct writer *w, const char *tag);
void message_write_empty(struct writer *w); /* EmptyQueryResponse */
void message_write_parameter(struct writer *w, const char *name, const char *value);
/* NegotiateProtocolVersion: that version, and no options that it does not know. */
void message_write_negotiation(struct writer *w, uint32_t version);

/*
 * What the formats of COPY share while a piece of a stream is looked at: the cursor, the runs that
 * go out, the values that are noted, and, for text and CSV, lines and their ends. Used by
 * copy_filter.c and copy_text.c, copy_csv.c, copy_binary.c.
 */
#pragma once

#include "rules/copy_filter.h"

/* One machine for each format; all of them can be in the first two states.
 *
 *   text    FIELD -> ESCAPE, TRAIL, CARRIAGE -> FIELD
 *   CSV     START -> BACKSLASH -> MARKER -> FIELD -> QUOTED -> QUOTED_ESCAPE, TRAIL, CARRIAGE
 *   binary  HEADER -> EXTENSION -> COUNT -> LENGTH -> DATA -> LENGTH, COUNT
 */
enum copy_state {
    COPY_STATE_PASS,          /* whatever comes goes out: the server ignores or refuses it */
    COPY_STATE_DEAD,          /* nothing goes out any more: the server fails by what has */
    COPY_STATE_FIELD,         /* in a field, outside of quotes */
    COPY_STATE_TRAIL,         /* in a character whose bytes may look like ASCII */
    COPY_STATE_CARRIAGE,      /* behind a CR that ended a line, perhaps with a LF */
    COPY_STATE_ESCAPE,        /* text: behind a backslash, which has not gone out */
    COPY_STATE_START,         /* CSV: what goes out now is the start of a line */
    COPY_STATE_BACKSLASH,     /* CSV: behind a backslash there, which has not gone out */
    COPY_STATE_MARKER,        /* CSV: behind \. there, which has not gone out */
    COPY_STATE_QUOTED,        /* CSV: in quotes */
    COPY_STATE_QUOTED_ESCAPE, /* CSV: behind an escape there */
    COPY_STATE_HEADER,        /* binary: signature, flags, length of the extension */
    COPY_STATE_EXTENSION,
    COPY_STATE_COUNT,  /* binary: a row's field count */
    COPY_STATE_LENGTH, /* binary: a field's length */
    COPY_STATE_DATA,
};

/* The first line decides, as in PostgreSQL. */
enum copy_line_end {
    COPY_LINE_END_UNKNOWN,
    COPY_LINE_END_LF,
    COPY_LINE_END_CR,
    COPY_LINE_END_CRLF,
};

/* At most so many go out in one. */
enum { COPY_RUNS_OF_A_STEP = 4 };

struct copy_cursor {
    struct copy_filter *filter;
    const char *at, *end;
    const char *run; /* where the bytes that go out begin; NULL: these do not */
    struct copy_run *runs;
    size_t count;
};

/* Of the current field. */
bool copy_is_removed(const struct copy_filter *f);

/* The bytes up to `end` go out; those behind it do not, until c->run is set. */
void copy_close_run(struct copy_cursor *c, const char *end);
/* Bytes that are not in the piece go out, behind copy_close_run(). They must not change. */
void copy_write(struct copy_cursor *c, const char *bytes, size_t len);
/* All bytes from `from` on go out. */
void copy_pass(struct copy_cursor *c, const char *from);

/* Of four bytes, and perhaps those from 0x80 on. */
struct copy_set copy_set_of(const char bytes[4], bool has_high);
/* The first byte of [at, end) that belongs to the set; `end` when there is none. */
const char *copy_find(const char *at, const char *end, const struct copy_set *set);

/* A value of interest begins, ends at `at`. */
void copy_capture_begin(struct copy_filter *f, const char *at);
void copy_capture_end(struct copy_filter *f, const char *at);
/* The last byte of the piece before was not the open value's. */
void copy_capture_take_back(struct copy_filter *f);
void copy_captured(struct copy_filter *f, size_t index, struct copy_value *value);
/* The row is whole. */
void copy_report_row(struct copy_filter *f);
/* At the end of a row or header that the server may take: the bytes up to `end` go out, and behind
 * them its key or that column's name. False when the value is not certain, and all is over. */
bool copy_write_key(struct copy_cursor *c, const char *end, bool is_header);

/* text, CSV: takes the line that begins at the cursor when it is whole, and plain but for its
 * delimiters; false leaves it to the machines. The filter's init calls the other one. */
bool copy_plain_line(struct copy_cursor *c);
void copy_plain_init(struct copy_filter *f);

/* text, CSV: the bytes up to `at` are plain bytes of a field. */
void copy_plain_until(struct copy_cursor *c, const char *at);
/* At a delimiter. */
void copy_delimiter(struct copy_cursor *c);
/* At a CR or LF that stands outside of quotes. */
void copy_line_end(struct copy_cursor *c);
/* Behind a CR. */
void copy_carriage(struct copy_cursor *c);
void copy_begin_line(struct copy_cursor *c);
/* The fields up to `at` are a row, or the header: true when the server must not take it. A data row
 * that it may take is reported. */
bool copy_is_bad_row(struct copy_filter *f, const char *at);
/* The same, and what has to go out at `end` for it: its key, or what makes the server refuse it.
 * False when all is over. */
bool copy_end_row(struct copy_cursor *c, const char *end);
/* Nothing more goes out but what makes the server fail. */
void copy_poison(struct copy_cursor *c);
/* At the end of the stream, behind the last byte. */
void copy_finish_line(struct copy_cursor *c);
/* Bytes behind the first one, `lead`, of a character that may have bytes like ASCII. */
uint32_t copy_trail_len(enum copy_encoding encoding, char lead);
/* At the first byte of such a character; behind it. */
void copy_lead(struct copy_cursor *c);
void copy_trail(struct copy_cursor *c);
/* At the end of the stream: true when it ends within such a character, which the server refuses. */
bool copy_finish_character(struct copy_cursor *c);

/* One step of each machine: takes at least one byte or changes the state, and lets at most four
 * runs go out. */
void copy_text_init(struct copy_filter *f);
void copy_text_step(struct copy_cursor *c);
void copy_text_finish(struct copy_cursor *c);
void copy_csv_init(struct copy_filter *f);
void copy_csv_step(struct copy_cursor *c);
void copy_csv_finish(struct copy_cursor *c);
void copy_binary_init(struct copy_filter *f);
void copy_binary_step(struct copy_cursor *c);
void copy_binary_finish(struct copy_cursor *c);

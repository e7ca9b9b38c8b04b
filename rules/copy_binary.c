/*
 * COPY's binary format: a header, and rows of a field count and for each field a length and so many
 * bytes. What goes out of a row has another count. Called by copy_filter.c; owns nothing.
 */
#include "rules/copy_row.h"

#include <string.h>

static const char signature[] = "PGCOPY\n\377\r\n"; /* 11 bytes with its NUL */

enum {
    FLAGS_AT = sizeof signature,
    EXTENSION_AT = FLAGS_AT + 4,
    HEADER_LEN = EXTENSION_AT + 4,
};

static void put_count(char *at, uint32_t count)
{
    at[0] = (char)(count >> 8);
    at[1] = (char)(count & 0xff);
}

void copy_binary_init(struct copy_filter *f)
{
    put_count(f->kept_count, f->kept);
    f->state = COPY_STATE_HEADER;
}

static void begin_row(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    copy_close_run(c, c->at);
    f->state = COPY_STATE_COUNT;
    f->word_len = 0;
    for (size_t i = 0; i < f->options.field_count; i++) {
        f->captures[i].is_there = f->captures[i].is_open = false;
    }
}

/* The header goes out as it is. One that is not PostgreSQL's is refused by the server; one with a
 * critical flag too, but for PostgreSQL 11's OIDs, with which the rows are refused. */
static void header(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    const size_t at = f->word_len++;
    const unsigned char byte = (unsigned char)*c->at++;
    if (at < FLAGS_AT) {
        if (byte != (unsigned char)signature[at]) {
            copy_pass(c, c->at);
        }
    } else if (at < EXTENSION_AT) {
        if (byte != 0 && at < FLAGS_AT + 2) {
            copy_pass(c, c->at);
        }
    } else {
        f->remaining = f->remaining << 8 | byte;
    }
    if (f->state == COPY_STATE_PASS || f->word_len < HEADER_LEN) {
        return;
    }
    if (f->remaining > INT32_MAX) {
        copy_pass(c, c->at);
    } else if (f->remaining > 0) {
        f->state = COPY_STATE_EXTENSION;
    } else {
        begin_row(c);
    }
}

/* Steps over bytes of which `remaining` are left; true at the last. */
static bool step_over(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    const size_t here = (size_t)(c->end - c->at);
    const size_t step = f->remaining < here ? f->remaining : here;
    c->at += step;
    f->remaining -= (uint32_t)step;
    return f->remaining == 0;
}

/* Collects the bytes of an integer; true when there are `len`. */
static bool collect(struct copy_cursor *c, size_t len)
{
    struct copy_filter *f = c->filter;
    while (f->word_len < len && c->at < c->end) {
        f->word[f->word_len++] = *c->at++;
    }
    return f->word_len == len;
}

static uint32_t read_word(const char *at, size_t len)
{
    uint32_t value = 0;
    for (size_t i = 0; i < len; i++) {
        value = value << 8 | (unsigned char)at[i];
    }
    return value;
}

/* c->run is set for the bytes of the current field. */
static void begin_field(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    f->state = COPY_STATE_LENGTH;
    f->word_len = 0;
    if (copy_is_removed(f)) {
        copy_close_run(c, c->at);
    } else if (c->run == NULL) {
        c->run = c->at;
    }
}

static void field_count(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    if (!collect(c, 2)) {
        return;
    }
    const uint32_t count = read_word(f->word, 2);
    if (count != f->options.width) {
        /* The end of the data, or a row that the server refuses. */
        if (count == f->kept) {
            put_count(f->word, f->options.width);
        }
        copy_write(c, f->word, 2);
        copy_pass(c, c->at);
        return;
    }
    copy_write(c, f->kept_count, 2);
    f->field = 0;
    f->next = 0;
    begin_field(c);
}

static void end_field(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    copy_capture_end(f, c->at);
    f->field++;
    if (f->next < f->options.field_count && f->options.fields[f->next].index < f->field) {
        f->next++;
    }
    if (f->field < f->options.width) {
        begin_field(c);
        return;
    }
    copy_report_row(f);
    if (copy_write_key(c, c->at, false)) {
        begin_row(c);
    }
}

static void field_length(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    if (f->word_len == 0 && c->end - c->at >= 4) {
        memcpy(f->word, c->at, 4);
        c->at += 4;
    } else if (!collect(c, 4)) {
        return;
    }
    const uint32_t len = read_word(f->word, 4);
    const bool is_null = len == UINT32_MAX;
    if (len > INT32_MAX && !is_null) {
        /* The server refuses the length; behind the row's last field that stays it reads the same
         * bytes as a field count below zero, and refuses what follows. */
        if (c->run == NULL) {
            copy_write(c, f->word, 4);
        }
        copy_pass(c, c->at);
        return;
    }
    copy_capture_begin(f, c->at);
    if (f->next < f->options.field_count && f->captures[f->next].is_open) {
        f->captures[f->next].is_null = is_null;
    }
    f->remaining = is_null ? 0 : len;
    f->state = COPY_STATE_DATA;
    if (step_over(c)) {
        end_field(c);
    }
}

void copy_binary_step(struct copy_cursor *c)
{
    switch (c->filter->state) {
    case COPY_STATE_HEADER:
        header(c);
        break;
    case COPY_STATE_EXTENSION:
        if (step_over(c)) {
            begin_row(c);
        }
        break;
    case COPY_STATE_COUNT:
        field_count(c);
        break;
    case COPY_STATE_LENGTH:
        field_length(c);
        break;
    case COPY_STATE_DATA:
        if (step_over(c)) {
            end_field(c);
        }
        break;
    default:
        c->at = c->end;
        break;
    }
}

/* Without its last fields a row that breaks off in them would be whole. A row of no fields is what
 * the server refuses. */
void copy_binary_finish(struct copy_cursor *c)
{
    const struct copy_filter *f = c->filter;
    const bool is_in_row = f->state == COPY_STATE_LENGTH || f->state == COPY_STATE_DATA;
    if (is_in_row && f->field >= f->options.width - f->trailing) {
        copy_write(c, "\0", 2);
    }
}

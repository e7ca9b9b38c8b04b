/*
 * COPY's CSV format: fields between delimiters, in quotes where they hold one or a line end. Up to
 * PostgreSQL 17 a line of only \. ends the data, so that no line may become one by what was removed
 * from it: two quotes in front make it a value. Called by copy_filter.c; owns nothing.
 */
#include "rules/copy_row.h"

static const char marker[] = "\\.";

void copy_csv_init(struct copy_filter *f)
{
    const struct copy_options *o = &f->options;
    const bool has_pairs = o->encoding != COPY_ENCODING_ASCII_SAFE;
    f->in_fields = copy_set_of((char[4]){o->delimiter, o->quote, '\n', '\r'}, has_pairs);
    f->in_line = copy_set_of((char[4]){o->quote, o->quote, '\n', '\r'}, has_pairs);
    f->in_quotes = copy_set_of((char[4]){o->quote, o->quote, o->quote, o->escape}, has_pairs);
    f->is_header = o->header != COPY_HEADER_NONE;
    copy_plain_init(f);
    struct copy_cursor c = {.filter = f};
    copy_begin_line(&c);
}

static void field(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    const bool is_counting = f->field < f->interest;
    copy_plain_until(c, copy_find(c->at, c->end, is_counting ? &f->in_fields : &f->in_line));
    if (c->at == c->end) {
        return;
    }
    const char byte = *c->at;
    if (byte == f->options.delimiter && is_counting) {
        copy_delimiter(c);
        if (f->field == f->leading && !copy_is_removed(f)) {
            f->state = COPY_STATE_START;
        }
    } else if (byte == f->options.quote) {
        copy_plain_until(c, c->at + 1);
        f->state = COPY_STATE_QUOTED;
    } else if (byte == '\n' || byte == '\r') {
        copy_line_end(c);
    } else {
        copy_lead(c);
    }
}

/* Two quotes in quotes are one; to leave the quotes and enter them again comes to the same. */
static void quoted(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    copy_plain_until(c, copy_find(c->at, c->end, &f->in_quotes));
    if (c->at == c->end) {
        return;
    }
    if (*c->at == f->options.quote) {
        f->state = COPY_STATE_FIELD;
        copy_plain_until(c, c->at + 1);
    } else if (*c->at == f->options.escape) {
        f->state = COPY_STATE_QUOTED_ESCAPE;
        copy_plain_until(c, c->at + 1);
    } else {
        copy_lead(c);
    }
}

static void quoted_escape(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    f->state = COPY_STATE_QUOTED;
    if (*c->at == f->options.quote || *c->at == f->options.escape) {
        copy_plain_until(c, c->at + 1);
    }
}

static void start(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    if (copy_plain_line(c)) {
        return;
    }
    f->state = COPY_STATE_FIELD;
    if (*c->at != marker[0]) {
        field(c);
        return;
    }
    copy_close_run(c, c->at);
    f->state = COPY_STATE_BACKSLASH;
    c->at++;
}

/* Bytes of the field that were held back, perhaps behind two quotes. */
static void release(struct copy_cursor *c, size_t len, bool needs_quotes)
{
    struct copy_filter *f = c->filter;
    f->state = COPY_STATE_FIELD;
    f->has_input = true;
    if (copy_is_removed(f)) {
        return;
    }
    if (needs_quotes) {
        copy_write(c, &f->options.quote, 1);
        copy_write(c, &f->options.quote, 1);
    }
    copy_write(c, marker, len);
    f->has_output = true;
    c->run = c->at;
}

static void backslash(struct copy_cursor *c)
{
    if (*c->at == marker[1]) {
        c->filter->state = COPY_STATE_MARKER;
        c->at++;
    } else {
        release(c, 1, false);
    }
}

static void behind_marker(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    const bool is_line_start = !f->has_input;
    const bool is_line_end = *c->at == '\n' || *c->at == '\r';
    if (is_line_start && is_line_end && f->options.csv_has_end_marker) {
        copy_write(c, marker, 2);
        copy_pass(c, c->at);
        return;
    }
    release(c, 2, !is_line_start || is_line_end || *c->at == f->options.delimiter);
}

void copy_csv_step(struct copy_cursor *c)
{
    switch (c->filter->state) {
    case COPY_STATE_START:
        start(c);
        break;
    case COPY_STATE_FIELD:
        field(c);
        break;
    case COPY_STATE_QUOTED:
        quoted(c);
        break;
    case COPY_STATE_QUOTED_ESCAPE:
        quoted_escape(c);
        break;
    case COPY_STATE_BACKSLASH:
        backslash(c);
        break;
    case COPY_STATE_MARKER:
        behind_marker(c);
        break;
    case COPY_STATE_TRAIL:
        copy_trail(c);
        break;
    case COPY_STATE_CARRIAGE:
        copy_carriage(c);
        break;
    default:
        c->at = c->end;
        break;
    }
}

void copy_csv_finish(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    if (f->state == COPY_STATE_CARRIAGE || copy_finish_character(c)) {
        return;
    }
    if (f->state == COPY_STATE_QUOTED || f->state == COPY_STATE_QUOTED_ESCAPE) {
        if (copy_is_removed(f)) {
            copy_poison(c);
        }
        return;
    }
    if (f->state == COPY_STATE_BACKSLASH || f->state == COPY_STATE_MARKER) {
        const bool is_marker = f->state == COPY_STATE_MARKER;
        release(c, is_marker ? 2 : 1, is_marker);
    }
    copy_finish_line(c);
}

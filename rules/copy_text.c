/*
 * COPY's text format: fields between delimiters, lines between line ends, a backslash in front of
 * what would be one, and \. as the end of the data. Called by copy_filter.c; owns nothing.
 */
#include "rules/copy_row.h"

void copy_text_init(struct copy_filter *f)
{
    const bool has_pairs = f->options.encoding != COPY_ENCODING_ASCII_SAFE;
    f->in_fields = copy_set_of((char[4]){f->options.delimiter, '\n', '\r', '\\'}, has_pairs);
    f->in_line = copy_set_of("\n\n\r\\", has_pairs);
    f->is_header = f->options.header != COPY_HEADER_NONE;
    copy_plain_init(f);
    struct copy_cursor c = {.filter = f};
    copy_begin_line(&c);
}

/* \. with its backslash at `backslash`, or in an earlier piece when that is NULL. Up to PostgreSQL
 * 17 what stands in front of it in its line is the last row; 18 refuses such a line. */
static void end_marker(struct copy_cursor *c, const char *backslash)
{
    struct copy_filter *f = c->filter;
    const char *end = backslash != NULL ? backslash : c->at;
    if (backslash == NULL) {
        copy_capture_take_back(f);
    }
    if (f->has_input) {
        const bool is_bad = copy_is_bad_row(f, end);
        if (is_bad || (!f->has_output && !f->options.key.is_there)) {
            copy_close_run(c, end);
            copy_poison(c);
            return;
        }
        if (!copy_write_key(c, end, f->is_header)) {
            return;
        }
    }
    if (backslash == NULL) {
        copy_write(c, "\\", 1);
    }
    copy_pass(c, end);
}

/* Behind a backslash: the byte at c->at has no other meaning, whatever it is. */
static void escaped(struct copy_cursor *c, const char *backslash)
{
    struct copy_filter *f = c->filter;
    if (*c->at == '.') {
        end_marker(c, backslash);
        return;
    }
    if (backslash == NULL && !copy_is_removed(f)) {
        copy_write(c, "\\", 1);
        c->run = c->at;
    }
    f->state = COPY_STATE_FIELD;
    copy_lead(c);
}

static void field(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    const bool is_counting = f->field < f->interest;
    if (copy_plain_line(c)) {
        return;
    }
    copy_plain_until(c, copy_find(c->at, c->end, is_counting ? &f->in_fields : &f->in_line));
    if (c->at == c->end) {
        return;
    }
    const char byte = *c->at;
    if (byte == f->options.delimiter && is_counting) {
        copy_delimiter(c);
    } else if (byte == '\n' || byte == '\r') {
        copy_line_end(c);
    } else if (byte != '\\') {
        copy_lead(c);
    } else if (c->at + 1 < c->end) {
        c->at++;
        escaped(c, c->at - 1);
    } else {
        /* Whether it goes out is known by the next byte. */
        copy_close_run(c, c->at);
        f->state = COPY_STATE_ESCAPE;
        c->at++;
    }
}

void copy_text_step(struct copy_cursor *c)
{
    switch (c->filter->state) {
    case COPY_STATE_FIELD:
        field(c);
        break;
    case COPY_STATE_ESCAPE:
        escaped(c, NULL);
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

void copy_text_finish(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    if (f->state == COPY_STATE_CARRIAGE || copy_finish_character(c)) {
        return;
    }
    if (f->state == COPY_STATE_ESCAPE) {
        f->has_input = true; /* as the last byte it means nothing, and may be left out */
    }
    copy_finish_line(c);
}

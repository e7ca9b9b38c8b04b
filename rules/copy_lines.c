/*
 * Lines of text and CSV: delimiters, line ends, rows with a wrong number of fields, characters
 * whose bytes may look like ASCII. What PostgreSQL decides by its whole line is decided here at the
 * byte where it becomes certain. Called by copy_text.c and copy_csv.c; owns nothing.
 */
#include "rules/copy_row.h"

#include <string.h>

void copy_plain_until(struct copy_cursor *c, const char *at)
{
    if (at > c->at) {
        c->filter->has_input = true;
        c->filter->has_output |= c->run != NULL;
        c->at = at;
    }
}

/* A delimiter goes out when it stands between two fields that do. */
void copy_delimiter(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    copy_capture_end(f, c->at);
    f->field++;
    if (f->next < f->options.field_count && f->options.fields[f->next].index < f->field) {
        f->next++;
    }
    const bool is_between = f->field > f->leading;
    if (copy_is_removed(f)) {
        copy_close_run(c, c->at);
    } else {
        if (c->run == NULL) {
            c->run = is_between ? c->at : c->at + 1;
        }
        f->has_output |= is_between;
    }
    f->has_input = true;
    c->at++;
    copy_capture_begin(f, c->at);
}

void copy_begin_line(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    const bool is_ignored = f->is_header && f->options.header == COPY_HEADER_IGNORED;
    f->has_input = f->has_output = false;
    f->field = is_ignored ? f->interest : 0;
    f->next = is_ignored ? f->options.field_count : 0;
    f->state = f->options.format == COPY_FORMAT_CSV ? COPY_STATE_START : COPY_STATE_FIELD;
    if (copy_is_removed(f)) {
        copy_close_run(c, c->at);
    } else if (c->run == NULL) {
        c->run = c->at;
    }
    for (size_t i = 0; i < f->options.field_count; i++) {
        f->captures[i].is_there = f->captures[i].is_open = false;
    }
    copy_capture_begin(f, c->at);
}

/* Without the removed fields, a row that is too short could have the right number: when all that it
 * lacks is removed, or when all that it has is removed and its empty line counts as one field. */
static bool is_short(const struct copy_filter *f)
{
    if (f->is_header && f->options.header == COPY_HEADER_IGNORED) {
        return false;
    }
    const uint32_t found = f->field + 1, width = f->options.width;
    if (f->options.key.is_there) {
        return found < f->interest; /* and with a key behind it, it could have the right number */
    }
    return (found < width && found >= width - f->trailing) || (found <= f->leading && f->kept == 1);
}

static bool is_ascii(const char *text)
{
    while (*text != '\0' && (unsigned char)*text < 0x80) {
        text++;
    }
    return *text == '\0';
}

/* A name of a header that goes away must be the column's all the same. */
static bool has_other_names(struct copy_filter *f)
{
    for (size_t i = 0; i < f->options.field_count; i++) {
        const struct copy_field *field = &f->options.fields[i];
        struct copy_value value;
        char room[COPY_NAME_MAX];
        struct copy_run name;
        if (field->stays || field->name[0] == '\0' || !is_ascii(field->name)) {
            continue;
        }
        copy_captured(f, i, &value);
        if (copy_value_plain(&f->options, &value, room, sizeof room, &name) != COPY_PLAIN_VALUE ||
            name.len != strlen(field->name) || memcmp(name.bytes, field->name, name.len) != 0) {
            return true;
        }
    }
    return false;
}

bool copy_is_bad_row(struct copy_filter *f, const char *at)
{
    copy_capture_end(f, at);
    const bool is_matched = f->is_header && f->options.header == COPY_HEADER_MATCHED;
    const bool is_bad = is_short(f) || (is_matched && has_other_names(f));
    if (!is_bad && !f->is_header) {
        copy_report_row(f);
    }
    return is_bad;
}

bool copy_end_row(struct copy_cursor *c, const char *end)
{
    struct copy_filter *f = c->filter;
    const bool is_header = f->is_header;
    const bool is_bad = copy_is_bad_row(f, end);
    f->is_header = false;
    if (!is_bad) {
        return copy_write_key(c, end, is_header);
    }
    if (!f->options.key.is_there) {
        copy_close_run(c, end);
        copy_write(c, &f->options.delimiter,
                   1); /* a field too many; of the key there is one less */
    }
    return true;
}

void copy_poison(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    if (f->options.format == COPY_FORMAT_CSV) {
        copy_write(c, &f->options.quote, 1); /* it never ends */
    } else {
        copy_write(c, "\\.x", 3); /* a broken end marker */
    }
    c->at = c->end;
    f->state = COPY_STATE_DEAD;
}

/* A line end of another kind than the first one. The server complains when it sees it; behind a CR
 * it would be taken for a part of that. */
static void refuse_line_end(struct copy_cursor *c)
{
    if (c->run != NULL && c->filter->has_output) {
        copy_pass(c, c->at);
        return;
    }
    copy_close_run(c, c->at);
    copy_poison(c);
}

void copy_line_end(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    const bool is_lf = *c->at == '\n';
    if (is_lf ? f->line_end == COPY_LINE_END_CR || f->line_end == COPY_LINE_END_CRLF
              : f->line_end == COPY_LINE_END_LF) {
        refuse_line_end(c);
        return;
    }
    if (!copy_end_row(c, c->at)) {
        return;
    }
    if (c->run == NULL) {
        c->run = c->at;
    }
    c->at++;
    if (is_lf) {
        f->line_end = COPY_LINE_END_LF;
        copy_begin_line(c);
    } else if (f->line_end == COPY_LINE_END_CR) {
        copy_begin_line(c);
    } else {
        f->state = COPY_STATE_CARRIAGE;
    }
}

void copy_carriage(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    if (*c->at == '\n') {
        f->line_end = COPY_LINE_END_CRLF;
        c->at++;
    } else if (f->line_end == COPY_LINE_END_CRLF) {
        copy_pass(c, c->at); /* the server complains of the CR alone */
        return;
    } else {
        f->line_end = COPY_LINE_END_CR;
    }
    copy_begin_line(c);
}

void copy_finish_line(struct copy_cursor *c)
{
    static const char *const ends[] = {"\n", "\n", "\r", "\r\n"};
    struct copy_filter *f = c->filter;
    if (!f->has_input) {
        return;
    }
    const size_t before = c->count;
    if (copy_end_row(c, c->at) && c->count == before && !f->has_output) {
        /* Nothing at the end of the data is no row, an empty line is one. */
        copy_write(c, ends[f->line_end], strlen(ends[f->line_end]));
    }
}

uint32_t copy_trail_len(enum copy_encoding encoding, char lead)
{
    const unsigned char byte = (unsigned char)lead;
    if (byte < 0x80) {
        return 0;
    }
    switch (encoding) {
    case COPY_ENCODING_ASCII_SAFE:
        return 0;
    case COPY_ENCODING_PAIRS:
        return 1;
    case COPY_ENCODING_SJIS:
        return byte >= 0xa1 && byte <= 0xdf ? 0 : 1;
    case COPY_ENCODING_JOHAB:
        return byte == 0x8f ? 2 : 1;
    }
    return 0;
}

void copy_lead(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    f->remaining = copy_trail_len(f->options.encoding, *c->at);
    if (f->remaining > 0) {
        f->lead = *c->at;
        f->resumed = f->state;
        f->state = COPY_STATE_TRAIL;
    }
    copy_plain_until(c, c->at + 1);
}

/* No character of these encodings has a byte below "0" behind its first one. The server refuses
 * such a pair by 22021, and must see both halves of it. */
void copy_trail(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    if ((unsigned char)*c->at < '0') {
        if (c->run == NULL) {
            copy_write(c, &f->lead, 1);
        }
        copy_pass(c, c->at);
        return;
    }
    copy_plain_until(c, c->at + 1);
    f->remaining--;
    if (f->remaining == 0) {
        f->state = f->resumed;
    }
}

bool copy_finish_character(struct copy_cursor *c)
{
    const struct copy_filter *f = c->filter;
    if (f->state != COPY_STATE_TRAIL) {
        return false;
    }
    if (copy_is_removed(f)) {
        copy_write(c, &f->lead, 1);
    }
    return true;
}

/*
 * A line of text or CSV that lies whole in its piece and has no byte with a meaning but delimiters
 * and its end, as nearly all have: its ends of fields are found first, and what goes out follows
 * from them. All other lines are taken field by field, which comes to the same; the first one too,
 * which may be a header, and tells how lines end. Called by copy_text.c and copy_csv.c; owns
 * nothing.
 */
#include "rules/copy_row.h"

void copy_plain_init(struct copy_filter *f)
{
    enum { RUNS_OF_A_KEY = 3 };
    size_t runs = f->options.key.is_there ? RUNS_OF_A_KEY : 0;
    for (size_t i = 0; i < f->options.field_count; i++) {
        runs += !f->options.fields[i].stays;
    }
    f->has_plain_lines = runs <= COPY_RUNS_OF_A_STEP && f->interest <= COPY_ENDS_MAX;
}

/* In CSV what goes out may begin like the end of the data. */
static bool is_marker(const struct copy_filter *f, const char *line)
{
    const char *first = f->leading == 0 ? line : f->ends[f->leading - 1] + 1;
    return f->options.format == COPY_FORMAT_CSV && *first == '\\';
}

/* The ends of the fields that are counted; returns the line's, or NULL when the line is another. */
static const char *find_ends(const struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    const bool counts_all = f->interest == f->options.width;
    const char *at = c->at;
    for (uint32_t i = 0; i + counts_all < f->interest; i++) {
        at = copy_find(at, c->end, &f->in_fields);
        if (at == c->end || *at != f->options.delimiter) {
            return NULL;
        }
        f->ends[i] = at++;
    }
    at = copy_find(at, c->end, counts_all ? &f->in_fields : &f->in_line);
    if (at == c->end || *at != '\n') {
        return NULL;
    }
    if (counts_all) {
        f->ends[f->interest - 1] = at;
    }
    return is_marker(f, c->at) ? NULL : at;
}

/* The field does not go out, nor does one of the delimiters at its ends. */
static void leave_out(struct copy_cursor *c, uint32_t field)
{
    const struct copy_filter *f = c->filter;
    const bool is_leading = field < f->leading;
    if (field > 0) {
        copy_close_run(c, f->ends[field - 1]);
    }
    c->run = is_leading ? f->ends[field] + 1 : f->ends[field];
}

static void take_fields(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    for (size_t i = 0; i < f->options.field_count; i++) {
        const uint32_t field = f->options.fields[i].index;
        const char *from = field == 0 ? c->at : f->ends[field - 1] + 1;
        struct copy_capture *capture = &f->captures[i];
        capture->from = from;
        capture->len = (size_t)(f->ends[field] - from);
        capture->stored = 0;
        capture->is_open = capture->is_null = false;
        capture->is_there = true;
        if (!f->options.fields[i].stays) {
            leave_out(c, field);
        }
    }
}

bool copy_plain_line(struct copy_cursor *c)
{
    struct copy_filter *f = c->filter;
    if (f->has_input || !f->has_plain_lines || f->line_end != COPY_LINE_END_LF) {
        return false;
    }
    const char *end = find_ends(c);
    if (end == NULL) {
        return false;
    }
    take_fields(c);
    copy_report_row(f);
    if (!copy_write_key(c, end, false)) {
        return true;
    }
    if (c->run == NULL) {
        c->run = end;
    }
    c->at = end + 1;
    copy_begin_line(c);
    return true;
}

/*
 * A reader of the few tokens that bulk loads are made of. It gives up at anything else, which
 * leaves the text, or the rest of it, to the parser. Called by judge.c and insert.c; owns nothing.
 */
#include "rules/bulk.h"

#include <limits.h>
#include <string.h>
#include <strings.h>

enum {
    BULK_ROWS_MIN = 8,
    WIDTH_MAX = 1664, /* columns of a table */
};

struct reader {
    const char *text;
    size_t len, at;
    bool conforming;
};

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\f';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_name_part(char c)
{
    unsigned char u = (unsigned char)c;
    return (u >= 'a' && u <= 'z') || (u >= 'A' && u <= 'Z') || is_digit(c) || u == '_' || u >= 0x80;
}

/* The next byte; NUL at the end. */
static char peek(const struct reader *r)
{
    return r->text[r->at];
}

/* Mostly there is none, or one. */
static inline void skip_space(struct reader *r)
{
    while (peek(r) <= ' ' && is_space(peek(r))) {
        r->at++;
    }
}

static size_t read_word(struct reader *r)
{
    const size_t start = r->at;
    while (is_name_part(peek(r))) {
        r->at++;
    }
    return r->at - start;
}

static bool is_word(const struct reader *r, size_t len, const char *word)
{
    return strlen(word) == len && strncasecmp(r->text + r->at - len, word, len) == 0;
}

/* From the opening quote to behind the closing one. */
static bool read_quoted(struct reader *r, bool backslash_escapes)
{
    const char quote = r->text[r->at++];
    const char *end = NULL; /* the next quote, looked for once for all the escapes before it */
    for (;;) {
        if (end == NULL || end < r->text + r->at) {
            end = memchr(r->text + r->at, quote, r->len - r->at);
        }
        if (end == NULL) {
            return false;
        }
        const size_t stop = (size_t)(end - r->text);
        const char *escape = backslash_escapes ? memchr(r->text + r->at, '\\', stop - r->at) : NULL;
        if (escape != NULL) {
            r->at = (size_t)(escape - r->text) + 2;
            continue;
        }
        r->at = stop + 1;
        if (peek(r) != quote) {
            return true;
        }
        r->at++;
    }
}

static bool read_digits(struct reader *r)
{
    const size_t start = r->at;
    while (is_digit(peek(r))) {
        r->at++;
    }
    return r->at > start;
}

static bool read_number(struct reader *r)
{
    if (peek(r) == '-' || peek(r) == '+') {
        r->at++;
        skip_space(r);
    }
    bool has_digits = read_digits(r);
    if (peek(r) == '.') {
        r->at++;
        has_digits |= read_digits(r);
    }
    if (has_digits && (peek(r) == 'e' || peek(r) == 'E')) {
        r->at++;
        if (peek(r) == '-' || peek(r) == '+') {
            r->at++;
        }
        return read_digits(r);
    }
    return has_digits;
}

static bool read_literal(struct reader *r)
{
    const char c = peek(r);
    if (c == '\'') {
        /* Escapes without E'' are legal but rare; the parser knows them. */
        const size_t start = r->at;
        return read_quoted(r, false) &&
               (r->conforming || memchr(r->text + start, '\\', r->at - start) == NULL);
    }
    if (is_digit(c) || c == '-' || c == '+' || c == '.') {
        return read_number(r);
    }
    if ((c == 'E' || c == 'e') && r->text[r->at + 1] == '\'') {
        r->at++;
        return read_quoted(r, true);
    }
    const size_t len = read_word(r);
    return is_word(r, len, "null") || is_word(r, len, "true") || is_word(r, len, "false") ||
           is_word(r, len, "default");
}

/* ::name, ::schema.name, ::name[] */
static bool read_cast(struct reader *r)
{
    r->at += 2;
    skip_space(r);
    if (read_word(r) == 0) {
        return false;
    }
    if (peek(r) == '.') {
        r->at++;
        if (read_word(r) == 0) {
            return false;
        }
    }
    if (peek(r) == '[' && r->text[r->at + 1] == ']') {
        r->at += 2;
    }
    return true;
}

/* Past a value as nearly all are: a string without a quote in it, or a whole number, and right
 * behind it the comma or parenthesis. False leaves any other to be read with care. */
static inline bool skip_common_value(struct reader *r)
{
    const char *const start = r->text + r->at, *at = start;
    if (*at == '\'') {
        at = memchr(start + 1, '\'', r->len - r->at - 1);
        if (at == NULL || (!r->conforming && memchr(start, '\\', (size_t)(at - start)) != NULL)) {
            return false;
        }
        at++;
    } else {
        while (is_digit(*at)) {
            at++;
        }
    }
    if (at == start || (*at != ',' && *at != ')')) {
        return false;
    }
    r->at = (size_t)(at - r->text);
    return true;
}

static bool read_value(struct reader *r)
{
    if (skip_common_value(r)) {
        return true;
    }
    if (!read_literal(r)) {
        return false;
    }
    skip_space(r);
    while (peek(r) == ':' && r->text[r->at + 1] == ':') {
        if (!read_cast(r)) {
            return false;
        }
        skip_space(r);
    }
    return peek(r) == ',' || peek(r) == ')';
}

/* A row from its opening parenthesis on; how many values it has, 0 when it is not of the plain
 * kind. Their places go to `places`, which has room for `max` and the closing parenthesis. */
static size_t read_row(struct reader *r, int *places, size_t max)
{
    if (peek(r) != '(') {
        return 0;
    }
    for (size_t width = 0; width < max;) {
        r->at++;
        skip_space(r);
        places[width++] = (int)r->at;
        if (!read_value(r)) {
            return 0;
        }
        if (peek(r) == ')') {
            places[width] = (int)r->at++;
            return width;
        }
    }
    return 0;
}

/* INSERT INTO name (names) VALUES: up to the first row. */
static bool read_head(struct reader *r)
{
    size_t words = 0;
    bool is_in_list = false;
    for (;;) {
        skip_space(r);
        const char c = peek(r);
        if (is_name_part(c)) {
            const size_t len = read_word(r);
            if (words++ == 0 && !is_word(r, len, "insert")) {
                return false;
            }
            if (is_word(r, len, "values")) {
                skip_space(r);
                return !is_in_list && words > 2;
            }
        } else if (c == '"') {
            if (!read_quoted(r, false)) {
                return false;
            }
        } else if ((c == '(' && !is_in_list) || (c == ')' && is_in_list)) {
            is_in_list = c == '(';
            r->at++;
        } else if (c == '.' || c == ',') {
            r->at++;
        } else {
            return false;
        }
    }
}

/* The rows behind the first, as far as they are plain. */
static void read_rows(struct bulk *bulk, struct arena *arena, struct reader *r)
{
    const size_t stride = bulk->width + 1;
    int *places = NULL;
    size_t capacity = 0;
    for (;;) {
        places = arena_grow(arena, places, bulk->rows, &capacity, stride * sizeof *places);
        skip_space(r);
        if (peek(r) != ',') {
            break;
        }
        r->at++;
        skip_space(r);
        if (read_row(r, places + bulk->rows * stride, bulk->width) != bulk->width) {
            break;
        }
        bulk->rows++;
        bulk->cut_to = r->at;
    }
    bulk->places = places;
}

bool bulk_shorten(struct bulk *bulk, struct arena *arena, const char *text, size_t len,
                  bool standard_conforming_strings)
{
    struct reader r = {.text = text, .len = len, .conforming = standard_conforming_strings};
    *bulk = (struct bulk){.text = text, .len = len};
    if (len < BULK_BYTES_MIN || len > INT_MAX || !read_head(&r)) {
        return false;
    }
    int *first = arena_alloc(arena, (WIDTH_MAX + 1) * sizeof *first);
    bulk->width = read_row(&r, first, WIDTH_MAX);
    if (bulk->width == 0) {
        return false;
    }
    bulk->cut_from = r.at;
    read_rows(bulk, arena, &r);
    if (bulk->rows < BULK_ROWS_MIN) {
        return false;
    }
    bulk->short_len = bulk->cut_from + (len - bulk->cut_to);
    char *shorter = arena_alloc(arena, bulk->short_len + 1);
    memcpy(shorter, text, bulk->cut_from);
    memcpy(shorter + bulk->cut_from, text + bulk->cut_to, len - bulk->cut_to + 1);
    bulk->short_text = shorter;
    return true;
}

size_t bulk_count_values(const struct bulk *bulk, size_t position)
{
    size_t count = 0;
    for (size_t row = 0; row < bulk->rows; row++) {
        /* No other literal begins like DEFAULT. */
        count += (bulk->text[bulk->places[row * (bulk->width + 1) + position]] | 0x20) != 'd';
    }
    return count;
}

/* The whole text while it grows. */
struct growth {
    const struct bulk *bulk;
    char *text, *to;
    struct kept_list *kept;
};

/* The client's bytes from `from` on, up to `end`. */
static void keep(struct growth *growth, size_t from, size_t end)
{
    kept_add(growth->kept, (struct kept_text){from, end, (size_t)(growth->to - growth->text)});
    growth->to = mempcpy(growth->to, growth->bulk->text + from, end - from);
}

/* A row's values but for the dropped ones; `from` is the first byte not yet copied. */
static void restore_row(struct growth *growth, size_t from, const int *places, const bool *drop)
{
    const struct bulk *bulk = growth->bulk;
    for (size_t i = 0; i < bulk->width; i++) {
        if (!drop[i]) {
            continue;
        }
        size_t next = i;
        while (next < bulk->width && drop[next]) {
            next++;
        }
        size_t start = (size_t)places[i];
        if (next == bulk->width) {
            /* The last ones go with the comma in front of them. */
            do {
                start--;
            } while (bulk->text[start] != ',');
        }
        keep(growth, from, start);
        from = (size_t)places[next];
        i = next;
    }
    keep(growth, from, (size_t)places[bulk->width] + 1);
}

static void restore_defaults(struct growth *growth, size_t from, const int *places)
{
    const size_t width = growth->bulk->width;
    keep(growth, from, (size_t)places[0]);
    for (size_t i = 0; i < width; i++) {
        growth->to = stpcpy(growth->to, i == 0 ? "DEFAULT" : ", DEFAULT");
    }
    keep(growth, (size_t)places[width], (size_t)places[width] + 1);
}

/* What the edits kept of the short text, in front of the cut or behind it, as a part of the whole.
 */
static void add_kept(const struct growth *growth, const struct bulk_edited *edited, bool behind)
{
    const struct bulk *bulk = growth->bulk;
    const size_t cut = behind ? bulk->cut_to - bulk->cut_from : 0;
    const size_t added = behind ? (size_t)(growth->to - growth->text) - edited->at : 0;
    for (size_t i = 0; i < edited->kept_count; i++) {
        struct kept_text piece = edited->kept[i];
        if (behind && piece.from < bulk->cut_from && piece.to >= bulk->cut_from) {
            piece.at += bulk->cut_from - piece.from;
            piece.from = bulk->cut_from;
        } else if (!behind && piece.from <= bulk->cut_from && piece.to > bulk->cut_from) {
            piece.to = bulk->cut_from;
        }
        if (behind ? piece.from >= bulk->cut_from : piece.to <= bulk->cut_from) {
            kept_add(growth->kept,
                     (struct kept_text){piece.from + cut, piece.to + cut, piece.at + added});
        }
    }
}

/* Where a value ends; between it and the next one is a comma. */
static size_t value_end(const struct bulk *bulk, const int *places, size_t position)
{
    size_t end = (size_t)places[position + 1];
    if (position + 1 < bulk->width) {
        do {
            end--;
        } while (bulk->text[end] != ',');
    }
    while (is_space(bulk->text[end - 1])) {
        end--;
    }
    return end;
}

static char *write_value(const struct bulk *bulk, char *to, const int *places, size_t position)
{
    const char *value = bulk->text + places[position];
    /* No other literal begins like DEFAULT. */
    return (*value | 0x20) == 'd'
               ? stpcpy(to, "NULL")
               : mempcpy(to, value, value_end(bulk, places, position) - (size_t)places[position]);
}

/* A row with another value in the key's place, or one more; `from` as above. */
static void restore_with_key(struct growth *growth, size_t from, const int *places,
                             const struct bulk_edit *edit)
{
    const struct bulk *bulk = growth->bulk;
    const bool is_added = edit->key == bulk->width;
    const size_t start = (size_t)places[edit->key];
    keep(growth, from, start);
    if (is_added) {
        growth->to = stpcpy(growth->to, ", ");
    }
    for (size_t i = 0; i < edit->piece_count; i++) {
        growth->to = stpcpy(growth->to, edit->pieces[i].text);
        if (edit->pieces[i].value != SIZE_MAX) {
            growth->to = write_value(bulk, growth->to, places, edit->pieces[i].value);
        }
    }
    keep(growth, is_added ? start : value_end(bulk, places, edit->key),
         (size_t)places[bulk->width] + 1);
}

static bool drops_all(const struct bulk *bulk, const struct bulk_edit *edit)
{
    return edit->drop != NULL && memchr(edit->drop, false, bulk->width) == NULL;
}

static void restore(struct growth *growth, size_t from, const int *places,
                    const struct bulk_edit *edit)
{
    if (edit->piece_count > 0) {
        restore_with_key(growth, from, places, edit);
    } else if (drops_all(growth->bulk, edit)) {
        restore_defaults(growth, from, places);
    } else {
        restore_row(growth, from, places, edit->drop);
    }
}

/* How much longer the rows become at most. */
static size_t room_to_grow(const struct bulk *bulk, const struct bulk_edit *edit)
{
    size_t row = 0, repeated = 0;
    if (edit == NULL) {
        return 0;
    }
    if (drops_all(bulk, edit)) {
        row = bulk->width * sizeof ", DEFAULT";
    }
    for (size_t i = 0; i < edit->piece_count; i++) {
        row += strlen(edit->pieces[i].text) + sizeof ", NULL";
        repeated += edit->pieces[i].value != SIZE_MAX;
    }
    return bulk->rows * row + repeated * (bulk->cut_to - bulk->cut_from);
}

const char *bulk_restore(const struct bulk *bulk, struct arena *arena,
                         const struct bulk_edited *edited, const struct bulk_edit *edit,
                         size_t *len, struct kept_list *kept)
{
    const size_t cut = bulk->cut_to - bulk->cut_from;
    char *text = arena_alloc(arena, edited->len + cut + room_to_grow(bulk, edit) + 1);
    struct growth growth = {.bulk = bulk, .text = text, .kept = kept};
    growth.to = mempcpy(text, edited->text, edited->at);
    add_kept(&growth, edited, false);
    size_t from = bulk->cut_from;
    for (size_t row = 0; edit != NULL && row < bulk->rows; row++) {
        const int *places = bulk->places + row * (bulk->width + 1);
        restore(&growth, from, places, edit);
        from = (size_t)places[bulk->width] + 1;
    }
    keep(&growth, from, bulk->cut_to);
    add_kept(&growth, edited, true);
    growth.to = mempcpy(growth.to, edited->text + edited->at, edited->len - edited->at + 1);
    *len = (size_t)(growth.to - text) - 1;
    return text;
}

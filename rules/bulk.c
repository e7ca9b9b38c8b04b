/*
 * A reader of the few tokens that bulk loads are made of. It gives up at anything else, which
 * leaves the text, or the rest of it, to the parser. Called by judge.c and insert.c; owns nothing.
 */
#include "rules/bulk.h"

#include "rules/lanes.h"

#include <ctype.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

enum {
    BULK_ROWS_MIN = 8,
    WIDTH_MAX = 1664, /* columns of a table */
    ROWS_EXPECTED_MAX = 4096,
};

/* Bytes that are searched for quotes at once. */
enum { BLOCK = 4 * LANES };

struct reader {
    const char *text; /* ends with a NUL at `len` */
    size_t len, at;
    bool conforming;
    const char *last; /* what the last whole block leaves over, made one with NULs */
    size_t block;     /* where the block starts whose quotes are known; a multiple of its size */
    uint64_t quotes;  /* bit n: its byte n is one */
    lanes seen;       /* all bytes of the blocks so far, laid over each other */
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

static inline void read_block(struct reader *r, size_t block)
{
    const lanes quote = (lanes){0} + '\'';
    const char *at = r->len - block < BLOCK ? r->last : r->text + block;
    const lanes a = lanes_load(at), b = lanes_load(at + LANES), c = lanes_load(at + 2 * LANES),
                d = lanes_load(at + 3 * LANES);
    r->block = block;
    r->quotes = (uint64_t)lanes_mask((lanes)(a == quote)) |
                (uint64_t)lanes_mask((lanes)(b == quote)) << LANES |
                (uint64_t)lanes_mask((lanes)(c == quote)) << 2 * LANES |
                (uint64_t)lanes_mask((lanes)(d == quote)) << 3 * LANES;
    r->seen |= a | b | c | d;
}

/* The place of the next quote from `at` on, which is at most the end; false when there is none. */
static inline bool find_quote(struct reader *r, size_t at, size_t *quote)
{
    if (at / BLOCK != r->block / BLOCK) {
        read_block(r, at / BLOCK * BLOCK);
    }
    uint64_t quotes = r->quotes >> at % BLOCK << at % BLOCK;
    while (quotes == 0) {
        if (r->len - r->block <= BLOCK) {
            return false;
        }
        read_block(r, r->block + BLOCK);
        quotes = r->quotes;
    }
    *quote = r->block + (size_t)__builtin_ctzll(quotes);
    return true;
}

/* From the opening quote to behind the closing one, in text where a backslash is nothing special.
 */
static inline bool read_string(struct reader *r)
{
    size_t at = r->at;
    do {
        if (!find_quote(r, at + 1, &at)) {
            return false;
        }
        at++;
    } while (r->text[at] == '\'');
    r->at = at;
    return true;
}

static bool read_quoted_name(struct reader *r)
{
    do {
        const char *end = memchr(r->text + r->at + 1, '"', r->len - r->at - 1);
        if (end == NULL) {
            return false;
        }
        r->at = (size_t)(end - r->text) + 1;
    } while (peek(r) == '"');
    return true;
}

/* Digits in base 8 or 16, at most `max`; how many. */
static size_t read_code(const char *at, size_t max, int base, uint32_t *code)
{
    size_t count = 0;
    *code = 0;
    for (; count < max && isxdigit((unsigned char)at[count]); count++) {
        const char c = at[count];
        const int digit = is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10;
        if (digit >= base) {
            break;
        }
        *code = *code * (uint32_t)base + (uint32_t)digit;
    }
    return count;
}

/* Past a backslash in E'' and what belongs to it. False for what the server may refuse: a NUL, half
 * a character, a code point that is none; and for halves of a surrogate pair, which belong
 * together.
 */
static bool read_escape(struct reader *r)
{
    const char *at = r->text + r->at + 1;
    uint32_t code;
    size_t digits;
    switch (*at) {
    case 'u':
    case 'U':
        digits = *at == 'u' ? 4 : 8;
        r->at += 2 + digits;
        return read_code(at + 1, digits, 16, &code) == digits && code > 0 && code <= 0x10ffff &&
               (code < 0xd800 || code > 0xdfff);
    case 'x':
        digits = read_code(at + 1, 2, 16, &code);
        r->at += 2 + digits;
        return digits == 0 || (code > 0 && code < 0x80);
    default:
        digits = read_code(at, 3, 8, &code);
        r->at += digits == 0 ? 2 : 1 + digits;
        return digits == 0 || ((code & 0xff) > 0 && (code & 0xff) < 0x80);
    }
}

/* From the opening quote of E'' to behind the closing one. */
static bool read_escaped(struct reader *r)
{
    size_t quote = r->at++; /* the next one, looked for once for all the escapes before it */
    for (;;) {
        if (quote < r->at && !find_quote(r, r->at, &quote)) {
            return false;
        }
        const char *escape = memchr(r->text + r->at, '\\', quote - r->at);
        if (escape != NULL) {
            r->at = (size_t)(escape - r->text);
            if (!read_escape(r)) {
                return false;
            }
            continue;
        }
        r->at = quote + 1;
        if (peek(r) != '\'') {
            return true;
        }
        r->at++;
    }
}

static inline bool read_digits(struct reader *r)
{
    const size_t start = r->at;
    if (r->len - r->at >= LANES) {
        const lanes offsets = lanes_load(r->text + r->at) - '0';
        const unsigned others = lanes_mask((lanes)(offsets > 9));
        if (others != 0) {
            r->at += (unsigned)__builtin_ctz(others);
            return r->at > start;
        }
        r->at += LANES;
    }
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

static inline bool read_literal(struct reader *r)
{
    const char c = peek(r);
    if (c == '\'') {
        /* Escapes without E'' are legal but rare; the parser knows them. */
        const size_t start = r->at;
        return read_string(r) &&
               (r->conforming || memchr(r->text + start, '\\', r->at - start) == NULL);
    }
    if (is_digit(c) || c == '-' || c == '+' || c == '.') {
        return read_number(r);
    }
    if ((c == 'E' || c == 'e') && r->text[r->at + 1] == '\'') {
        r->at++;
        return read_escaped(r);
    }
    const size_t len = read_word(r);
    return is_word(r, len, "null") || is_word(r, len, "true") || is_word(r, len, "false") ||
           is_word(r, len, "default");
}

/* ::name, ::schema.name, ::name[] */
static bool read_cast(struct reader *r)
{
    const size_t start = r->at;
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
    for (size_t i = start; i < r->at; i++) {
        r->seen[0] |= (unsigned char)r->text[i];
    }
    return true;
}

/* Whether the row goes on, or ends, right here. */
static bool is_at_end(const struct reader *r)
{
    return peek(r) == ',' || peek(r) == ')';
}

/* Up to the comma or parenthesis behind a value. Nearly all are strings or whole numbers, and it
 * stands right behind them. */
static inline bool read_value(struct reader *r)
{
    const size_t start = r->at;
    if (is_digit(peek(r)) && read_digits(r) && is_at_end(r)) {
        return true;
    }
    r->at = start;
    if (!read_literal(r)) {
        return false;
    }
    if (is_at_end(r)) {
        return true;
    }
    skip_space(r);
    while (peek(r) == ':' && r->text[r->at + 1] == ':') {
        if (!read_cast(r)) {
            return false;
        }
        skip_space(r);
    }
    return is_at_end(r);
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

/* A row as nearly all are: strings and whole numbers, and nothing but spaces between them. False
 * leaves any other to be read with care. */
static bool read_common_row(struct reader *r, int *places, size_t width)
{
    struct reader row = *r; /* which the compiler keeps in registers */
    if (peek(&row) != '(' || !row.conforming) {
        return false;
    }
    for (size_t i = 0; i < width; i++) {
        row.at++;
        while (peek(&row) == ' ') {
            row.at++;
        }
        places[i] = (int)row.at;
        const bool is_read = peek(&row) == '\'' ? read_string(&row) : read_digits(&row);
        if (!is_read || peek(&row) != (i + 1 < width ? ',' : ')')) {
            return false;
        }
    }
    places[width] = (int)row.at++;
    *r = row;
    return true;
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
            if (!read_quoted_name(r)) {
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

/* The rows behind the first, as far as they are plain. `first_len` is the first one's length: the
 * others tend to be as long. */
static void read_rows(struct bulk *bulk, struct arena *arena, struct reader *r, size_t first_len)
{
    const size_t stride = bulk->width + 1;
    size_t capacity = (r->len - r->at) / first_len + 1;
    capacity = capacity < ROWS_EXPECTED_MAX ? capacity : ROWS_EXPECTED_MAX;
    int *places = arena_alloc(arena, capacity * stride * sizeof *places);
    for (;;) {
        places = arena_grow(arena, places, bulk->rows, &capacity, stride * sizeof *places);
        skip_space(r);
        if (peek(r) != ',') {
            break;
        }
        r->at++;
        skip_space(r);
        int *const row = places + bulk->rows * stride;
        if (!read_common_row(r, row, bulk->width) && read_row(r, row, bulk->width) != bulk->width) {
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
    char last[BLOCK] = {0};
    memcpy(last, text + len / BLOCK * BLOCK, len % BLOCK);
    r.last = last;
    read_block(&r, r.at / BLOCK * BLOCK);
    int *first = arena_alloc(arena, (WIDTH_MAX + 1) * sizeof *first);
    const size_t start = r.at;
    bulk->width = read_row(&r, first, WIDTH_MAX);
    if (bulk->width == 0) {
        return false;
    }
    bulk->cut_from = r.at;
    read_rows(bulk, arena, &r, r.at - start);
    if (bulk->rows < BULK_ROWS_MIN) {
        return false;
    }
    bulk->is_ascii = (lanes_mask(r.seen) == 0);
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

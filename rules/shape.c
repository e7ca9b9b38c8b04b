/*
 * A lexer of the few kinds of token that need no thought, which says so when it meets another.
 * Called by judge.c; owns nothing. See shape.h for why a shape may stand for a text.
 */
#include "rules/shape.h"

#include <limits.h>
#include <string.h>
#include <strings.h>

#include "rules/bulk.h"
#include "rules/encoding.h"
#include "rules/lanes.h"

enum byte_class {
    CLASS_PLAIN = ' ', /* stands for itself, whatever is next to it */
    CLASS_WORD = 'w',
    CLASS_DIGIT = 'd',
    CLASS_STRING = '\'',
    CLASS_QUOTED_NAME = '"',
    CLASS_PAIRED = 'p', /* the byte behind it decides */
    CLASS_ODD = '!',
};

/* Every byte of a text is looked up here: a row for each 16 of ASCII. */
static const char ascii_classes[] = "!!!!!!!!!  !  !!"
                                    "!!!!!!!!!!!!!!!!"
                                    "  \" p p'     ppp"
                                    "dddddddddd p    "
                                    " wwwwwwwwwwwwwww"
                                    "wwwwwwwwwww    w"
                                    " wwwwwwwwwwwwwww"
                                    "wwwwwwwwwww     ";

static enum byte_class class_of(unsigned char byte)
{
    return byte < 0x80 ? (enum byte_class)ascii_classes[byte] : CLASS_WORD;
}

/* A NUL and the kind's letter. */
enum { LITERAL_IN_KEY = 2 };

struct reader {
    const char *text; /* ends with a NUL at `len` */
    size_t len, at;
    size_t copied; /* up to here it is in the key */
    bool conforming;
    struct shape *shape;
};

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_word_part(char c)
{
    const enum byte_class class = class_of((unsigned char)c);
    return class == CLASS_WORD || class == CLASS_DIGIT || c == '$';
}

/* From `at` on, up to a byte that belongs to no word. */
static inline size_t word_end(const struct reader *r, size_t at)
{
    while (r->len - at >= LANES) {
        const lanes bytes = lanes_load(r->text + at), letters = (bytes | 0x20) - 'a',
                    digits = bytes - '0';
        const unsigned parts = lanes_mask((lanes)(letters < 26) | (lanes)(digits < 10) |
                                          (lanes)(bytes == '_') | (lanes)(bytes == '$') | bytes);
        if (parts != (1U << LANES) - 1) {
            return at + (unsigned)__builtin_ctz(~parts);
        }
        at += LANES;
    }
    while (is_word_part(r->text[at])) {
        at++;
    }
    return at;
}

static bool copy_up_to(struct reader *r, size_t end)
{
    struct shape *shape = r->shape;
    const size_t len = end - r->copied;
    if (len > SHAPE_KEY_MAX - shape->key_len) {
        return false;
    }
    memcpy(shape->key + shape->key_len, r->text + r->copied, len);
    shape->key_len += len;
    r->copied = end;
    return true;
}

bool shape_mark(struct shape *shape, char mark)
{
    if (SHAPE_KEY_MAX - shape->key_len < 2) {
        return false;
    }
    shape->key[shape->key_len++] = '\0';
    shape->key[shape->key_len++] = mark;
    return true;
}

static bool add_literal(struct reader *r, size_t start, char kind)
{
    struct shape *shape = r->shape;
    if (shape->literal_count == SHAPE_LITERALS_MAX || !copy_up_to(r, start) ||
        !shape_mark(shape, kind)) {
        return false;
    }
    shape->literals[shape->literal_count++] =
        (struct shape_literal){(uint32_t)start, (uint32_t)r->at};
    r->copied = r->at;
    return true;
}

/* In a string that goes on in the next line the quote is not its last one. */
static bool is_string_end(struct reader *r)
{
    size_t at = r->at;
    while (is_space(r->text[at])) {
        at++;
    }
    return r->text[at] != '\'';
}

static bool read_string(struct reader *r)
{
    const size_t start = r->at++;
    for (;;) {
        const char *quote = memchr(r->text + r->at, '\'', r->len - r->at);
        if (quote == NULL) {
            return false;
        }
        r->at = (size_t)(quote - r->text) + 1;
        if (r->text[r->at] != '\'') {
            break;
        }
        r->at++;
    }
    if (!r->conforming && memchr(r->text + start, '\\', r->at - start) != NULL) {
        return false;
    }
    return is_string_end(r) && add_literal(r, start, 's');
}

/* As the lexer tells Iconst from Fconst. */
static bool is_integer(const char *digits, size_t len)
{
    long value = 0;
    for (size_t i = 0; i < len; i++) {
        value = value * 10 + (digits[i] - '0');
        if (value > INT_MAX) {
            return false;
        }
    }
    return true;
}

static bool read_number(struct reader *r)
{
    const size_t start = r->at;
    while (is_digit(r->text[r->at])) {
        r->at++;
    }
    char kind = is_integer(r->text + start, r->at - start) ? 'i' : 'f';
    if (r->text[r->at] == '.') {
        kind = 'f';
        r->at++;
        if (!is_digit(r->text[r->at])) {
            return false;
        }
        while (is_digit(r->text[r->at])) {
            r->at++;
        }
    }
    /* 1e5, 0x1f, 1_000, 123abc, 1.2.3: another kind of number, or none. */
    return !is_word_part(r->text[r->at]) && r->text[r->at] != '.' && add_literal(r, start, kind);
}

static inline bool is_word(const struct reader *r, size_t start, const char *word)
{
    return r->at - start == strlen(word) && strncasecmp(r->text + start, word, r->at - start) == 0;
}

/* A quote behind a word makes it a prefix, as in E'' and U&''; and some words read their literals.
 */
static bool read_word(struct reader *r)
{
    const size_t start = r->at;
    r->at = word_end(r, start);
    return r->text[r->at] != '\'' && !is_word(r, start, "float") && !is_word(r, start, "uescape");
}

static bool read_quoted_name(struct reader *r)
{
    const char *quote = memchr(r->text + r->at + 1, '"', r->len - r->at - 1);
    r->at = quote == NULL ? r->len : (size_t)(quote - r->text) + 1;
    return quote != NULL;
}

static bool read_paired(struct reader *r)
{
    const char first = r->text[r->at++];
    const char second = r->text[r->at];
    switch (first) {
    case '-':
        return second != '-';
    case '/':
        return second != '*';
    case '.':
        return !is_digit(second);
    case '&':
        return second != '\'' && second != '"';
    case '$':
        while (is_digit(r->text[r->at])) {
            r->at++;
        }
        return is_digit(second);
    default: /* a semicolon: nothing may follow */
        while (is_space(r->text[r->at])) {
            r->at++;
        }
        return r->at == r->len;
    }
}

/* The statements in which a literal is a value and nothing else. */
static bool starts_as_query(struct reader *r)
{
    static const char *const words[] = {"insert", "select", "update", "delete", "with", "merge"};
    while (is_space(r->text[r->at])) {
        r->at++;
    }
    const size_t start = r->at;
    r->at = word_end(r, start);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (is_word(r, start, words[i])) {
            return true;
        }
    }
    return false;
}

/* Whether the text may be judged as a bulk load goes by its shape and by this. */
static bool add_length(struct shape *shape, size_t len)
{
    return len < BULK_BYTES_MIN || shape->literal_count == 0 || shape_mark(shape, 'l');
}

static bool read_token(struct reader *r)
{
    switch (class_of((unsigned char)r->text[r->at])) {
    case CLASS_PLAIN:
        r->at++;
        return true;
    case CLASS_WORD:
        return read_word(r);
    case CLASS_DIGIT:
        return read_number(r);
    case CLASS_STRING:
        return read_string(r);
    case CLASS_QUOTED_NAME:
        return read_quoted_name(r);
    case CLASS_PAIRED:
        return read_paired(r);
    case CLASS_ODD:
        break;
    }
    return false;
}

/* Of literals with a backslash it must be known what they are, to say anything of their values. */
static bool may_lift(const struct judge_input *input)
{
    return input->encoding != TEXT_ENCODING_UNSETTLED ||
           memchr(input->text, '\\', input->len) == NULL;
}

bool shape_read(struct shape *shape, const struct judge_input *input)
{
    struct reader r = {
        .text = input->text,
        .len = input->len,
        .conforming = input->standard_conforming_strings,
        .shape = shape,
    };
    shape->key_len = 0;
    shape->literal_count = 0;
    if (input->len > SHAPE_TEXT_MAX || !starts_as_query(&r)) {
        return false;
    }
    while (r.at < r.len) {
        if (!read_token(&r)) {
            return false;
        }
    }
    return copy_up_to(&r, r.len) && add_length(shape, r.len) && may_lift(input) &&
           encoding_is_readable(input->encoding, input->text, input->len);
}

/* The first literal that ends behind `place`. */
static size_t literal_from(const struct shape *shape, size_t place)
{
    size_t low = 0, high = shape->literal_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (shape->literals[middle].end <= place) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* False when the piece ends within a literal, or there are too many. */
static bool add_slots(const struct shape *shape, const struct kept_text *kept,
                      struct shape_slot *slots, size_t *count)
{
    for (size_t i = literal_from(shape, kept->from);
         i < shape->literal_count && shape->literals[i].start < kept->to; i++) {
        const struct shape_literal *literal = &shape->literals[i];
        if (literal->start < kept->from || literal->end > kept->to ||
            *count == SHAPE_LITERALS_MAX) {
            return false;
        }
        const size_t start = kept->at + (literal->start - kept->from);
        slots[(*count)++] = (struct shape_slot){
            .start = (uint32_t)start,
            .end = (uint32_t)(start + literal->end - literal->start),
            .literal = (uint32_t)i,
        };
    }
    return true;
}

bool shape_find_slots(const struct shape *shape, const struct kept_text *kept, size_t kept_count,
                      const struct judge_input *edited, struct shape *scratch,
                      struct shape_slot *slots, size_t *count)
{
    *count = 0;
    for (size_t i = 0; i < kept_count; i++) {
        if (!add_slots(shape, &kept[i], slots, count)) {
            return false;
        }
    }
    if (!shape_read(scratch, edited)) {
        return false;
    }
    for (size_t i = 0; i < *count; i++) {
        const size_t own = literal_from(scratch, slots[i].start);
        if (own == scratch->literal_count || scratch->literals[own].start != slots[i].start ||
            scratch->literals[own].end != slots[i].end) {
            return false;
        }
    }
    return true;
}

size_t shape_fill_room(const struct shape *shape, size_t edited_len, const struct shape_slot *slots,
                       size_t slot_count)
{
    size_t room = edited_len + 1;
    for (size_t i = 0; i < slot_count; i++) {
        const struct shape_literal *literal = &shape->literals[slots[i].literal];
        room += literal->end - literal->start;
    }
    return room;
}

size_t shape_fill(char *room, const struct shape *shape, const char *text, const char *edited,
                  size_t edited_len, const struct shape_slot *slots, size_t slot_count)
{
    char *to = room;
    size_t from = 0;
    for (size_t i = 0; i < slot_count; i++) {
        const struct shape_literal *literal = &shape->literals[slots[i].literal];
        to = mempcpy(to, edited + from, slots[i].start - from);
        to = mempcpy(to, text + literal->start, literal->end - literal->start);
        from = slots[i].end;
    }
    to = mempcpy(to, edited + from, edited_len - from);
    *to = '\0';
    return (size_t)(to - room);
}

/* How much longer the literals that end at or before a place are than what stands for them in the
 * key. Asked for places in their order. */
struct surplus {
    const struct shape *shape;
    size_t next, bytes;
};

static size_t literal_len(const struct shape *shape, size_t literal)
{
    return shape->literals[literal].end - shape->literals[literal].start;
}

static size_t lift(struct surplus *surplus, size_t place)
{
    const struct shape *shape = surplus->shape;
    while (surplus->next < shape->literal_count && shape->literals[surplus->next].end <= place) {
        surplus->bytes += literal_len(shape, surplus->next++) - LITERAL_IN_KEY;
    }
    return place - surplus->bytes;
}

static size_t lay(struct surplus *surplus, size_t place)
{
    const struct shape *shape = surplus->shape;
    while (surplus->next < shape->literal_count &&
           shape->literals[surplus->next].start - surplus->bytes + LITERAL_IN_KEY <= place) {
        surplus->bytes += literal_len(shape, surplus->next++) - LITERAL_IN_KEY;
    }
    return place + surplus->bytes;
}

void shape_lift_kept(const struct shape *shape, const struct kept_text *kept, size_t count,
                     struct kept_text *lifted)
{
    struct surplus surplus = {.shape = shape};
    for (size_t i = 0; i < count; i++) {
        lifted[i].from = lift(&surplus, kept[i].from);
        lifted[i].to = lift(&surplus, kept[i].to);
        lifted[i].at = kept[i].at;
    }
}

void shape_lay_kept(const struct shape *shape, const struct kept_text *lifted, size_t count,
                    const struct shape_slot *slots, size_t slot_count, struct kept_text *kept)
{
    struct surplus surplus = {.shape = shape};
    size_t slot = 0, moved = 0; /* `moved` wraps around where literals are shorter */
    for (size_t i = 0; i < count; i++) {
        for (; slot < slot_count && slots[slot].end <= lifted[i].at; slot++) {
            moved += literal_len(shape, slots[slot].literal);
            moved -= slots[slot].end - slots[slot].start;
        }
        kept[i].from = lay(&surplus, lifted[i].from);
        kept[i].to = lay(&surplus, lifted[i].to);
        kept[i].at = lifted[i].at + moved;
    }
}

static bool lift_ref(const struct shape *shape, struct value_ref *ref)
{
    if (ref->kind != VALUE_LITERAL) {
        return true;
    }
    size_t low = 0, high = shape->literal_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (shape->literals[middle].start < ref->at + ref->lead) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    const bool is_found =
        low < shape->literal_count && shape->literals[low].start == ref->at + ref->lead;
    ref->at = (uint32_t)low;
    return is_found;
}

bool shape_lift_pairs(const struct shape *shape, const struct value_pair *pairs, size_t count,
                      struct value_pair *lifted)
{
    for (size_t i = 0; i < count; i++) {
        lifted[i] = pairs[i];
        if (!lift_ref(shape, &lifted[i].key) || !lift_ref(shape, &lifted[i].source)) {
            return false;
        }
    }
    return true;
}

static void lay_ref(const struct shape *shape, struct value_ref *ref)
{
    if (ref->kind == VALUE_LITERAL) {
        ref->at = shape->literals[ref->at].start - ref->lead;
    }
}

void shape_lay_pairs(const struct shape *shape, const struct value_pair *lifted, size_t count,
                     struct value_pair *pairs)
{
    for (size_t i = 0; i < count; i++) {
        pairs[i] = lifted[i];
        lay_ref(shape, &pairs[i].key);
        lay_ref(shape, &pairs[i].source);
    }
}

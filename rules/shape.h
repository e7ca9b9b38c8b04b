/*
 * The shape of a statement: its text with every plain literal taken out. Texts of one shape differ
 * in nothing that a judgement looks at, so that one verdict serves them all, and one edit, made of
 * the literals' places. Called by judge.c.
 *
 * Why that is right. A literal here is one that PostgreSQL's lexer reads as one token of a kind
 * that its first look tells: a string in plain quotes, an integer that fits into 32 bits, any other
 * number written with digits and one point at most. The kind stands in the shape, and so does every
 * byte around the literals. Texts of one shape are therefore the same row of tokens but for the
 * values of constants, and the grammar decides by kinds of tokens: their trees differ in those
 * values and in places alone. Where a value does decide something (FLOAT(24), UESCAPE, the bodies
 * of DO and of functions), or where the kind is not plain at first sight (E'', U&'', B'', dollar
 * quotes, comments, strings that go on in the next line, exponents), there is no shape, and the
 * text is judged by itself.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rules/rules.h"

enum {
    SHAPE_TEXT_MAX = 64 * 1024,
    SHAPE_KEY_MAX = 4096,
    SHAPE_LITERALS_MAX = 256,
};

/* [start, end) of a text. */
struct shape_literal {
    uint32_t start, end;
};

struct shape {
    /* The text; instead of a literal a NUL, which no text has, and a letter for its kind. At the
     * end more such pairs where texts of one shape are different matters, as when one is long
     * enough to be a bulk load. */
    char key[SHAPE_KEY_MAX];
    size_t key_len;
    struct shape_literal literals[SHAPE_LITERALS_MAX];
    size_t literal_count;
};

/* False when the text has no shape. */
bool shape_read(struct shape *shape, const struct judge_input *input);

/* Sets a shape apart from the same one without the mark, a letter that no kind of literal has.
 * False when there is no room for it. */
bool shape_mark(struct shape *shape, char mark);

/* A place in an edited text where a literal of the text before stands. */
struct shape_slot {
    uint32_t start, end;
    uint32_t literal; /* its number */
};

/* Where the literals of `shape` are in the text `edited`, of which `kept` is what the edit left
 * alone or repeated, in the order of the edited text. Writes to `slots`, which has room for
 * SHAPE_LITERALS_MAX, and to `count`. False when an edit reaches into a literal, or the edited
 * text's own shape is not one in which these are literals; more of them are the edit's own, the
 * same for all texts. `scratch` is overwritten. */
bool shape_find_slots(const struct shape *shape, const struct kept_text *kept, size_t kept_count,
                      const struct judge_input *edited, struct shape *scratch,
                      struct shape_slot *slots, size_t *count);

/* The edited text of another text with the same shape: `edited` with the literals of `text`, at
 * which `shape` was read, in the slots. `room` has shape_fill_room() bytes; the end gets a NUL.
 * Returns the length. */
size_t shape_fill_room(const struct shape *shape, size_t edited_len, const struct shape_slot *slots,
                       size_t slot_count);
size_t shape_fill(char *room, const struct shape *shape, const char *text, const char *edited,
                  size_t edited_len, const struct shape_slot *slots, size_t slot_count);

/* The pieces of a text that an edit kept, with their places in the shape's key instead of the text;
 * and back, for another text with the same shape, and its edited text. */
void shape_lift_kept(const struct shape *shape, const struct kept_text *kept, size_t count,
                     struct kept_text *lifted);
void shape_lay_kept(const struct shape *shape, const struct kept_text *lifted, size_t count,
                    const struct shape_slot *slots, size_t slot_count, struct kept_text *kept);

/* The same for the places of literals that are compared: lifted, they are literals' numbers. False
 * when one is not among the shape's literals. */
bool shape_lift_pairs(const struct shape *shape, const struct value_pair *pairs, size_t count,
                      struct value_pair *lifted);
void shape_lay_pairs(const struct shape *shape, const struct value_pair *lifted, size_t count,
                     struct value_pair *pairs);

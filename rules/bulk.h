/*
 * Bulk loads: INSERT ... VALUES with many rows of plain literals. The parser needs some ten
 * nanoseconds for each of their bytes and learns nothing from the second row that the first did not
 * tell. So the rows behind the first are cut out, the short text is judged, and what becomes of its
 * first row is done to all of them. Called by judge.c and insert.c.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rules/arena.h"
#include "rules/positions.h"

/* Shorter texts are not looked at. */
enum { BULK_BYTES_MIN = 2048 };

struct bulk {
    const char *text; /* the client's, borrowed */
    size_t len;
    const char *short_text; /* without [cut_from, cut_to), the rows from the second on */
    size_t short_len;
    size_t cut_from, cut_to;
    size_t width, rows; /* values in a row; rows cut out */
    bool is_ascii;      /* all bytes that were cut out are known to be */
    const int *places;  /* for each row: where its values start, and its closing parenthesis */
};

/* True when the text is one of many rows, with `bulk` filled in the arena. Cut rows hold nothing
 * but numbers, strings, NULL, TRUE, FALSE and DEFAULT, some with a cast: what a row means does not
 * depend on where it stands, and no name of a table is among them. */
bool bulk_shorten(struct bulk *bulk, struct arena *arena, const char *text, size_t len,
                  bool standard_conforming_strings);

/* How many cut rows have another value than DEFAULT at `position`. */
size_t bulk_count_values(const struct bulk *bulk, size_t position);

/* The short text after its edits, and what of it they have kept. */
struct bulk_edited {
    const char *text;
    size_t len;
    size_t at;                    /* where the cut rows belong */
    const struct kept_text *kept; /* of the short text */
    size_t kept_count;
};

/* A part of what is written into a row: a text, and behind it one of the row's values. */
struct bulk_piece {
    const char *text;
    size_t value; /* its position; SIZE_MAX: none */
};

/* What becomes of a row. */
struct bulk_edit {
    const bool *drop;                /* values that go; NULL: none */
    const struct bulk_piece *pieces; /* of a value in place of another; DEFAULT is NULL in it */
    size_t piece_count;              /* 0: nothing takes a value's place */
    size_t key;                      /* which it is; the width: behind the others */
};

/* Puts the cut rows back, each of them edited in the same way (NULL: not at all). A row of which no
 * value would stay says DEFAULT. `kept` gets what the whole text has of the client's. */
const char *bulk_restore(const struct bulk *bulk, struct arena *arena,
                         const struct bulk_edited *edited, const struct bulk_edit *edit,
                         size_t *len, struct kept_list *kept);

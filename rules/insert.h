/*
 * An INSERT into a guarded table while it is judged: what insert.c, which knows its column list,
 * shares with insert_values.c and insert_select.c, which know its two kinds of source.
 */
#pragma once

#include "rules/analysis.h"

struct insert {
    struct analysis *a;
    InsertStmt *stmt;
    SelectStmt *source;
    const struct insert_source *kind;
    const struct bulk *bulk; /* more rows of it, which the text was relieved of; NULL: none */
    uint64_t rules;          /* of the guarded table, or of one that is like it */
    const char **names;      /* the column of each value of a row */
    size_t width;            /* values in a row */
    bool *drop;              /* by position: the value goes */
    bool add_list;           /* a positional INSERT gets a column list */
};

enum {
    WIDTH_UNEVEN = 0,  /* rows differ: the server's error */
    WIDTH_HIDDEN = -1, /* by a star */
};

/* A kind of source. */
struct insert_source {
    /* Values in a row, or one of the above. */
    int (*width)(const SelectStmt *source);
    /* Whether the value at `position` is one that the column must not get. */
    bool (*supplies)(const struct insert *insert, size_t position, struct supply *supply);
    /* Takes the dropped values out of text and tree, and keeps their parameters declared; `at` is
     * the first token behind the column list. False when text and tree do not agree. */
    bool (*edit)(const struct insert *insert, size_t at);
};

extern const struct insert_source insert_values; /* VALUES (...), (...) */
extern const struct insert_source insert_select; /* any other query */

bool insert_drops_all(const struct insert *insert);
/* The first of `rules`, as it is for the insert's relation. */
const struct rule *insert_rule(const struct insert *insert, uint64_t rules);

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
    struct compute *compute; /* the expression that the key becomes; NULL: none */
    size_t key;              /* where; `width` when it is added behind the others */
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
    /* Why the expression cannot be added to the values of each row; NULL: it can. */
    const char *(*obstacle)(const struct insert *insert);
    /* Puts the expression in the key's place in each row. False as above; may refuse. */
    bool (*compute)(const struct insert *insert, size_t at);
};

extern const struct insert_source insert_values; /* VALUES (...), (...) */
extern const struct insert_source insert_select; /* any other query */

bool insert_drops_all(const struct insert *insert);
/* The first of `rules`, as it is for the insert's relation. */
const struct rule *insert_rule(const struct insert *insert, uint64_t rules);
/* Where in a row the column stands; width when nowhere, width + 1 when more than once or in part.
 */
size_t insert_find_column(const struct insert *insert, const char *column);

/* insert_compute.c */
/* Prepares the expression of rule `index`, of mode compute. */
void insert_judge_compute(struct insert *insert, size_t index);
/* One row's values, from token firsts[i] to lasts[i], which the tree keeps at `list`: puts the
 * expression in the key's place, or behind the last value, which is at `behind` in the text. `row`
 * counts from 1; of a SELECT it is 0, and `list` NULL. True when a value of the client's had to go.
 */
bool insert_compute_row(const struct insert *insert, List **list, int row, const size_t *firsts,
                        const size_t *lasts, int behind);
/* insert_select.c: a value that can go without a trace */
bool insert_select_is_plain(Node *value);
/* INSERT INTO table DEFAULT VALUES */
void insert_compute_defaults(struct analysis *a, InsertStmt *stmt, uint64_t rules);

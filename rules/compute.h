/*
 * Mode compute: a rule's expression over the values of one row, each of them in the place of its
 * column and cast to the column's type, so that the expression means what it means over the stored
 * row. As text for the edit, which repeats the client's own words, and as a tree for its proof.
 * Called by the judges of INSERT, UPDATE and MERGE.
 */
#pragma once

#include "rules/analysis.h"

/* A column that the expression reads, and what it is in the row at hand. */
struct compute_source {
    const struct rule_source *column;
    TypeCast *typed_null; /* CAST(NULL AS its type) */
    Node *value;          /* the client's; NULL: it has none, and the column is NULL */
    int from, to;         /* the value's text */
    const char *stored;   /* or it is the stored column of this relation; else NULL */
};

struct compute_place; /* of a column in the expression's text */

/* One rule's expression. */
struct compute {
    struct compute *next;
    const struct rule *rule;
    const char *obstacle; /* why it cannot be put into a statement; NULL: it can */
    const char *text;     /* the expression's, with places in it */
    Node *tree;
    struct compute_place *places; /* in the order of the text */
    size_t place_count;
    struct compute_source *sources; /* each column once; to be filled for each row */
    size_t source_count;
};

/* The rule's expression, made at the first call in an analysis; the sources are empty then. */
struct compute *compute_of(struct analysis *a, const struct rule *rule);

/* The sources' values from the client's text: False, with a refusal, when the value may not be
 * repeated, or is a default that only the server knows. `value` is NULL where the client has none.
 * Values are tokens `first` to `last`. `where` is put behind the column's name in the refusal. */
bool compute_take(struct analysis *a, struct compute *compute, struct compute_source *source,
                  const char *statement, Node *value, bool may_read_columns, const char *where);
void compute_place_value(struct analysis *a, struct compute_source *source, size_t first,
                         size_t last);
/* Where a token's own text ends. */
int compute_token_end(struct analysis *a, size_t token);

/* The expression over the sources, as a tree. */
Node *compute_tree(const struct compute *compute);
/* Has the expression over the sources take the place of [start, end), behind `before`. */
void compute_edit(struct analysis *a, const struct compute *compute, int start, int end,
                  const char *before);
/* The trees are the same, so that there is nothing to edit. */
bool compute_is_there(struct analysis *a, const Node *computed, const Node *value);

/* The same for rows of a bulk load; `positions`, by source, says where in a row it stands, SIZE_MAX
 * for nowhere. */
const struct bulk_piece *compute_pieces(struct analysis *a, const struct compute *compute,
                                        const size_t *positions, size_t *count);

/*
 * One look at one text: what the files of this room tell each other while they judge it. judge.c
 * begins and ends an analysis; statement.c walks the tree; insert.c, assign.c, stars.c, utility.c
 * and params.c each judge one part of it. Everything here lives in the analysis's arena.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rules/bulk.h"
#include "rules/prefilter.h"
#include "rules/rule_set.h"
#include "rules/shape.h"
#include "rules/sql.h"

/* Statements nested deeper than this are refused: the walk recurses, and the server refuses a
 * little later. */
#define ANALYSIS_DEPTH_MAX 5000

/* Bytes [from, to) of the client's text that an edit's text repeats at `at`. */
struct edit_copy {
    int from, to;
    size_t at;
};

struct edit {
    int start, end;   /* bytes of the client's text that go */
    const char *text; /* what comes in their place, maybe "" */
    const struct edit_copy *copies;
    size_t copy_count;
};

/* A type to declare for a parameter, counted from 1. */
struct param_type {
    int number;
    uint32_t type_oid;
};

/* What a "*" over several relations is of one of them. */
struct star_part {
    const char *name;        /* that it goes by */
    const struct rule *rule; /* NULL: as it comes */
};

/* A "*" over a guarded table, or over several relations one of which is such a table; stars.c */
struct star {
    const struct rule *rule; /* of the one relation; NULL: there are parts */
    const struct RangeVar *relation;
    const struct star_part *parts;
    size_t part_count;
    const struct ColumnRef *reference;
    List **targets; /* the list that it stands in */
    int at;
};

/* The WITH queries that can be named where the walk is; statement.c */
struct with_scope {
    struct with_scope *outer;
    const struct WithClause *clause;
    int visible; /* of its queries: those in front of the one that the walk is in, else all */
};

struct revision;     /* revision.c */
struct compute;      /* compute.h */
struct compare_rule; /* compare.h */

struct refusal {
    const char *sqlstate, *message, *detail, *hint;
    size_t position; /* as in struct verdict */
};

struct analysis {
    struct arena *arena;
    const struct rule_set *set;
    const char *text; /* what is parsed, and what edits refer to */
    size_t len;
    const struct bulk *bulk;           /* rows that the text was relieved of; NULL: none */
    const struct bulk_edit *bulk_edit; /* what becomes of each; NULL: nothing */
    bool asks_bulk;                    /* what its rows hold made a difference */
    bool needs_bulk;                   /* its rows must be judged one by one */
    bool asks_literals;                /* what literals hold made a difference */
    bool columns_change; /* which columns the tables have is not known, from here on */
    bool is_single_use;  /* the text does not outlive its execution, as a prepared one does */

    /* What was found. */
    uint64_t writes;
    bool prepares, schema_change;
    struct supplied *supplied;
    size_t supplied_count, supplied_capacity;
    struct value_pair *pairs;
    size_t pair_count, pair_capacity;
    uint8_t *param_uses; /* by number - 1, once asked for */
    size_t param_use_count, param_use_capacity;
    const RawStmt *params_of; /* of this statement */
    struct edit *edits;
    size_t edit_count, edit_capacity;
    struct verdict_copy *copies; /* every COPY ... FROM STDIN */
    size_t copy_count, copy_capacity;
    struct kept_text *kept; /* what they leave alone, once they are made */
    size_t kept_count, kept_capacity;
    struct kept_text *repeated; /* the same, and between them what edits repeat of the text */
    size_t repeated_count, repeated_capacity;
    struct revision *revisions;
    size_t revision_count, revision_capacity;
    struct param_type *params;
    size_t param_count, param_capacity;
    struct star *stars;
    size_t star_count, star_capacity;
    bool is_refused;
    struct refusal refusal;   /* the first one */
    struct compute *computes; /* expressions asked for, a list */
    bool is_blind; /* the whole text counts, its literals too: nobody could look into it */

    /* Where the walk is. */
    List *statements;
    const RawStmt *statement;
    struct with_scope *with;  /* the innermost */
    struct token_list tokens; /* of the whole text, when first asked for */
    const char *definition;   /* inside this kind of stored definition: nothing is edited */
    bool has_params;          /* "$1" means something here */
    const uint32_t *declared; /* types by number - 1; 0 is not declared */
    size_t declared_count;
    bool is_conforming; /* standard_conforming_strings */
    bool is_unsettled;  /* it may be otherwise by now */
    bool is_in_server_encoding;
    bool is_cut_short; /* too deep, or a node that the walk does not know */
};

/* A value supplied for the column of one rule, in one place. */
struct supply {
    const char *statement; /* static, for the audit and for messages */
    uint32_t rows, params;
    bool is_update;
    const char *obstacle; /* why it cannot be taken out of the text; NULL when the caller can */
    const char *hint; /* beside an obstacle: what to write instead; NULL: leave the column out */
    bool is_guess;    /* whether the column gets a value is not known */
    size_t pairs;     /* so many of the analysis's last pairs are its values */
    struct comparison compared; /* values that were compared already */
};

/* Records the supply and applies the rule's mode to it. True: the caller takes the value out, or
 * puts the computed one in its place. */
bool analysis_supply(struct analysis *a, size_t rule, const struct supply *supply);

/* So many places of a text are told of one by one. */
enum { SUPPLIED_APART_MAX = 64 };

/* The record alone. */
void analysis_record(struct analysis *a, size_t rule, const struct supply *supply);

/* The first refusal counts. */
void analysis_refuse(struct analysis *a, struct refusal refusal);
/* The refusal of a statement of which only so much is known that it may supply the column. */
void analysis_refuse_obstacle(struct analysis *a, const struct rule *rule, const char *statement,
                              const char *obstacle);
/* The same with another hint. */
void analysis_refuse_hinted(struct analysis *a, const struct rule *rule, const char *statement,
                            const char *obstacle, const char *hint);

/* Without a column list, while it is not known which columns the table has. False: it is. Where the
 * server guards the column itself, nothing is refused. */
bool analysis_refuse_unknown(struct analysis *a, uint64_t rules, const char *statement);

/* The refusal of a statement in which the column cannot be computed, and what to write instead. */
void analysis_refuse_compute(struct analysis *a, const struct rule *rule, const char *statement,
                             const char *obstacle, const char *hint);

/* Of a statement that could be edited, if only its text agreed with its tree. */
void analysis_refuse_unfollowed(struct analysis *a, const char *statement);

void analysis_edit(struct analysis *a, int start, int end, const char *text);
void analysis_add_edit(struct analysis *a, struct edit edit);
const struct token_list *analysis_tokens(struct analysis *a);
/* The text with the edits made; NULL when two edits are at odds. `mark`, a place in the text
 * outside of any edit, is moved to the same place in the edited one. */
const char *analysis_apply_edits(struct analysis *a, size_t *len, size_t *mark);

struct rule_target analysis_target(const struct analysis *a, const RangeVar *relation);
/* The rule as it is for a relation that is its table, or like it. */
const struct rule *analysis_rule(const struct analysis *a, size_t rule, const RangeVar *relation);
/* What the rule's values are compared by; NULL: they cannot be. Of a relation that is like its
 * table it is not known which column the expression reads. */
const struct compare_rule *analysis_compares(const struct analysis *a, size_t rule,
                                             const RangeVar *relation);
/* Whether statements of this rule are edited so that they outlive a move of the column. */
bool analysis_is_stabilised(const struct analysis *a, const struct rule *rule);

/* statement.c */
void statement_judge(struct analysis *a, Node *node);
/* A query or an expression, with all that is in it. */
void statement_judge_part(struct analysis *a, Node *node);

/* A walk over a raw tree, bounded in depth, that knows which nodes can be walked. */
struct sql_walk {
    bool (*visit)(Node *node, void *context); /* true: go on below this node */
    void (*leave)(Node *node, void *context); /* behind what is below it; may be NULL */
    void *context;
    int depth;
    bool is_conforming; /* standard_conforming_strings */
    bool is_in_server_encoding;
    bool is_cut_short; /* too deep, or a node of a kind that is not known */
};
/* True when the walk was cut short. */
bool statement_walk(Node *node, struct sql_walk *walk);

/* insert.c, insert_values.c, insert_select.c */
void insert_judge(struct analysis *a, InsertStmt *stmt);
/* x.* among values stands for as many as x has columns. */
bool value_has_star(const Node *value);

/* compare_note.c: which values of an INSERT or of a SET list can be compared with what the rule's
 * expression makes of others there. */
struct insert;
void compare_note_rows(const struct insert *insert, size_t rule, size_t position,
                       struct supply *supply);
void compare_note_values(struct analysis *a, const struct compare_rule *compares, const Node *key,
                         const Node *source, struct supply *supply);

/* assign.c: SET lists of UPDATE, ON CONFLICT and MERGE; writes to dependents. `targets`: where the
 * tree keeps the list */
void assign_judge(struct analysis *a, const RangeVar *relation, List **targets,
                  const char *statement);
/* `names`: ResTargets or Strings; NIL stands for all columns. */
void dependent_judge(struct analysis *a, const RangeVar *relation, const List *names,
                     const char *statement, bool is_update);

/* merge.c */
void merge_judge(struct analysis *a, MergeStmt *stmt);

/* utility.c */
void utility_judge(struct analysis *a, Node *node);
/* `relation` is created, for good or for the session. */
void utility_judge_created(struct analysis *a, const RangeVar *relation);

/* revision.c: what the edits mean for the tree */
/* In the list that the tree keeps at `list` (a List **), `removed` cells from `at` on give way to
 * `added`. Changes of one list are noted in its order. */
void revision_note(struct analysis *a, void *list, int at, int removed, List *added);
/* The node that the tree keeps at `place` (a Node **) is another one. */
void revision_note_node(struct analysis *a, void *place, Node *node);
void revision_note_drops(struct analysis *a, void *list, const bool *drop, size_t count);
Node *revision_default(void);
Node *revision_column(const char *qualifier, const char *name); /* qualifier may be NULL */
ResTarget *revision_target(const char *name, Node *value);      /* either may be NULL */
Node *revision_values(Node *value);                             /* VALUES (value) */
/* Changes the tree; true when `again`, the edited text's, is the same. */
bool revision_is_made(struct analysis *a, const List *again);

/* stars.c */
void stars_note_select(struct analysis *a, SelectStmt *stmt);
/* `returning`: where the tree keeps the list */
void stars_note_returning(struct analysis *a, const RangeVar *target, const List *others,
                          List **returning);
void stars_expand(struct analysis *a);
/* `name` as SQL text, quoted where it must be. */
const char *quoted_name(const char *name);

/* params.c */
struct insert_rows {
    const List *rows;         /* VALUES lists */
    const char *const *names; /* the column of each value */
    const struct rule *rule;  /* one of the target's */
    const bool *is_dropped;   /* by position in the row */
    int start;                /* of VALUES in the text */
    bool
        is_query; /* with LIMIT, a WITH clause, ...: its values do not meet their columns at once */
};
/* Keeps the parameters declared whose places are dropped; refuses where a type cannot be known. */
void params_keep(struct analysis *a, const struct insert_rows *insert);
/* The same for values in other places, all of them of the rule's column. */
void params_keep_values(struct analysis *a, const struct rule *rule, const char *statement,
                        const List *values);
void params_judge_prepare(struct analysis *a, const PrepareStmt *stmt);

/* tokens.c: places in the text of what the tree only knows by order */
/* The first token behind a relation name and its alias. */
size_t tokens_after_relation(const struct token_list *tokens, const RangeVar *relation);
/* First tokens of the elements of the list that opens at `open`, at most `max` of them; returns how
 * many there are. */
size_t tokens_list(const struct token_list *tokens, size_t open, size_t *firsts, size_t max);
/* Takes the elements marked in `drop` out of the list that opens at `open`; not all of them. */
void tokens_drop(struct analysis *a, size_t open, const size_t *firsts, const bool *drop,
                 size_t count);

/* The same for a list without brackets, as those of SET and SELECT are. */
void tokens_drop_items(struct analysis *a, const size_t *firsts, const bool *drop, size_t count);
/* The token behind an item of such a list whose first token, or one of whose tokens, is `at`. */
size_t tokens_item_end(const struct token_list *tokens, size_t at);

/* types.c: PostgreSQL's built-in types, which have the same OIDs everywhere */
uint32_t type_oid_of(const TypeName *type); /* 0 when not a built-in, or "unknown" */
const char *type_name_of(uint32_t oid);     /* in pg_catalog; NULL when not known */

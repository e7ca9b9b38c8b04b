/*
 * rules: SQL text in, verdict out.
 *
 * Called by the proxy's sessions for each Query and Parse text that may concern a rule. Pure: no
 * sockets, no clock, no wire bytes, no logging. PostgreSQL's own parser (libpg_query, raw tree)
 * decides; edits are made by token position in the client's text; what cannot be judged with
 * certainty is refused, never let through.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rules/copy_filter.h"

/* A rule set holds at most this many rules: verdict.writes has a bit for each. */
#define RULES_MAX 64

enum rule_mode {
    RULE_MODE_OBSERVE, /* forwarded unchanged, recorded */
    RULE_MODE_STRIP,   /* forwarded without the column */
    RULE_MODE_COMPUTE, /* the expression in the value's place */
    RULE_MODE_REJECT,  /* refused with 428C9 */
};

/* A text that may concern the table and that the parser, PostgreSQL 15's, cannot read. */
enum rule_unparsed {
    RULE_UNPARSED_BY_SHAPE, /* refused, but where the server guards the column itself */
    RULE_UNPARSED_REJECT,
    RULE_UNPARSED_PASS,
};

/* Who computes the column on the server, as the catalog shows it. */
enum rule_shape {
    RULE_SHAPE_PLAIN,     /* a trigger does, or nobody */
    RULE_SHAPE_GENERATED, /* GENERATED ALWAYS AS (...) STORED: the server refuses values itself */
    RULE_SHAPE_PARTITION_KEY, /* the table is partitioned by the column: neither can (42P17) */
};

/* Where a column has its values from. */
enum column_source {
    COLUMN_GIVEN, /* from statements */
    COLUMN_FIXED, /* an identity that takes none from INSERT and UPDATE, or an expression of a view
                   */
    COLUMN_GENERATED, /* and COPY leaves it out where there is no list */
};

struct rule_column {
    const char *name;
    uint32_t type_oid;
    enum column_source source;
};

/* What mode compute must know of a column that the expression may read. */
struct rule_source {
    const char *column;
    const char *type;               /* as SQL writes it: character varying(36) */
    bool has_default;               /* leaving it out gives something else than NULL */
    struct evaluation_column value; /* for evaluating it outside of the server */
};

struct rule_relation {
    const char *schema;
    const char *name;
    /* The guarded column's name in it: "" when it does not have the column, NULL when that is not
     * known, so that any write to it may carry a value. */
    const char *column;
    /* Its own columns in their order, when a statement that writes it can be relieved of the column
     * as one on the table itself can; NULL when it cannot. */
    const struct rule_column *columns;
    size_t column_count;
};

/* One rule, with what the catalog knows of its table. All strings are the catalog's (folded,
 * unquoted), not SQL text. */
struct rule {
    const char *name;   /* the configuration section's name */
    const char *schema; /* of the guarded table */
    const char *table;
    const char *column; /* the computed column */
    enum rule_mode mode;
    enum rule_unparsed on_unparsed;
    bool unqualified_guarded; /* an unqualified name that equals table is the guarded table */
    enum rule_shape shape;
    bool compares;         /* supplied values are compared with the expression's, where they can */
    bool rejects_mismatch; /* and refused where they differ, where others are taken out */
    /* Live columns in the order in which applications know them: the order of an INSERT without a
     * column list and of "*". After an in-place cutover it is the order of before. */
    const struct rule_column *columns;
    size_t column_count;
    bool reordered; /* the catalog's order differs from `columns` */
    bool converted; /* a cutover has made the column a generated one: applications know it as plain
                     */
    /* Views, rules' source tables, partitions and inheritance children, transitively. */
    const struct rule_relation *dependents;
    size_t dependent_count;
    /* For mode compute; NULL and 0 otherwise. */
    const char *expression; /* SQL text */
    const struct rule_source *sources;
    size_t source_count;
};

/* Whether mode compute can put the rule's expression into statements; if not, `why` says what is in
 * the way. */
bool rule_is_computable(const struct rule *rule, char *why, size_t why_size);

struct rule_set; /* immutable once made: threads may share it */

/* Copies everything out of `rules`. Mode compute on a generated column is strip: the server
 * computes. `database` is the name that a three-part relation name may carry. NULL when out of
 * memory or count > RULES_MAX. */
struct rule_set *rule_set_new(const struct rule *rules, size_t count, const char *database);
void rule_set_free(struct rule_set *set);
size_t rule_set_count(const struct rule_set *set);
const struct rule *rule_set_get(const struct rule_set *set, size_t index); /* borrowed */

/* The rules with letters beyond ASCII in their names: of the table, its schema, its columns, and
 * what depends on it. They are the server's bytes, and another encoding has others. */
uint64_t rule_set_beyond_ascii(const struct rule_set *set);

/* The prefilter: false when no rule of the set can concern `text`, in one pass. */
bool rule_set_may_concern(const struct rule_set *set, const char *text, size_t len);

enum verdict_action {
    VERDICT_PASS,   /* forward the client's bytes (observe included) */
    VERDICT_EDIT,   /* forward verdict.text and verdict.param_types instead */
    VERDICT_REFUSE, /* have the server fail it; answer with sqlstate, message, detail, hint */
};

/* Bytes [from, to) of the client's text that stand in the edited one too, from `at` on. */
struct kept_text {
    size_t from, to, at;
};

#define KEPT_MAX 48

/* What is known of values supplied: those of which it is not are not counted. */
struct comparison {
    uint32_t matched;    /* have the expression's value */
    uint32_t mismatched; /* have another one */
    /* of the first of these: in which row, from 1, and what the expression has for it */
    uint32_t row;
    int32_t expected;
    bool expects_null;
};

enum value_kind {
    VALUE_NULL,
    VALUE_LITERAL,
    VALUE_PARAM,
};

/* Where a value is. */
struct value_ref {
    enum value_kind kind;
    uint32_t at;   /* the literal's first byte in the client's text; a parameter's number, from 1 */
    uint32_t lead; /* bytes of it in front of the literal proper: a sign's */
};

/* A row's value for a guarded column, and for the column that its expression reads. */
struct value_pair {
    uint32_t supplied; /* index in the verdict's list */
    uint32_t row;      /* from 1 */
    struct value_ref key, source;
};

/* One place in a statement where the client supplied a value for a guarded column, or could have.
 * Of a text with more than 64 of them, the last one of a kind stands for all that follow. */
struct supplied {
    size_t rule;           /* index in the set */
    const char *statement; /* "INSERT", "UPDATE", "COPY", "MERGE", "DO", ...: static string */
    uint32_t rows;         /* VALUES rows that carry the key; 0 when the text does not tell */
    uint32_t params;       /* of those, how many are bound as parameters */
    struct comparison compared;
    bool is_awaited; /* only if the stream of a COPY has it, which its first row tells */
};

/* One COPY ... FROM STDIN of a text, in whose edited statement columns are missing: its stream goes
 * through a filter (copy_filter.h). One whose stream stays as it is has options.field_count 0. */
struct copy_pair {
    size_t rule;          /* index in the set */
    uint32_t key, source; /* indexes in options.fields */
};

#define COPY_PAIRS_MAX 2

struct verdict_copy {
    struct copy_pair pairs[COPY_PAIRS_MAX]; /* of values that can be compared */
    size_t pair_count;
    bool awaits; /* one of `supplied`, of the rule with this index, is_awaited */
    size_t rule;
    struct copy_options
        options; /* has_encoding and csv_has_end_marker are the session's to fill in */
};

struct verdict {
    enum verdict_action action;
    uint64_t writes;     /* bit i: the text writes rule i's table (any column), or may */
    bool prepares;       /* SQL PREPARE of a statement that writes a guarded table */
    bool schema_change;  /* DDL on a guarded table, or that may be: catalog to be read again */
    bool columns_change; /* of which columns may come, go or be renamed */
    /* VERDICT_EDIT: the text to send, NUL-terminated, and the parameter types to declare in Parse
     */
    const char *text;
    size_t text_len;
    const uint32_t *param_types;
    size_t param_type_count;
    /* every COPY ... FROM STDIN of the text in order, when one of them is filtered; NULL when none
     * is */
    const struct verdict_copy *copies;
    size_t copy_count;
    /* What `text` has of the client's, in order and up to both ends; at most KEPT_MAX pieces. When
     * there are more, those in front of the last one are missing. */
    const struct kept_text *kept;
    size_t kept_count;
    bool is_kept_cut;
    /* VERDICT_REFUSE; detail and hint may be NULL */
    const char *sqlstate;
    const char *message;
    const char *detail;
    const char *hint;
    /* Where the text holds rows of plain literals and nothing else, which nobody has to look into.
     */
    size_t plain_from, plain_to;
    size_t position; /* of a syntax error, in bytes of the text from 1; 0: none */
    /* what the audit says of it; empty when no key was supplied */
    const struct supplied *supplied;
    size_t supplied_count;
    /* The values that can be compared; those of parameters at Bind. Literals are, in `supplied`. */
    const struct value_pair *pairs;
    size_t pair_count;
    /* where literals of pairs are; the client's text, borrowed from it */
    const char *pair_text;
    bool pairs_conforming, pairs_in_encoding; /* as in struct judge_input */
    uint64_t fingerprint;                     /* pg_query's; 0 where supplied_count is 0 */
    /* Every literal replaced by "?", up to 8 KB, of a bulk load the first row; NULL where
     * supplied_count is 0 */
    const char *masked_text;
};

/* What a byte below 0x80 means in the session's client_encoding. */
enum text_encoding {
    TEXT_ENCODING_UTF8,       /* that ASCII character, in valid UTF-8 only; others are refused */
    TEXT_ENCODING_ASCII_SAFE, /* that ASCII character, always: LATIN1, WIN1252, EUC_JP, ... */
    TEXT_ENCODING_FOREIGN,    /* names of rules may be in it that are not known by their bytes; only
                               * ASCII texts can be judged */
    TEXT_ENCODING_UNKNOWN,    /* it is not known which, nor what a backslash means; only ASCII texts
                               * without any can be judged */
    TEXT_ENCODING_UNSETTLED,  /* likewise; texts that mean the same in all of them can be judged */
    TEXT_ENCODING_UNSAFE, /* perhaps a half of another one: SJIS, BIG5, GBK, UHC, GB18030, JOHAB,
                           * SHIFT_JIS_2004; only ASCII texts can be judged */
};

struct judge_input {
    const char *text; /* NUL-terminated at text[len]; no NUL before */
    size_t len;
    const uint32_t *param_types; /* as declared in Parse; 0 = unspecified */
    size_t param_type_count;
    bool extended;                    /* a Parse message */
    bool standard_conforming_strings; /* the session's, as last reported */
    enum text_encoding encoding;
    bool is_in_server_encoding; /* the text; otherwise only ASCII values can be compared */
    bool columns_change; /* the open transaction has changed a guarded table: which columns it has
                          * is not known */
};

/* A judge belongs to one thread. It keeps verdicts of texts seen before, bounded in bytes. */
struct judge;
struct judge *judge_new(size_t cache_bytes);
void judge_free(struct judge *judge);

/* The verdict on a text, borrowed until the next call with this judge. Call only after
 * rule_set_may_concern(); a text without a hit would pass all the same. When `set` is another one
 * than at the last call, every kept verdict is dropped (the caller passes a set's address, which it
 * keeps alive between calls). NULL only when out of memory. */
const struct verdict *judge_text(struct judge *judge, const struct rule_set *set,
                                 const struct judge_input *input);

/* The same for a caller that must not be kept long: a verdict that is known, or that is found
 * within some two milliseconds. NULL with *takes_long set leaves it to judge_text(), on another
 * thread and with another judge. */
const struct verdict *judge_at_once(struct judge *judge, const struct rule_set *set,
                                    const struct judge_input *input, bool *takes_long);
/* Keeps what `from` has just found out, for texts that come again. The last input of `from` must
 * still be there, and `judge` must have been asked about the same set. */
void judge_learn(struct judge *judge, const struct judge *from);

/* Frees all that belongs to the last verdict but what it says: without its text, its parameter
 * types and what judge_learn() takes. NULL when out of memory. */
const struct verdict *judge_reduce(struct judge *judge);

struct judge_counters {
    uint64_t hits, misses; /* of the verdict cache */
    uint64_t bytes;        /* held by it */
};
void judge_count(const struct judge *judge, struct judge_counters *out);

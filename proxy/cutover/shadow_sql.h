/*
 * How the files of the shadow compose SQL: templates with the two tables filled in, and queries
 * whose rows are statements. Private to shadow*.c.
 */
#pragma once

#include "proxy/cutover/shadow.h"

/* context_expand() with these as well: {from}, {to} (oids, 0 for none), {name_text},
 * {relation_text}, {aside_text} (quoted and qualified names as SQL string literals),
 * {relation_name}, {aside_name}, {base_name} (unqualified names as literals), {expr_text} (the
 * expression as literal), {key_index}, {back}, {hashed} (true or false), {partition_by} (literal
 * or NULL), {to_suffix}, {aside_suffix}, {reads} (JSON, literal), {trigger_name} (what
 * a trigger's name is unequal to), {row_filter} (of pg_publication_rel r) and {schema_publications}
 * (oids of publications of the schema {from} is in); {rel} is a parameter. The caller frees it. */
char *shadow_expand(const struct cutover *c, const struct shadow *shadow, const char *pattern);

/* The same of several pieces, and the query run. NULL on failure. */
PGresult *shadow_query(struct cutover *c, const struct shadow *shadow, const char *const *pieces,
                       struct failure *f);

/* The first column of the rows that are not NULL, as an array of strings; takes `r`. */
json_t *shadow_strings(PGresult *r, struct failure *f);

/* Reads shadow->reads and decides shadow->hashed and partition_by. */
MUST_CHECK bool shadow_partitioning(struct cutover *c, struct shadow *shadow, struct failure *f);

/* What cannot be carried over; see shadow.refusals. */
json_t *shadow_refusals(struct cutover *c, const struct shadow *shadow, struct failure *f);

/* CTEs: `ix`, the indexes of both tables, and `pair`, those of {from} with the like of {to}, where
 * there is one; `st` and `stpair`, the statistics objects in the same way. For after "WITH ". */
extern const char shadow_index_ctes[];
/* CTEs of partitions: `kid` of both tables, `kidpair` those of {from} with `to_oid` and `to_name`
 * of their likes, `fresh_name` (what one of {to} is called until the flip) and `aside` (what the
 * one of {from} is called after it). Before the others, with a comma at its end. */
extern const char shadow_part_ctes[];
/* The indexes that partitions of {to} lack of those that their likes have for themselves, `ownpair`
 * of the same CTEs, as statements: what is to follow those CTEs. */
extern const char shadow_part_indexes[];
/* Refusals for partitions: SELECT of what and why over these. */
extern const char shadow_part_refusals[];
extern const char shadow_part_key_refusals[];
/* Steps of the flip for partitions, in the form of shadow_carry_sql. */
extern const char shadow_part_steps[];

/* The steps of the flip, in their order. Columns: step, order within it, statement, another
 * relation that is to be locked with the table or NULL, a statement that is to be run before the
 * lock or NULL, one for after the flip or NULL. A statement may be NULL as well. */
extern const char *const shadow_carry_sql[];

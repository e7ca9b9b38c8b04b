/*
 * The preflight's checks of the table itself: its shape, its columns, what hangs on it; see
 * preflight.h.
 */
#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/preflight_parts.h"

enum { ATTRIBUTES_MAX = 1600 };

/* The columns that the expression reads, for PARTITION BY HASH. */
static char *source_columns(const struct cutover *c)
{
    const json_t *sources = json_object_get(c->table.facts, "sources");
    return json_array_size(sources) > 0 ? text_join(sources) : strdup("another column");
}

static void check_partitioned_by_column(struct cutover *c)
{
    char *columns = source_columns(c);
    report_check(c, "table", CHECK_BLOCK,
                 "in place cannot change a table's partitioning; this shape needs --strategy swap",
                 "the table is partitioned by the column (%s): PostgreSQL refuses a generated "
                 "column in a partition key (42P17), and a BEFORE trigger fires after the row has "
                 "been routed, so that it can only check the key and never compute it. What is "
                 "possible: the same rows in PARTITION BY HASH (%s), with the generated column in "
                 "every partition",
                 preflight_fact(c, "partitioning"), columns != NULL ? columns : "?");
    free(columns);
}

static void check_kind(struct cutover *c)
{
    const char *kind = preflight_fact(c, "kind");
    bool typed = preflight_is(c, "of_type");
    if (preflight_is(c, "partitioned_by_column") && !c->swaps) {
        check_partitioned_by_column(c);
    } else if ((strcmp(kind, "r") != 0 || typed) && !c->swaps) {
        report_check(c, "table", CHECK_BLOCK,
                     "in place works on plain tables; this shape needs --strategy swap",
                     "it is %s%s",
                     typed ? "a typed table" : "partitioned: ", preflight_fact(c, "partitioning"));
    } else {
        long long rows = json_integer_value(json_object_get(c->table.facts, "rows"));
        double mb = (double)(c->table.table_bytes + c->table.index_bytes) / 1e6;
        const char *plain = c->swaps ? "" : "plain ";
        if (rows < 0) {
            report_check(c, "table", CHECK_PASS, NULL, "a %stable, never analyzed, %.1f MB", plain,
                         mb);
        } else {
            report_check(c, "table", CHECK_PASS, NULL, "a %stable of about %lld rows, %.1f MB",
                         plain, rows, mb);
        }
    }
}

static void check_inheritance(struct cutover *c)
{
    char *children = text_join(json_object_get(c->table.facts, "children"));
    char *parents = text_join(json_object_get(c->table.facts, "parents"));
    if (children == NULL || parents == NULL) {
        report_check(c, "inheritance", CHECK_BLOCK, "try again", "out of memory");
    } else if (*children != '\0' || *parents != '\0') {
        report_check(c, "inheritance", CHECK_BLOCK,
                     "in place works on plain tables; this shape needs --strategy swap",
                     "it has %s%s%s%s", *children != '\0' ? "children: " : "", children,
                     *parents != '\0' ? " parents: " : "", parents);
    } else {
        report_check(c, "inheritance", CHECK_PASS, NULL, "no parents, no children");
    }
    free(children);
    free(parents);
}

static void check_row_type(struct cutover *c)
{
    char *users = text_join(json_object_get(c->table.facts, "row_type_users"));
    if (users != NULL && *users != '\0') {
        report_check(c, "row-type", CHECK_BLOCK, "drop these columns, or give them another type",
                     "columns are of the table's row type, so that it cannot be rewritten: %s",
                     users);
    } else {
        report_check(c, "row-type", CHECK_PASS, NULL, "no column is of the table's row type");
    }
    free(users);
}

static void check_column(struct cutover *c)
{
    if (json_integer_value(json_object_get(c->table.facts, "columns")) >= ATTRIBUTES_MAX) {
        report_check(c, "column", CHECK_BLOCK, "build the table anew, to be rid of dropped columns",
                     "the table has had %d columns, the most that PostgreSQL can number",
                     ATTRIBUTES_MAX);
    } else if (preflight_fact(c, "identity")[0] != '\0') {
        report_check(c, "column", CHECK_BLOCK, "ALTER COLUMN ... DROP IDENTITY",
                     "the column is an identity column");
    } else {
        report_check(c, "column", CHECK_PASS, NULL, "%s%s, %s", c->table.type,
                     c->table.not_null ? " NOT NULL" : "",
                     c->table.definition != NULL ? c->table.definition : "no default");
    }
}

/* In place, the column moves behind all others. */
static bool check_column_order(struct cutover *c, struct failure *f)
{
    struct names behind;
    if (c->swaps) {
        report_check(c, "column-order", CHECK_PASS, NULL, "the column keeps its place");
        return true;
    }
    if (!preflight_names(c,
                         "SELECT coalesce(json_agg(attname ORDER BY attnum), '[]') "
                         "FROM pg_attribute WHERE attrelid = {rel} AND attnum > {num} "
                         "AND NOT attisdropped",
                         &behind, f)) {
        return false;
    }
    if (behind.count == 0) {
        report_check(c, "column-order", CHECK_PASS, NULL, "the column is the last one, and stays");
    } else {
        report_check(c, "column-order", CHECK_WARN,
                     "name the columns in what does not come through this proxy",
                     "in place, the column moves behind %s. Through this proxy, SELECT *, "
                     "RETURNING * and INSERT without a column list keep meaning what they mean; "
                     "for anybody else the order changes",
                     behind.text);
    }
    free(behind.text);
    return true;
}

static bool check_sequences(struct cutover *c, struct failure *f)
{
    struct names owned;
    if (!preflight_names(c,
                         "SELECT coalesce(json_agg(format('%s of %s', s.oid::regclass, "
                         "a.attname) ORDER BY d.refobjsubid), '[]') FROM pg_depend "
                         "d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' "
                         "JOIN pg_attribute a ON a.attrelid = d.refobjid "
                         "AND a.attnum = d.refobjsubid WHERE d.classid = 'pg_class'::regclass "
                         "AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {rel} "
                         "AND d.deptype IN ('a', 'i')",
                         &owned, f)) {
        return false;
    }
    report_check(c, "sequences", CHECK_PASS, NULL,
                 owned.count > 0 ? "of other columns, not touched: %s" : "none%s", owned.text);
    free(owned.text);
    return true;
}

/* A CREATE INDEX CONCURRENTLY that failed leaves one behind; rebuilding it may fail again. */
static bool check_indexes(struct cutover *c, struct failure *f)
{
    struct names invalid;
    if (!preflight_names(c,
                         "SELECT coalesce(json_agg(indexrelid::regclass::text), '[]') "
                         "FROM pg_index WHERE indrelid = {rel} AND NOT (indisvalid AND indisready)",
                         &invalid, f)) {
        return false;
    }
    if (invalid.count > 0) {
        report_check(c, "indexes", CHECK_BLOCK, "DROP INDEX, or REINDEX INDEX CONCURRENTLY",
                     "every index is built again, also these, which are invalid and could make it "
                     "fail: %s",
                     invalid.text);
    } else {
        report_check(c, "indexes", CHECK_PASS, NULL, "%lld, all valid",
                     json_integer_value(json_object_get(c->table.facts, "indexes")));
    }
    free(invalid.text);
    return true;
}

static const char constraints_sql[] =
    "SELECT coalesce(json_agg(format('%s%s%s', conname, "
    "CASE WHEN conrelid <> {rel} THEN format(' of %s', conrelid::regclass) ELSE '' END, "
    "CASE WHEN NOT convalidated THEN ', NOT VALID' WHEN condeferrable THEN ', DEFERRABLE' "
    "ELSE '' END) ORDER BY conrelid <> {rel}, conname), '[]') FROM pg_constraint WHERE "
    "(conrelid = {rel} AND {num} = ANY (conkey)) OR (confrelid = {rel} AND {num} = ANY (confkey))";

static bool check_constraints(struct cutover *c, struct failure *f)
{
    struct names of;
    if (!preflight_names(c, constraints_sql, &of, f)) {
        return false;
    }
    report_check(c, "constraints", CHECK_PASS, NULL,
                 of.count > 0 ? "on the column: %s; each is taken away by name, never by CASCADE"
                              : "none is on the column%s",
                 of.text);
    free(of.text);
    return true;
}

/* All that fires on the table, in the order of firing. What of them touches the column is in
 * "trigger" and "functions". */
static const char inventory_sql[] =
    "SELECT coalesce(json_agg(format('%s (%s%s, %s%s)', t.tgname, "
    "CASE t.tgtype & 66 WHEN 2 THEN 'before' WHEN 64 THEN 'instead of' ELSE 'after' END, "
    "CASE t.tgtype & 60 WHEN 4 THEN ' insert' WHEN 8 THEN ' delete' WHEN 16 THEN ' update' "
    "WHEN 32 THEN ' truncate' ELSE '' END, t.tgfoid::regproc, "
    "CASE t.tgenabled WHEN 'D' THEN ', disabled' WHEN 'R' THEN ', replica only' "
    "WHEN 'A' THEN ', always' ELSE '' END) ORDER BY t.tgtype & 66 <> 2, t.tgname), '[]') "
    "FROM pg_trigger t WHERE t.tgrelid = {rel} AND NOT t.tgisinternal AND t.oid <> {trigger}";

static const char rules_sql[] =
    "SELECT coalesce(json_agg(rulename ORDER BY rulename), '[]') FROM pg_rewrite "
    "WHERE ev_class = {rel}";

static bool check_other_triggers(struct cutover *c, struct failure *f)
{
    struct names triggers;
    struct names rules;
    if (!preflight_names(c, inventory_sql, &triggers, f)) {
        return false;
    }
    if (!preflight_names(c, rules_sql, &rules, f)) {
        free(triggers.text);
        return false;
    }
    report_check(c, "other-triggers", CHECK_PASS, NULL, "%s%s%s%s",
                 triggers.count + rules.count == 0 ? "none, and no rules" : "they stay: ",
                 triggers.text, rules.count > 0 ? "; rules: " : "", rules.text);
    free(triggers.text);
    free(rules.text);
    return true;
}

/* Dropping the column drops what the planner knows of it. */
static bool check_planner(struct cutover *c, struct failure *f)
{
    struct names partial;
    if (!preflight_names(
            c,
            "SELECT coalesce(json_agg(indexrelid::regclass::text), '[]') FROM pg_index "
            "WHERE indrelid = {rel} AND {num} = ANY (indkey)",
            &partial, f)) {
        return false;
    }
    report_check(c, "planner", CHECK_PASS, NULL,
                 c->swaps
                     ? "the second table is analyzed before it takes the first one's place%s%s"
                     : "statistics of the column are gone with it and gathered right after the "
                       "flip by ANALYZE; until then plans that use it rest on defaults%s%s",
                 partial.count > 0 ? "; indexes on it: " : "", partial.text);
    free(partial.text);
    return true;
}

bool preflight_table(struct cutover *c, struct failure *f)
{
    check_kind(c);
    if (!c->swaps) { /* of a swap, "shadow" says what the second table can have */
        check_inheritance(c);
    }
    check_row_type(c);
    check_column(c);
    return check_column_order(c, f) && check_sequences(c, f) && check_indexes(c, f) &&
           check_constraints(c, f) && check_other_triggers(c, f) && check_planner(c, f);
}

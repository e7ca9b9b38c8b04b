/*
 * What the ticket's own SQL would do to this very table, in plain sentences: the script that many a
 * team has in its drawer. It stops nothing, and so is no check; see preflight.h.
 *
 * The steps: ALTER COLUMN ... SET GENERATED ALWAYS AS; UPDATE of the differing rows; DROP
 * CONSTRAINT <table>_pkey CASCADE; DROP COLUMN; ADD COLUMN ... GENERATED; ADD PRIMARY KEY; DROP
 * TRIGGER compute_<column>_trigger; DROP FUNCTION compute_<column>(); a comparison by <>.
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/preflight_parts.h"

static json_t *sentences(struct cutover *c)
{
    json_t *list = json_object_get(c->report, "ticket");
    if (list == NULL) {
        list = json_array();
        report_set(c, "ticket", list);
    }
    return list;
}

static void say(struct cutover *c, const char *step, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void say(struct cutover *c, const char *step, const char *fmt, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, fmt);
    int n = vasprintf(&text, fmt, args);
    va_end(args);
    if (n >= 0) {
        (void)json_array_append_new(
            sentences(c), json_pack("{s:s, s:o}", "step", step, "text", report_string(text)));
        free(text);
    }
}

static bool has_blocked(const struct cutover *c, const char *id)
{
    size_t i;
    const json_t *check;
    json_array_foreach(c->checks, i, check)
    {
        const char *is = json_string_value(json_object_get(check, "id"));
        const char *verdict = json_string_value(json_object_get(check, "verdict"));
        if (is != NULL && strcmp(is, id) == 0) {
            return strcmp(verdict, "BLOCK") == 0;
        }
    }
    return false;
}

/* The captured objects of one way to be lost: with the column, or in the way of dropping it. */
static char *list_captured(const struct capture *capture, bool silently)
{
    json_t *names = json_array();
    for (size_t i = 0; i < capture_count(capture); i++) {
        int class = capture_class(capture, i);
        bool in_the_way = class == CAPTURE_FOREIGN_KEY || class >= CAPTURE_TRIGGER;
        if (in_the_way != silently) {
            (void)json_array_append_new(names, report_string(capture_what(capture, i)));
        }
    }
    char *text = text_join(names);
    json_decref(names);
    return text;
}

/* What leans on the primary key: what CASCADE takes with it. */
static const char cascade_sql[] =
    "SELECT coalesce(json_agg(DISTINCT coalesce((SELECT "
    "format('view %s', ev_class::regclass) FROM pg_rewrite WHERE d.classid = "
    "'pg_rewrite'::regclass AND oid = d.objid), pg_describe_object(d.classid, d.objid, 0))), '[]') "
    "FROM pg_constraint k JOIN pg_depend d ON (d.refclassid = 'pg_constraint'::regclass "
    "AND d.refobjid = k.oid) OR (d.refclassid = 'pg_class'::regclass AND d.refobjid = k.conindid) "
    "WHERE k.conrelid = {rel} AND k.conname = (SELECT relname || '_pkey' FROM pg_class "
    "WHERE oid = {rel}) AND d.deptype = 'n' AND d.classid <> 'pg_class'::regclass";

/* The primary key as the server writes it; none: NULL. */
static const char primary_key_sql[] =
    "SELECT json_build_object('name', max(conname), 'columns', "
    "max(substring(pg_get_constraintdef(oid) FROM '\\((.*)\\)')), 'expected', "
    "(SELECT relname || '_pkey' FROM pg_class WHERE oid = {rel}), 'saved', "
    "(SELECT count(*) FROM pg_constraint WHERE conrelid = {rel} AND contype <> 'n' "
    "AND conname LIKE '%' || {key} || '%')) "
    "FROM pg_constraint WHERE conrelid = {rel} AND contype = 'p'";

static bool say_primary_key(struct cutover *c, struct failure *f)
{
    struct names cascade;
    json_t *key = context_json(context_query(c, primary_key_sql, STATEMENT_TIMEOUT_MS, f), f);
    if (key == NULL) {
        return false;
    }
    if (!preflight_names(c, cascade_sql, &cascade, f)) {
        json_decref(key);
        return false;
    }
    const char *name = json_string_value(json_object_get(key, "name"));
    const char *columns = json_string_value(json_object_get(key, "columns"));
    const char *expected = json_string_value(json_object_get(key, "expected"));
    if (name == NULL || strcmp(name, expected) != 0) {
        say(c, "DROP CONSTRAINT", "fails: the table has no constraint %s (its primary key is %s)",
            expected, name != NULL ? name : "missing");
    } else if (cascade.count > 0) {
        say(c, "DROP CONSTRAINT",
            "with CASCADE also drops, with a NOTICE only and never put back: %s", cascade.text);
    }
    if (columns != NULL && strcmp(columns, "id, collection_id, partition_key") != 0) {
        say(c, "ADD PRIMARY KEY",
            "makes the key (id, collection_id, partition_key); the table's own is (%s)", columns);
    }
    if (json_integer_value(json_object_get(key, "saved")) == 0) {
        say(c, "temp_constraints",
            "saves nothing: it looks for constraints with the column's name in theirs");
    }
    free(cascade.text);
    json_decref(key);
    return true;
}

static bool say_dependents(struct cutover *c, const struct capture *capture, struct failure *f)
{
    char *lost = list_captured(capture, true);
    char *barred = list_captured(capture, false);
    bool ok = lost != NULL && barred != NULL;
    if (ok && *lost != '\0') {
        say(c, "DROP COLUMN", "takes with it, without a word: %s", lost);
    }
    if (ok && *barred != '\0') {
        say(c, "DROP COLUMN",
            "is refused (2BP01) until these are gone, or takes them by CASCADE: %s", barred);
    }
    free(lost);
    free(barred);
    return ok || fail(f, EXIT_REFUSED, "out of memory");
}

static void say_values(struct cutover *c)
{
    const json_t *values = json_object_get(c->report, "values");
    long long wrong = json_integer_value(json_object_get(values, "mismatches"));
    const char *min = json_string_value(json_object_get(values, "min"));
    const char *max = json_string_value(json_object_get(values, "max"));
    double skew = json_number_value(json_object_get(values, "skew"));
    if (has_blocked(c, "trigger-body")) {
        say(c, "formula",
            "is not what the trigger computes here: values would change, without a word");
    }
    if (wrong > 0) {
        say(c, "UPDATE",
            "changes %lld stored keys before anything else, against the ticket's own "
            "\"all existing values unchanged\"",
            wrong);
    }
    if (min != NULL && c->table.category == 'N' && min[0] == '-') {
        say(c, "distribution",
            "keys are from %s to %s: a test for 0 to 99 does not expect the negative ones; the "
            "skew here is %.2f, the ticket allows 1.5",
            min, max, skew);
    }
    say(c, "verification",
        "compares by <>, which takes a NULL key for a right one; and its test "
        "expects Python's hash(), which is salted anew in each process");
}

/* Its DROP ... IF EXISTS name things that may be called otherwise here. */
static void say_trigger(struct cutover *c)
{
    const struct cutover_trigger *t = &c->trigger;
    char *name = text_printf("compute_%s_trigger", c->rule->column);
    if (name != NULL && t->name != NULL && strcmp(t->name, name) != 0) {
        say(c, "DROP TRIGGER",
            "IF EXISTS %s drops nothing: the trigger here is %s, and goes on firing", name,
            t->name);
    }
    if (t->name != NULL && !t->drop_with) {
        say(c, "DROP FUNCTION", "fails or must not be: %s",
            t->kept_since != NULL ? t->kept_since : "something else needs it");
    }
    free(name);
}

static void say_shape(struct cutover *c)
{
    if (preflight_is(c, "partitioned_by_column")) {
        say(c, "ADD COLUMN",
            "is impossible: the table is partitioned by the column, and a generated column cannot "
            "be in a partition key (42P17)");
    }
    if (has_blocked(c, "publications")) {
        say(c, "replication", "subscribers lose the column: see the check publications");
    }
    say(c, "lock",
        "from its first statement on nobody reads or writes the table, for about %llu ms; without "
        "a lock_timeout it waits for whoever has the table, and everybody waits behind it",
        (unsigned long long)c->estimate_ms);
    if (control_version(c->control) < 130000) {
        say(c, "rollback", "DROP EXPRESSION is a syntax error before PostgreSQL 13");
    }
}

bool preflight_ticket(struct cutover *c, const struct capture *capture, struct failure *f)
{
    say(c, "SET GENERATED",
        "ALTER COLUMN %s SET GENERATED ALWAYS AS (...) STORED is a syntax error in every version: "
        "a column becomes generated only by being added",
        c->rule->column);
    say_values(c);
    bool ok = say_primary_key(c, f) && say_dependents(c, capture, f);
    say_trigger(c);
    say_shape(c);
    return ok;
}

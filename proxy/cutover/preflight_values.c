/*
 * The preflight's checks of the stored values: whether each is the expression's, why not, and which
 * values there are; see preflight.h.
 */
#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/preflight_parts.h"
#include "proxy/cutover/values.h"

/* What is known of how such rows come to be. The server keeps no history of a row: these are
 * reasons that exist here, not a proof. */
static const char causes_sql[] =
    "SELECT coalesce(json_agg(x), '[]') FROM (SELECT CASE "
    "WHEN t.oid IS NULL THEN 'no trigger computes the column: clients supply it' "
    "WHEN t.tgenabled = 'D' THEN 'the trigger is disabled' "
    "WHEN t.tgtype & 16 = 0 THEN 'the trigger fires on INSERT only, so that an UPDATE of a source "
    "column, or of the key itself, leaves a stale key' || (SELECT format(' (%s rows were updated "
    "since statistics were reset)', n_tup_upd) FROM pg_stat_all_tables WHERE relid = {rel}) END "
    "AS x FROM (SELECT) one LEFT JOIN pg_trigger t ON t.oid = {trigger} "
    "UNION ALL SELECT 'an ordinary trigger does not fire for logical replication and under "
    "session_replication_role = replica' FROM pg_trigger WHERE oid = {trigger} AND tgenabled = 'O' "
    "AND EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = {rel})) q WHERE x IS NOT NULL";

/* One common other formula, and NULL. */
static char *shape_of_mismatches(struct cutover *c, const struct values *v, struct failure *f)
{
    if (c->table.category != 'N') {
        return strdup("");
    }
    PGresult *r = context_query(c,
                                "SELECT count(*) FILTER (WHERE {col} = abs({value}) AND {col} <> "
                                "{value}), count(*) FILTER (WHERE {col} IS NULL AND {value} IS NOT "
                                "NULL) FROM {name}",
                                0, f);
    if (r == NULL) {
        return NULL;
    }
    long long absolute = strtoll(PQgetvalue(r, 0, 0), NULL, 10);
    long long without = strtoll(PQgetvalue(r, 0, 1), NULL, 10);
    PQclear(r);
    char *text = NULL;
    if (absolute > 0) {
        text = text_printf("%lld of the %lld are the expression's without the sign: another "
                           "formula, with abs(), has been at work; ",
                           absolute, (long long)v->mismatches);
    } else if (without > 0) {
        text = text_printf("%lld of the %lld are NULL, which a comparison by <> would miss; ",
                           without, (long long)v->mismatches);
    } else {
        text = strdup("");
    }
    if (text == NULL) {
        fail(f, EXIT_REFUSED, "out of memory");
    }
    return text;
}

static bool report_mismatches(struct cutover *c, const struct values *v, struct failure *f)
{
    struct names causes;
    char *shape = shape_of_mismatches(c, v, f);
    if (shape == NULL || !preflight_names(c, causes_sql, &causes, f)) {
        free(shape);
        return false;
    }
    report_check(c, "values", CHECK_BLOCK,
                 "decide which values are right, then correct these rows or the expression: the "
                 "cutover repairs nothing silently",
                 "%lld of %lld rows have another value than the expression's: %s. What may have "
                 "caused it: %s%s",
                 (long long)v->mismatches, (long long)v->rows, v->examples_text, shape,
                 causes.count > 0 ? causes.text : "an UPDATE or a load past the trigger");
    free(shape);
    free(causes.text);
    return true;
}

/* Who may have been written for 0 to 99 only. */
static const char consumers_sql[] =
    "SELECT coalesce(json_agg(DISTINCT x), '[]') FROM ("
    "SELECT format('constraint %s %s', conname, pg_get_constraintdef(oid)) AS x FROM pg_constraint "
    "WHERE conrelid = {rel} AND contype = 'c' AND {num} = ANY (conkey) UNION ALL "
    "SELECT format('view %s', w.ev_class::regclass) FROM pg_depend d JOIN pg_rewrite w "
    "ON w.oid = d.objid WHERE d.classid = 'pg_rewrite'::regclass "
    "AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {rel} AND d.refobjsubid = {num} "
    "UNION ALL SELECT format('policy %s', p.polname) FROM pg_depend d JOIN pg_policy p "
    "ON p.oid = d.objid WHERE d.classid = 'pg_policy'::regclass "
    "AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {rel} AND d.refobjsubid = {num} "
    "UNION ALL SELECT format('partial index %s', indexrelid::regclass) FROM pg_index "
    "WHERE indrelid = {rel} AND indpred::text ~ (':varattno ' || {num} || ' ')) q";

static bool report_domain(struct cutover *c, const struct values *v, struct failure *f)
{
    struct names consumers;
    if (v->min == NULL) {
        report_check(c, "key-domain", CHECK_PASS, NULL, "there is no value yet, or no order");
        return true;
    }
    if (c->table.category != 'N' || v->min[0] != '-') {
        report_check(c, "key-domain", CHECK_PASS, NULL, "values go from %s to %s", v->min, v->max);
        return true;
    }
    if (!preflight_names(c, consumers_sql, &consumers, f)) {
        return false;
    }
    report_check(c, "key-domain", CHECK_WARN,
                 "nothing to do if that is what you want; the expression must stay the same",
                 "values go from %s to %s: mod() keeps its argument's sign, so that mod(hash, n) "
                 "has 2n - 1 classes and not n, and 0 is twice as frequent as any other%s%s",
                 v->min, v->max,
                 consumers.count > 0 ? "; see whether these expect negative keys: " : "",
                 consumers.text);
    free(consumers.text);
    return true;
}

bool preflight_values(struct cutover *c, struct failure *f)
{
    struct values v;
    context_progress(c, "preflight", -1, "comparing every stored value with the expression");
    if (!values_read(c, true, &v, f)) {
        return false;
    }
    bool ok = true;
    if (v.mismatches > 0) {
        ok = report_mismatches(c, &v, f);
    } else {
        report_check(c, "values", CHECK_PASS, NULL, "all %lld rows have the expression's value",
                     (long long)v.rows);
    }
    if (v.nulls > 0) {
        report_check(c, "nulls", c->table.not_null ? CHECK_BLOCK : CHECK_WARN,
                     "give their source columns a value, if a key is needed",
                     "%lld rows have no value", (long long)v.nulls);
    }
    ok = ok && report_domain(c, &v, f);
    report_set(c, "values", values_json(&v));
    values_fini(&v);
    return ok;
}

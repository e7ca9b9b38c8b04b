/*
 * Puts the exchange together: the comparison of the catalog around the steps of shadow_carry.c; see
 * shadow_flip() in shadow.h.
 */
#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/shadow_sql.h"
#include "proxy/cutover/shape.h"

enum { COLUMN_SQL = 2, COLUMN_LOCK, COLUMN_FIRST, COLUMN_AFTER };

/* What shape.h does not look at, because the table in place cannot lose it. */
static const char shape_more[] =
    "UNION ALL SELECT jsonb_build_array('order', (SELECT jsonb_agg(a.attname ORDER BY a.attnum) "
    "FROM pg_attribute a WHERE a.attrelid = {rel} AND a.attnum > 0 AND NOT a.attisdropped))::text "
    "UNION ALL SELECT jsonb_build_array('sequence', s.oid::regclass, d.deptype, to_jsonb(q) - "
    "'seqrelid'::text, s.relowner, (SELECT string_agg(x::text, ',' ORDER BY x::text COLLATE \"C\") "
    "FROM unnest(coalesce(s.relacl, acldefault('s', s.relowner))) x), obj_description(s.oid, "
    "'pg_class'))::text FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' "
    "JOIN pg_sequence q ON q.seqrelid = s.oid WHERE d.classid = 'pg_class'::regclass "
    "AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {rel} "
    "UNION ALL SELECT DISTINCT jsonb_build_array('rule', pg_get_ruledef(w.oid), w.ev_enabled, "
    "obj_description(w.oid, 'pg_rewrite'))::text FROM pg_depend d JOIN pg_rewrite w "
    "ON w.oid = d.objid AND w.rulename <> '_RETURN' WHERE d.classid = 'pg_rewrite'::regclass "
    "AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {rel} "
    "UNION ALL SELECT DISTINCT jsonb_build_array('function', pg_get_functiondef(p.oid), p.proacl, "
    "p.proowner)::text FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid "
    "WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_class'::regclass "
    "AND d.refobjid = {rel} "
    "UNION ALL SELECT DISTINCT jsonb_build_array('trigger', pg_get_triggerdef(g.oid), g.tgenabled, "
    "obj_description(g.oid, 'pg_trigger'))::text FROM pg_trigger g WHERE g.tgconstrrelid = {rel} "
    "AND NOT g.tgisinternal "
    "UNION ALL SELECT jsonb_build_array('partition', c.oid::regclass, CASE WHEN NOT {hashed} "
    "AND NOT {back} THEN pg_get_expr(c.relpartbound, c.oid) END, c.reloptions, c.reltablespace, "
    "c.relowner, c.relpersistence, c.relreplident, obj_description(c.oid, 'pg_class'), "
    "(SELECT string_agg(x::text, ',' ORDER BY x::text COLLATE \"C\") FROM unnest("
    "coalesce(c.relacl, acldefault('r', c.relowner))) x), (SELECT jsonb_agg(o.rest ORDER BY o.rest "
    "COLLATE \"C\") FROM (SELECT concat(n.indisunique, substr(pg_get_indexdef(y.oid), "
    "length(format('CREATE %sINDEX %I "
    "ON %I.%I USING ', CASE WHEN n.indisunique THEN 'UNIQUE ' ELSE '' END, y.relname, "
    "m.nspname, c.relname)) + 1)) AS rest FROM pg_index n JOIN pg_class y ON y.oid = n.indexrelid "
    "JOIN pg_namespace m ON m.oid = c.relnamespace WHERE n.indrelid = c.oid AND NOT EXISTS (SELECT "
    "FROM pg_inherits h "
    "WHERE h.inhrelid = n.indexrelid)) o))::text FROM pg_inherits i "
    "JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = {rel} "
    "UNION ALL SELECT jsonb_build_array('row filter', r.prpubid, {row_filter})::text "
    "FROM pg_publication_rel r WHERE r.prrelid = {rel} ";

/* Prepares the query for the sorted lines of a table by its oid, text[]. Foreign keys are valid
 * again only after the flip. It is planned here and not under the lock: planning is most of its
 * time. */
static bool prepare_lines(struct cutover *c, const struct shadow *shadow, struct failure *f)
{
    struct text t;
    bool ok = text_begin(&t);
    if (ok) {
        fputs(
            "PREPARE pgsluice_lines(oid) AS SELECT ARRAY(SELECT CASE WHEN line LIKE "
            "'[\"constraint\"%' AND line::jsonb ->> 3 = 'f' THEN replace((line::jsonb - 5)::text, "
            "' NOT VALID', '') ELSE line END AS line FROM (",
            t.out);
    }
    for (const char *const *piece = shape_sql; ok && *piece != NULL; piece++) {
        char *sql = shadow_expand(c, shadow, *piece);
        ok = sql != NULL;
        fputs(ok ? sql : "", t.out);
        free(sql);
    }
    char *more = ok ? shadow_expand(c, shadow, shape_more) : NULL;
    ok = more != NULL;
    if (t.out != NULL) {
        fprintf(t.out, " %s) s(line) ORDER BY 1)", ok ? more : "");
    }
    free(more);
    char *sql = text_end(&t);
    ok = ok && sql != NULL ? control_run(c->control, "DEALLOCATE ALL", STATEMENT_TIMEOUT_MS, f) &&
                                 control_run(c->control, sql, STATEMENT_TIMEOUT_MS, f)
                           : fail(f, EXIT_REFUSED, "out of memory");
    free(sql);
    return ok;
}

/* Raises `code` when after_ is not before_. */
static void put_comparison(const char *code, const char *words, FILE *out)
{
    fprintf(out,
            "IF before_ IS DISTINCT FROM after_ THEN RAISE EXCEPTION USING ERRCODE = '%s', "
            "MESSAGE = '%s: ' || array_to_string(ARRAY("
            "(SELECT '- ' || x FROM unnest(before_) x WHERE x <> ALL (after_)) UNION ALL "
            "(SELECT '+ ' || x FROM unnest(after_) x WHERE x <> ALL (before_))), '; '); END IF;\n",
            code, words);
}

/* Keeps in the transaction, as a setting, how the table is now. */
static bool remember_lines(struct cutover *c, const struct shadow *shadow, struct failure *f)
{
    char *sql = text_printf(
        "DO $$ DECLARE lines_ text[]; BEGIN EXECUTE 'EXECUTE pgsluice_lines(%u)' INTO lines_; "
        "PERFORM set_config('pgsluice.before', lines_::text, true); END $$",
        shadow->from);
    bool ok = sql != NULL
                  ? control_run(c->control,
                                "SELECT set_config('plan_cache_mode', 'force_generic_plan', "
                                "true), set_config('jit', 'off', true)",
                                STATEMENT_TIMEOUT_MS, f) &&
                        prepare_lines(c, shadow, f) &&
                        control_run(c->control, sql, STATEMENT_TIMEOUT_MS, f)
                  : fail(f, EXIT_REFUSED, "out of memory");
    free(sql);
    return ok;
}

struct parts {
    struct text first, lock, body, plan;
    json_t *after;
};

static bool parts_begin(struct parts *p)
{
    *p = (struct parts){.after = json_array()};
    return text_begin(&p->first) && text_begin(&p->lock) && text_begin(&p->body) &&
           text_begin(&p->plan) && p->after != NULL;
}

/* The value, or NULL. */
static const char *value_at(const PGresult *r, int row, int column)
{
    return PQgetisnull(r, row, column) ? NULL : PQgetvalue(r, row, column);
}

static void put_steps(const PGresult *r, struct parts *p)
{
    for (int i = 0; i < PQntuples(r); i++) {
        const char *sql = value_at(r, i, COLUMN_SQL);
        const char *lock = value_at(r, i, COLUMN_LOCK);
        const char *first = value_at(r, i, COLUMN_FIRST);
        const char *after = value_at(r, i, COLUMN_AFTER);
        if (sql != NULL && *sql != '\0') {
            char tag[TEXT_TAG_SIZE];
            text_choose_tag(sql, tag);
            fprintf(p->body.out, "EXECUTE %s%s%s;\n", tag, sql, tag);
            fprintf(p->plan.out, "%s;\n", sql);
        }
        if (lock != NULL) {
            fprintf(p->lock.out, ", %s", lock);
        }
        if (first != NULL) {
            fprintf(p->first.out, "%s%s", ftell(p->first.out) > 0 ? "; " : "", first);
        }
        if (after != NULL) {
            json_array_append_new(p->after, report_string(after));
        }
    }
}

bool shadow_flip(struct cutover *c, const struct shadow *shadow, struct shadow_flip *out,
                 struct failure *f)
{
    struct parts p;
    *out = (struct shadow_flip){.first = NULL};
    if (!remember_lines(c, shadow, f)) {
        return false;
    }
    PGresult *r = shadow_query(c, shadow, shadow_carry_sql, f);
    if (r == NULL) {
        return false;
    }
    bool ok = parts_begin(&p);
    if (ok) {
        fputs(c->relation, p.lock.out);
        fprintf(p.body.out,
                "before_ := current_setting('pgsluice.before');\n"
                "EXECUTE 'EXECUTE pgsluice_lines(%u)' INTO after_;\n",
                shadow->from);
        put_comparison(FLIP_CHANGED, "the table has changed since it was examined", p.body.out);
        put_steps(r, &p);
        fprintf(p.body.out, "EXECUTE 'EXECUTE pgsluice_lines(%u)' INTO after_;\n", shadow->to);
        put_comparison(FLIP_DIFFERENT, "the table would not be as before", p.body.out);
    }
    PQclear(r);
    out->declare = strdup("before_ text[]; after_ text[];\n");
    out->first = text_end(&p.first);
    out->lock = text_end(&p.lock);
    out->body = text_end(&p.body);
    out->plan = text_end(&p.plan);
    out->after = p.after;
    if (!ok || out->declare == NULL || out->first == NULL || out->lock == NULL ||
        out->body == NULL || out->plan == NULL) {
        shadow_flip_fini(out);
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    return true;
}

json_t *shadow_outline(struct cutover *c, const struct shadow *shadow, struct failure *f)
{
    json_t *create = shadow->direction == SHADOW_FORWARD && shadow->to == 0
                         ? shadow_create(c, shadow, f)
                         : json_array();
    json_t *finish = create != NULL ? shadow_finish(c, shadow, f) : NULL;
    PGresult *r = finish != NULL ? shadow_query(c, shadow, shadow_carry_sql, f) : NULL;
    bool ok = r != NULL && json_array_extend(create, finish) == 0;
    const int in_time[] = {COLUMN_FIRST, COLUMN_SQL, COLUMN_AFTER};
    for (size_t k = 0; ok && k < sizeof in_time / sizeof *in_time; k++) {
        for (int i = 0; i < PQntuples(r); i++) {
            const char *sql = value_at(r, i, in_time[k]);
            if (sql != NULL && *sql != '\0') {
                json_array_append_new(create, report_string(sql));
            }
        }
    }
    PQclear(r);
    json_decref(finish);
    if (!ok) {
        json_decref(create);
        create = NULL;
    }
    return create;
}

void shadow_flip_fini(struct shadow_flip *flip)
{
    free(flip->first);
    free(flip->lock);
    free(flip->declare);
    free(flip->body);
    free(flip->plan);
    json_decref(flip->after);
    *flip = (struct shadow_flip){.first = NULL};
}

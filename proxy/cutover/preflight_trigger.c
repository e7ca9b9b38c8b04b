/*
 * The trigger that computes the column: which one it is, and whether it computes what the rule's
 * expression computes; see preflight.h. A body that is one assignment is compared by evaluating
 * both expressions; any other is run on a temporary table, provided that no statement in it can act
 * outside of the row.
 */
#include "proxy/cutover/preflight.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/body.h"

static const char triggers_sql[] =
    "SELECT coalesce(json_agg(json_build_object('oid', t.oid::int8, 'name', t.tgname, "
    "'enabled', t.tgenabled, 'row', t.tgtype & 1 = 1, 'before', t.tgtype & 2 = 2, "
    "'insert', t.tgtype & 4 = 4, 'update', t.tgtype & 16 = 16, 'conditional', t.tgqual IS NOT "
    "NULL, "
    "'definition', pg_get_triggerdef(t.oid), 'function_oid', p.oid::int8, "
    "'function', format('%I.%I(%s)', n.nspname, p.proname, "
    "  pg_get_function_identity_arguments(p.oid)), "
    "'language', l.lanname, 'system', n.nspname = 'pg_catalog', 'source', p.prosrc, "
    "'call', substring(pg_get_triggerdef(t.oid) FROM 'EXECUTE (?:FUNCTION|PROCEDURE) (.*)$')) "
    "ORDER BY t.tgname), '[]') FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid "
    "JOIN pg_language l ON l.oid = p.prolang JOIN pg_namespace n ON n.oid = p.pronamespace "
    "WHERE t.tgrelid = {rel} AND NOT t.tgisinternal AND t.tgname NOT LIKE 'pgsluice\\_%'";

/* Why the function must stay when its trigger goes, or NULL. $1 function, $2 trigger. */
static const char function_stays_sql[] =
    "SELECT CASE "
    "WHEN EXISTS (SELECT FROM pg_trigger WHERE tgfoid = p.oid AND oid <> $2::oid) THEN "
    "  (SELECT format('trigger %I of %s uses it as well', tgname, tgrelid::regclass) "
    "  FROM pg_trigger WHERE tgfoid = p.oid AND oid <> $2::oid LIMIT 1) "
    "WHEN EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_proc'::regclass AND refobjid = "
    "p.oid "
    "  AND NOT (classid = 'pg_trigger'::regclass AND objid = $2::oid)) THEN "
    "  'something else depends on it' "
    "WHEN EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid "
    "  AND deptype = 'e') THEN 'it belongs to an extension' "
    "WHEN NOT pg_has_role(p.proowner, 'USAGE') THEN format('it belongs to %s', "
    "  pg_get_userbyid(p.proowner)) "
    "WHEN NOT has_schema_privilege(p.pronamespace, 'CREATE') THEN "
    "  'it could not be created again in its schema' "
    "WHEN EXISTS (SELECT FROM aclexplode(p.proacl) g WHERE g.grantor <> p.proowner) THEN "
    "  'it has grants that are not its owner''s' "
    "WHEN NOT has_language_privilege(l.oid, 'USAGE') OR NOT l.lanpltrusted THEN "
    "  format('language %s is not trusted', l.lanname) END "
    "FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.oid = $1::oid";

/* What a rollback puts back. $1 trigger, $2 function, $3 'yes' when the function goes with it, $4
 * the table, $5 the column (both quoted), $6 the default's text. */
static const char taken_away_sql[] =
    "SELECT json_build_object('default', CASE WHEN $6::text IS NULL THEN '[]'::json ELSE "
    "json_build_array(format('ALTER TABLE %s ALTER COLUMN %s SET DEFAULT %s', $4::text, $5::text, "
    "$6::text)) END, "
    "'function_name', (SELECT format('%I.%I(%s)', n.nspname, p.proname, "
    "  pg_get_function_identity_arguments(p.oid)) FROM pg_proc p "
    "  JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = $2::oid), "
    "'function_text', (SELECT pg_get_functiondef(oid) FROM pg_proc WHERE oid = $2::oid), "
    "'trigger_name', (SELECT tgname FROM pg_trigger WHERE oid = $1::oid), "
    "'function', coalesce((SELECT json_agg(s ORDER BY ord) FROM (SELECT 1 AS ord, "
    "  pg_get_functiondef(p.oid) AS s FROM p UNION ALL SELECT 2, format('ALTER FUNCTION %s OWNER "
    "TO "
    "  %I', p.name, pg_get_userbyid(p.proowner)) FROM p UNION ALL SELECT 3, "
    "  format('REVOKE ALL ON FUNCTION %s FROM PUBLIC, %I', p.name, pg_get_userbyid(p.proowner)) "
    "  FROM p WHERE p.proacl IS NOT NULL UNION ALL SELECT 4, format('GRANT EXECUTE ON FUNCTION %s "
    "TO "
    "  %s%s', p.name, CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE "
    "  quote_ident(pg_get_userbyid(g.grantee)) END, CASE WHEN g.is_grantable THEN "
    "  ' WITH GRANT OPTION' ELSE '' END) FROM p, aclexplode(p.proacl) g UNION ALL SELECT 5, "
    "  format('COMMENT ON FUNCTION %s IS %L', p.name, obj_description(p.oid, 'pg_proc')) FROM p "
    "  WHERE obj_description(p.oid, 'pg_proc') IS NOT NULL) x), '[]'::json), "
    "'trigger', coalesce((SELECT json_agg(s ORDER BY ord) FROM (SELECT 1 AS ord, "
    "  pg_get_triggerdef(t.oid) AS s FROM t UNION ALL SELECT 2, format('ALTER TABLE %s %s TRIGGER "
    "  %I', $4::text, CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' "
    "  ELSE 'ENABLE ALWAYS' END, t.tgname) FROM t WHERE t.tgenabled <> 'O' UNION ALL SELECT 3, "
    "  format('COMMENT ON TRIGGER %I ON %s IS %L', t.tgname, $4::text, "
    "  obj_description(t.oid, 'pg_trigger')) FROM t "
    "  WHERE obj_description(t.oid, 'pg_trigger') IS NOT NULL) x), '[]'::json)) "
    "FROM (SELECT) one";

static const char taken_away_ctes[] =
    "WITH p AS (SELECT p.*, format('%I.%I(%s)', n.nspname, p.proname, "
    "pg_get_function_identity_arguments(p.oid)) AS name FROM pg_proc p "
    "JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = $2::oid AND $3::text = 'yes'), "
    "t AS (SELECT * FROM pg_trigger WHERE oid = $1::oid) ";

static const char *get(const json_t *from, const char *key)
{
    const char *text = json_string_value(json_object_get(from, key));
    return text != NULL ? text : "";
}

static bool is_set(const json_t *from, const char *key)
{
    return json_is_true(json_object_get(from, key));
}

/* What one trigger may do to the column. */
static bool classify(const struct cutover *c, const json_t *trigger, struct body *out)
{
    *out = (struct body){.kind = BODY_UNRELATED};
    const char *language = get(trigger, "language");
    if (strcmp(language, "plpgsql") == 0) {
        return body_read(get(trigger, "source"), c->rule->column, out);
    }
    bool compiled = strcmp(language, "c") == 0 || strcmp(language, "internal") == 0;
    const char *where = compiled ? get(trigger, "call") : get(trigger, "source");
    if (strstr(where, c->rule->column) != NULL) {
        out->kind = BODY_OTHER;
    }
    return true;
}

/* The triggers that fire before a row is written and may touch the column. */
struct candidates {
    const json_t *computing; /* borrowed */
    struct body body;        /* of `computing` */
    size_t count;
    char *names;
};

static bool find_candidates(struct cutover *c, const json_t *triggers, struct candidates *out)
{
    struct text names;
    size_t i;
    const json_t *trigger;
    bool ok = text_begin(&names);
    *out = (struct candidates){.computing = NULL};
    if (!ok) {
        return false;
    }
    json_array_foreach(triggers, i, trigger)
    {
        struct body body;
        bool writes = is_set(trigger, "row") && is_set(trigger, "before") &&
                      (is_set(trigger, "insert") || is_set(trigger, "update"));
        if (!ok || !writes) {
            continue;
        }
        ok = classify(c, trigger, &body);
        if (!ok || body.kind == BODY_UNRELATED) {
            continue;
        }
        fprintf(names.out, "%s%s", out->count > 0 ? ", " : "", get(trigger, "name"));
        out->count++;
        free(out->body.expression);
        out->body = body;
        out->computing = trigger;
    }
    out->names = text_end(&names);
    return ok && out->names != NULL;
}

static void candidates_fini(struct candidates *found)
{
    free(found->body.expression);
    free(found->names);
}

/* Real rows and made-up ones: text of every kind, integers at their ends, NULL. */
static const char samples_sql[] = "SELECT * FROM (SELECT * FROM {name} LIMIT 1000) real_rows";

static const char boundaries_sql[] =
    "SELECT row_.* FROM (SELECT (SELECT jsonb_object_agg(a.attname, CASE "
    "  WHEN t.typcategory = 'S' AND t.typtype = 'b' THEN to_jsonb(left(s.text, "
    "    CASE WHEN a.atttypmod > 4 THEN a.atttypmod - 4 ELSE 10000 END)) "
    "  WHEN t.typname = 'int2' THEN to_jsonb((ARRAY[0, 1, -1, 32767, -32768])[1 + s.n % 5]) "
    "  WHEN t.typname = 'int4' THEN to_jsonb((ARRAY[0, 1, -1, 2147483647, "
    "    -2147483648])[1 + s.n % 5]) "
    "  WHEN t.typname = 'int8' THEN to_jsonb((ARRAY[0, 1, -1, 9223372036854775807, "
    "    -9223372036854775807])[1 + s.n % 5]) "
    "  WHEN t.typname = 'uuid' THEN to_jsonb(md5(s.text)) END) FROM pg_attribute a "
    "  JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = {rel} AND a.attnum > 0 "
    "  AND NOT a.attisdropped) AS made FROM unnest(ARRAY['', 'a', 'test-collection', 'coll-0', "
    "  'coll-1', '00000000-0000-0000-0000-000000000000', "
    "  '550E8400-E29B-41D4-A716-446655440000', U&'caf\\00E9', U&'cafe\\0301', "
    "U&'\\65E5\\672C\\8A9E', "
    "  U&'\\+01F600', ' a', 'a ', E'tab\\tx', repeat('x', 255), repeat('y', 2000), '0', '12', "
    "  'abcdefghijk', 'abcdefghijkl', 'abcdefghijklm', NULL]::text[]) WITH ORDINALITY s(text, n)) "
    "b, "
    "LATERAL jsonb_populate_record(NULL::{name}, b.made) row_";

/* Compares the assignment's expression with the rule's on `rows`. NEW is the rows' alias, so that
 * the trigger's own text is evaluated as it stands. -1 with `f` when that fails. */
static long compare_expressions(struct cutover *c, const char *expression, const char *rows,
                                long *total, struct failure *f)
{
    char *theirs = text_printf("((%s\n)::%s)", expression, c->table.type);
    char *ours = context_expand(c, "{value}");
    char *differ = theirs != NULL && ours != NULL ? context_differ(c, theirs, ours) : NULL;
    char *template = differ != NULL ? text_printf("SELECT count(*), count(*) FILTER (WHERE %s) "
                                                  "FROM (%s) AS new",
                                                  differ, rows)
                                    : NULL;
    long different = -1;
    if (template == NULL) {
        fail(f, EXIT_REFUSED, "out of memory");
    } else {
        PGresult *r = context_try(c, template, 0, f);
        if (r != NULL) {
            *total += strtol(PQgetvalue(r, 0, 0), NULL, 10);
            different = strtol(PQgetvalue(r, 0, 1), NULL, 10);
            PQclear(r);
        }
    }
    free(theirs);
    free(ours);
    free(differ);
    free(template);
    return different;
}

static void check_assignment(struct cutover *c, const char *expression)
{
    struct failure f;
    long total = 0;
    const char *same_remedy = "make the rule's expression say what the trigger computes, or decide "
                              "for the new values and correct the rows first";
    long different = compare_expressions(c, expression, samples_sql, &total, &f);
    if (different < 0) {
        report_check(c, "trigger-body", CHECK_BLOCK, same_remedy,
                     "the trigger computes %s, which cannot be compared with the expression: %s",
                     expression, f.msg);
        return;
    }
    long made = compare_expressions(c, expression, boundaries_sql, &total, &f);
    if (made < 0) {
        report_check(c, "trigger-body", different > 0 ? CHECK_BLOCK : CHECK_WARN,
                     "the values of the real rows are compared all the same",
                     "the trigger computes %s; on made-up values the comparison fails: %s",
                     expression, f.msg);
    } else if (different + made > 0) {
        report_check(c, "trigger-body", CHECK_BLOCK, same_remedy,
                     "the trigger computes %s: another value than %s for %ld of %ld rows",
                     expression, c->rule->expression, different + made, total);
    } else {
        report_check(c, "trigger-body", CHECK_PASS, NULL,
                     "the trigger computes %s: the expression's value for each of %ld rows "
                     "(stored ones and edge cases)",
                     expression, total);
    }
}

/* Runs the function as a trigger of a temporary table. The rows go in without a key and with
 * another row's; all that may come out changed is the key. The caller rolls back. */
static bool run_trigger(struct cutover *c, const char *call, long *wrong, long *changed,
                        long *total, struct failure *f)
{
    char *value = context_expand(c, "{value}");
    char *differ = value != NULL ? context_differ(c, c->column, value) : NULL;
    char *setup = text_printf(
        "CREATE TEMP TABLE pgsluice_probe (LIKE {name}); "
        "DO $loosen$ DECLARE n name; BEGIN FOR n IN SELECT attname FROM pg_attribute "
        "WHERE attrelid = 'pg_temp.pgsluice_probe'::regclass AND attnum > 0 AND attnotnull LOOP "
        "EXECUTE format('ALTER TABLE pg_temp.pgsluice_probe ALTER COLUMN %%I DROP NOT NULL', n); "
        "END LOOP; END $loosen$; "
        "CREATE TEMP TABLE pgsluice_rows AS SELECT * FROM (%s) r WITH DATA; "
        "INSERT INTO pg_temp.pgsluice_rows SELECT * FROM pg_temp.pgsluice_rows; "
        "UPDATE pg_temp.pgsluice_rows r SET {col} = CASE WHEN x.n %% 2 = 1 THEN (SELECT o.{col} "
        "FROM pg_temp.pgsluice_rows o WHERE o.{col} IS DISTINCT FROM r.{col} LIMIT 1) END "
        "FROM (SELECT ctid AS at, row_number() OVER (ORDER BY ctid) AS n "
        "FROM pg_temp.pgsluice_rows) x WHERE x.at = r.ctid; "
        "CREATE TRIGGER pgsluice_probe BEFORE INSERT ON pg_temp.pgsluice_probe "
        "FOR EACH ROW EXECUTE PROCEDURE %s; "
        "INSERT INTO pg_temp.pgsluice_probe SELECT * FROM pg_temp.pgsluice_rows",
        samples_sql, call);
    char *sql = setup != NULL ? context_expand(c, setup) : NULL;
    char *count =
        differ != NULL
            ? text_printf("SELECT (SELECT count(*) FROM pg_temp.pgsluice_probe WHERE %s), "
                          "(SELECT count(*) FROM (SELECT to_jsonb(r) - {key} FROM "
                          "pg_temp.pgsluice_rows r EXCEPT ALL SELECT to_jsonb(p) - {key} FROM "
                          "pg_temp.pgsluice_probe p) x), "
                          "(SELECT count(*) FROM pg_temp.pgsluice_rows)",
                          differ)
            : NULL;
    bool ok = false;
    if (sql == NULL || count == NULL) {
        fail(f, EXIT_REFUSED, "out of memory");
    } else if (control_run(c->control, sql, 0, f)) {
        PGresult *r = context_query(c, count, 0, f);
        ok = r != NULL;
        if (ok) {
            *wrong = strtol(PQgetvalue(r, 0, 0), NULL, 10);
            *changed = strtol(PQgetvalue(r, 0, 1), NULL, 10);
            *total = strtol(PQgetvalue(r, 0, 2), NULL, 10);
            PQclear(r);
        }
    }
    free(value);
    free(differ);
    free(setup);
    free(sql);
    free(count);
    return ok;
}

static void check_by_running(struct cutover *c, const json_t *trigger)
{
    struct failure f = {.code = EXIT_DONE};
    struct failure ignored;
    long wrong = 0;
    long changed = 0;
    long total = 0;
    const char *remedy = "bring the function into the form BEGIN NEW.column := expression; "
                         "RETURN NEW; END";
    bool ok = control_run(c->control, "SAVEPOINT pgsluice_run", STATEMENT_TIMEOUT_MS, &f) &&
              run_trigger(c, get(trigger, "call"), &wrong, &changed, &total, &f);
    if (!control_run(c->control, "ROLLBACK TO SAVEPOINT pgsluice_run", STATEMENT_TIMEOUT_MS,
                     &ignored)) {
        ok = false;
    }
    if (!ok) {
        report_check(
            c, "trigger-body", CHECK_BLOCK, remedy,
            "%s is more than one assignment, and running it on a temporary table fails: %s",
            get(trigger, "function"), f.msg);
    } else if (wrong > 0 || changed > 0) {
        report_check(c, "trigger-body", CHECK_BLOCK, remedy,
                     "%s was run on %ld rows: %ld keys are not the expression's, %ld rows come out "
                     "with other columns changed",
                     get(trigger, "function"), total, wrong, changed);
    } else {
        report_check(c, "trigger-body", total > 0 ? CHECK_PASS : CHECK_WARN,
                     total > 0 ? NULL : "the table has no rows to compare on; read the function",
                     "%s was run on %ld rows (with and without a key): the expression's value "
                     "each time, and no other column changed",
                     get(trigger, "function"), total);
    }
}

/* Whether the function goes, and what a rollback will need. */
static bool read_taken_away(struct cutover *c, struct failure *f)
{
    struct cutover_trigger *t = &c->trigger;
    char trigger[16];
    char function[16];
    snprintf(trigger, sizeof trigger, "%u", t->oid);
    snprintf(function, sizeof function, "%u", t->function_oid);
    PGresult *r = control_query(c->control, function_stays_sql, 2,
                                (const char *const[]){function, trigger}, STATEMENT_TIMEOUT_MS, f);
    if (r == NULL) {
        return false;
    }
    bool has = PQntuples(r) > 0;
    free(t->kept_since);
    t->kept_since = has && !PQgetisnull(r, 0, 0) ? strdup(PQgetvalue(r, 0, 0)) : NULL;
    t->drop_with = has && PQgetisnull(r, 0, 0);
    PQclear(r);
    char *sql = text_printf("%s%s", taken_away_ctes, taken_away_sql);
    if (sql == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    r = control_query(c->control, sql, 6,
                      (const char *const[]){trigger, function, t->drop_with ? "yes" : "no",
                                            c->relation, c->column, c->table.definition},
                      STATEMENT_TIMEOUT_MS, f);
    free(sql);
    if (r == NULL) {
        return false;
    }
    free(c->capture);
    c->capture = strdup(PQgetvalue(r, 0, 0));
    PQclear(r);
    return c->capture != NULL || fail(f, EXIT_REFUSED, "out of memory");
}

static bool remember(struct cutover *c, const json_t *trigger, struct failure *f)
{
    struct cutover_trigger *t = &c->trigger;
    t->oid = 0;
    t->function_oid = 0;
    free(t->name);
    free(t->name_text);
    free(t->function);
    t->name = t->name_text = t->function = NULL;
    if (trigger != NULL) {
        t->oid = (unsigned)json_integer_value(json_object_get(trigger, "oid"));
        t->function_oid = (unsigned)json_integer_value(json_object_get(trigger, "function_oid"));
        t->name = strdup(get(trigger, "name"));
        t->name_text = control_quote_literal(c->control, get(trigger, "name"));
        t->function = strdup(get(trigger, "function"));
        if (t->name == NULL || t->name_text == NULL || t->function == NULL) {
            return fail(f, EXIT_REFUSED, "out of memory");
        }
    }
    return read_taken_away(c, f);
}

static void check_computing(struct cutover *c, const json_t *trigger, const struct body *body)
{
    const char *name = get(trigger, "name");
    if (!is_set(trigger, "insert") || is_set(trigger, "conditional")) {
        report_check(c, "trigger", CHECK_BLOCK, "drop the condition, or the trigger",
                     "trigger %s does not compute the column for every inserted row: %s", name,
                     get(trigger, "definition"));
        return;
    }
    if (strcmp(get(trigger, "enabled"), "D") == 0) {
        report_check(c, "trigger", CHECK_WARN, NULL,
                     "trigger %s is disabled: nothing computes the "
                     "column now; a rollback would restore it disabled",
                     name);
    } else if (!is_set(trigger, "update")) {
        report_check(c, "trigger", CHECK_PASS, NULL,
                     "trigger %s computes the column, on INSERT only: an UPDATE leaves the key as "
                     "it was, the generated column will follow",
                     name);
    } else {
        report_check(c, "trigger", CHECK_PASS, NULL, "trigger %s computes the column", name);
    }
    switch (body->kind) {
    case BODY_ASSIGNMENT:
        check_assignment(c, body->expression);
        break;
    case BODY_PURE:
        check_by_running(c, trigger);
        break;
    case BODY_UNRELATED:
    case BODY_OTHER:
        report_check(c, "trigger-body", CHECK_BLOCK,
                     "bring the function into the form BEGIN NEW.column := expression; RETURN NEW; "
                     "END, and what else it does into a function and trigger of its own",
                     "%s does more than compute the column, so it cannot be dropped: %s",
                     get(trigger, "function"), get(trigger, "source"));
        break;
    }
    if (c->trigger.drop_with) {
        report_check(c, "function", CHECK_PASS, NULL, "%s goes with its trigger",
                     c->trigger.function);
    } else {
        report_check(c, "function", CHECK_PASS, NULL, "%s stays: %s", c->trigger.function,
                     c->trigger.kept_since != NULL ? c->trigger.kept_since : "?");
    }
}

bool preflight_trigger(struct cutover *c, struct failure *f)
{
    json_t *triggers = context_json(context_query(c, triggers_sql, STATEMENT_TIMEOUT_MS, f), f);
    if (triggers == NULL) {
        return false;
    }
    struct candidates found;
    bool ok = find_candidates(c, triggers, &found) || fail(f, EXIT_REFUSED, "out of memory");
    ok = ok && remember(c, found.count == 1 ? found.computing : NULL, f);
    if (ok && found.count == 0) {
        report_check(c, "trigger", CHECK_WARN, NULL,
                     "no trigger computes the column: its values come from the clients");
    } else if (ok && found.count > 1) {
        report_check(c, "trigger", CHECK_BLOCK,
                     "leave one trigger that computes the column; a BEFORE trigger that reads it "
                     "would find it NULL once it is generated",
                     "%zu BEFORE triggers may write or read the column: %s", found.count,
                     found.names);
    } else if (ok) {
        check_computing(c, found.computing, &found.body);
    }
    candidates_fini(&found);
    json_decref(triggers);
    return ok;
}

char *preflight_trigger_digest(struct cutover *c, struct failure *f)
{
    json_t *triggers = context_json(context_query(c, triggers_sql, STATEMENT_TIMEOUT_MS, f), f);
    char *digest = NULL;
    if (triggers != NULL && read_taken_away(c, f)) {
        digest = json_dumps(triggers, JSON_COMPACT | JSON_SORT_KEYS);
        if (digest == NULL) {
            fail(f, EXIT_REFUSED, "out of memory");
        }
    }
    json_decref(triggers);
    return digest;
}

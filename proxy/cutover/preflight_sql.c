/*
 * The preflight's checks of the SQL that meets the column: functions at the server, and statements
 * that pg_stat_statements remembers; see preflight.h.
 */
#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/preflight_parts.h"

/*
 * Functions whose text names the column. Whether they write it can only be seen from the outside:
 * {insert} is an INSERT INTO the table whose column list has the column, {update} an UPDATE of the
 * table whose SET has it.
 */
static const char functions_sql[] =
    "SELECT json_build_object('writers', coalesce(json_agg(name ORDER BY name) "
    "FILTER (WHERE writes), '[]'), 'others', coalesce(json_agg(name ORDER BY name) "
    "FILTER (WHERE NOT writes), '[]')) FROM (SELECT format('%s.%s', n.nspname, p.proname) AS name, "
    "p.prosrc ~* format('\\minsert\\s+into\\s+(\\w+\\.)?\"?%s\"?\\s*(as\\s+\\w+\\s*)?"
    "\\([^)]*\\m%s\\M[^)]*\\)', w.tab, w.col) OR p.prosrc ~* format("
    "'\\mupdate\\s+(only\\s+)?(\\w+\\.)?\"?%s\"?\\s+((as\\s+)?\\w+\\s+)?set\\s[^;]*?\\m%s\"?\\s*=',"
    " "
    "w.tab, w.col) AS writes FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace, "
    "(SELECT regexp_replace(relname, '(\\W)', '\\\\\\1', 'g') AS tab, "
    "regexp_replace({key}, '(\\W)', '\\\\\\1', 'g') AS col FROM pg_class WHERE oid = {rel}) w "
    "WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsluice') "
    "AND position(lower({key}) IN lower(p.prosrc)) > 0 AND p.oid NOT IN "
    "(SELECT tgfoid FROM pg_trigger WHERE oid = {trigger})) q";

static bool check_functions(struct cutover *c, struct failure *f)
{
    json_t *found = context_json(context_query(c, functions_sql, STATEMENT_TIMEOUT_MS, f), f);
    if (found == NULL) {
        return false;
    }
    char *writers = text_join(json_object_get(found, "writers"));
    char *others = text_join(json_object_get(found, "others"));
    json_decref(found);
    if (writers == NULL || others == NULL) {
        free(writers);
        free(others);
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    if (*writers != '\0') {
        report_check(c, "functions", CHECK_BLOCK, "take the column out of what they write",
                     "functions at the server write the column, which no proxy can see; they would "
                     "fail with 428C9: %s%s%s",
                     writers, *others != '\0' ? "; others name it: " : "", others);
    } else if (*others != '\0') {
        report_check(c, "functions", CHECK_WARN,
                     "read them: an INSERT or UPDATE in a function that names the column will fail "
                     "with 428C9, and no proxy can see it",
                     "functions whose text names the column: %s", others);
    } else {
        report_check(c, "functions", CHECK_PASS, NULL, "no function's text names the column");
    }
    free(writers);
    free(others);
    return true;
}

/* The view's name, wherever the extension is, stands between the two. */
static const char statements_head[] =
    "SELECT coalesce(json_agg(x), '[]') FROM (SELECT format('%s (%s calls)', "
    "left(regexp_replace(s.query, '\\s+', ' ', 'g'), 90), sum(s.calls)) AS x "
    "FROM ";

static const char statements_tail[] =
    " s, (SELECT regexp_replace(relname, '(\\W)', '\\\\\\1', 'g') AS tab, "
    "regexp_replace({key}, '(\\W)', '\\\\\\1', 'g') AS col FROM pg_class WHERE oid = {rel}) w "
    "WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND s.userid <> (SELECT oid FROM pg_roles WHERE rolname = current_user) AND ("
    "s.query ~* format('\\m(insert\\s+into|copy)\\s+(\\w+\\.)?\"?%s\"?\\s*\\([^)]*\\m%s\\M', "
    "  w.tab, w.col) "
    "OR s.query ~* format('\\mupdate\\s+(only\\s+)?(\\w+\\.)?\"?%s\"?\\s[^;]*\\m%s\"?\\s*=', "
    "  w.tab, w.col) "
    "OR s.query ~* format('\\mmerge\\s+into\\s+(\\w+\\.)?\"?%s\"?\\s[^;]*\\m%s\\M', w.tab, "
    "  w.col) "
    "OR s.query ~* format('\\minsert\\s+into\\s+(\\w+\\.)?\"?%s\"?\\s+(values|select)\\M', w.tab) "
    "OR s.query ~* format('\\mcopy\\s+(\\w+\\.)?\"?%s\"?\\s+from\\M', w.tab)) "
    "GROUP BY s.query ORDER BY sum(s.calls) DESC LIMIT 5) q";

/* The view's quoted name, or NULL with `f` untouched where there is none. */
static bool statements_view(struct cutover *c, char **out, struct failure *f)
{
    PGresult *r = context_query(c,
                                "SELECT format('%I.pg_stat_statements', n.nspname) "
                                "FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace "
                                "WHERE e.extname = 'pg_stat_statements'",
                                STATEMENT_TIMEOUT_MS, f);
    *out = r != NULL && PQntuples(r) > 0 ? strdup(PQgetvalue(r, 0, 0)) : NULL;
    bool ok = r != NULL;
    PQclear(r);
    return ok;
}

static bool check_statements(struct cutover *c, struct failure *f)
{
    char *view = NULL;
    struct failure why = {.code = EXIT_DONE};
    if (!statements_view(c, &view, f)) {
        return false;
    }
    if (view == NULL) {
        report_check(c, "statements", CHECK_PASS, NULL,
                     "pg_stat_statements is not installed; pgsluice audit report says who supplies "
                     "the column through this proxy");
        return true;
    }
    char *sql = text_printf("%s%s%s", statements_head, view, statements_tail);
    json_t *found =
        sql != NULL ? context_json(context_try(c, sql, STATEMENT_TIMEOUT_MS, &why), &why) : NULL;
    free(sql);
    free(view);
    char *text = found != NULL ? text_join(found) : NULL;
    if (text == NULL) {
        report_check(c, "statements", CHECK_WARN, "add it to shared_preload_libraries, or drop it",
                     "pg_stat_statements cannot be read: %s", why.msg);
    } else if (*text != '\0') {
        report_check(c, "statements", CHECK_WARN,
                     "see that they come through this proxy, or take the column out of them",
                     "statements since pg_stat_statements was reset that supply the column, or "
                     "rely on the columns' order: %s",
                     text);
    } else {
        report_check(c, "statements", CHECK_PASS, NULL,
                     "pg_stat_statements knows none that supplies the column");
    }
    free(text);
    json_decref(found);
    return true;
}

bool preflight_sql(struct cutover *c, struct failure *f)
{
    return check_functions(c, f) && check_statements(c, f);
}

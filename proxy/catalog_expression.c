/*
 * The expression is tried over a row of NULLs that has the table's columns, so that the table
 * itself is neither locked nor read; see catalog_expression.h.
 */
#include "proxy/catalog_expression.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRY_TIMEOUT_MS = 10000 };

static bool put_identifier(FILE *out, struct control *control, const char *name)
{
    char *quoted = control_quote_identifier(control, name);
    const bool ok = quoted != NULL && fputs(quoted, out) >= 0;
    free(quoted);
    return ok;
}

/* LIMIT 0: analysed and planned, and not executed. NULL when out of memory. */
static char *compose(struct control *control, const struct config_rule *rule,
                     const struct rule_source *sources, size_t count)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    if (out == NULL) {
        return NULL;
    }
    /* a comment at the expression's end ends with its line */
    bool ok = fprintf(out, "SELECT (%s\n) FROM (SELECT ", rule->expression) >= 0;
    const char *comma = "";
    for (size_t i = 0; ok && i < count; i++) {
        if (strcmp(sources[i].column, rule->column) != 0) {
            ok = fprintf(out, "%sNULL::%s AS ", comma, sources[i].type) >= 0 &&
                 put_identifier(out, control, sources[i].column);
            comma = ", ";
        }
    }
    ok = ok && fputs(") AS ", out) >= 0 && put_identifier(out, control, rule->table) &&
         fputs(" LIMIT 0", out) >= 0;
    if (fclose(out) != 0 || !ok) {
        free(text);
        return NULL;
    }
    return text;
}

/* A column's type may be in a schema that the control role does not enter: then nothing is known.
 */
static bool is_forbidden(const char *sqlstate)
{
    return strcmp(sqlstate, "42501") == 0;
}

/* Of the expression's own making: syntax and names, what is not supported, values. */
static bool is_complaint(const char *sqlstate)
{
    if (is_forbidden(sqlstate)) {
        return false;
    }
    static const char *const classes[] = {"42", "0A", "22"};
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        if (strncmp(sqlstate, classes[i], 2) == 0) {
            return true;
        }
    }
    return false;
}

bool catalog_try_expression(struct control *control, const struct config_rule *rule,
                            const struct rule_source *sources, size_t count, char **complaint,
                            struct failure *f)
{
    *complaint = NULL;
    char *sql = compose(control, rule, sources, count);
    if (sql == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    struct failure why = {.code = EXIT_DONE};
    if (!control_run(control, "SAVEPOINT pgsluice_expression", TRY_TIMEOUT_MS, f)) {
        free(sql);
        return false;
    }
    PGresult *r = control_query(control, sql, 0, NULL, TRY_TIMEOUT_MS, &why);
    free(sql);
    const bool is_understood = r != NULL;
    PQclear(r);
    const bool complains = !is_understood && is_complaint(why.sqlstate);
    if (!is_understood && !complains && !is_forbidden(why.sqlstate)) {
        *f = why;
        return false;
    }
    if (complains &&
        asprintf(complaint,
                 "rule %s: the server does not understand expression = %.200s over "
                 "the other columns of %s.%s: %.200s",
                 rule->name, rule->expression, rule->schema, rule->table, why.msg) < 0) {
        *complaint = NULL;
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    return control_run(control, "ROLLBACK TO SAVEPOINT pgsluice_expression", TRY_TIMEOUT_MS, f);
}

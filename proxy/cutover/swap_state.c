/* The row in pgsluice.swap; see swap_state.h. */
#include "proxy/cutover/swap_state.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LEAD_TURNS = 10, LEAD_PAUSE_MS = 200 };

const char swap_state_create_sql[] =
    "CREATE TABLE IF NOT EXISTS pgsluice.swap ("
    "table_schema text NOT NULL, "
    "table_name text NOT NULL, "
    "column_name text NOT NULL, "
    "owner text NOT NULL, " /* the run that goes on with it */
    "phase text NOT NULL, "
    "relation oid NOT NULL, "
    "shadow oid NOT NULL, "
    "expression text NOT NULL, "
    "digest text NOT NULL, "
    "cursor text[], "
    "upto text[], "
    "copied bigint NOT NULL DEFAULT 0, "
    "made_schema boolean NOT NULL, "
    "validate jsonb NOT NULL DEFAULT '[]', " /* foreign keys, after the flip */
    "began_at timestamptz NOT NULL DEFAULT clock_timestamp(), "
    "changed_at timestamptz NOT NULL DEFAULT clock_timestamp(), "
    "PRIMARY KEY (table_schema, table_name))";

static const char *const phase_names[] = {
    [SWAP_NONE] = "none", [SWAP_COPY] = "copy", [SWAP_FINISH] = "finish",
    [SWAP_BAKE] = "bake", [SWAP_BACK] = "back", [SWAP_DROP] = "drop",
};

static const char *const phase_texts[] = {
    [SWAP_NONE] = "nothing",           [SWAP_COPY] = "copying rows",
    [SWAP_FINISH] = "all rows copied", [SWAP_BAKE] = "flipped, the old table is kept",
    [SWAP_BACK] = "flipped back",      [SWAP_DROP] = "cleaning up",
};

const char *swap_phase_text(enum swap_phase phase)
{
    return phase_texts[phase];
}

static enum swap_phase phase_of(const char *name)
{
    size_t count = sizeof phase_names / sizeof *phase_names;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(phase_names[i], name) == 0) {
            return (enum swap_phase)i;
        }
    }
    return SWAP_NONE;
}

static bool table_exists(struct cutover *c, bool *out, struct failure *f)
{
    PGresult *r = control_query(c->control, "SELECT to_regclass('pgsluice.swap') IS NOT NULL", 0,
                                NULL, STATEMENT_TIMEOUT_MS, f);
    *out = r != NULL && PQgetvalue(r, 0, 0)[0] == 't';
    PQclear(r);
    return r != NULL;
}

bool swap_state_read(struct cutover *c, struct swap_row *out, struct failure *f)
{
    bool exists;
    *out = (struct swap_row){.phase = SWAP_NONE};
    if (!table_exists(c, &exists, f)) {
        return false;
    }
    if (!exists) {
        return true;
    }
    PGresult *r = control_query(c->control,
                                "SELECT phase, relation, shadow, expression, digest, cursor, "
                                "copied, made_schema, validate, "
                                "upto "
                                "FROM pgsluice.swap WHERE table_schema = $1 AND table_name = $2",
                                2, (const char *const[]){c->rule->schema, c->rule->table},
                                STATEMENT_TIMEOUT_MS, f);
    if (r == NULL) {
        return false;
    }
    bool ok = true;
    if (PQntuples(r) > 0) {
        out->phase = phase_of(PQgetvalue(r, 0, 0));
        out->from = (unsigned)strtoul(PQgetvalue(r, 0, 1), NULL, 10);
        out->to = (unsigned)strtoul(PQgetvalue(r, 0, 2), NULL, 10);
        out->expression = strdup(PQgetvalue(r, 0, 3));
        out->digest = strdup(PQgetvalue(r, 0, 4));
        out->cursor = PQgetisnull(r, 0, 5) ? NULL : strdup(PQgetvalue(r, 0, 5));
        out->upto = PQgetisnull(r, 0, 9) ? NULL : strdup(PQgetvalue(r, 0, 9));
        out->copied = strtoll(PQgetvalue(r, 0, 6), NULL, 10);
        out->made_schema = PQgetvalue(r, 0, 7)[0] == 't';
        out->validate = json_loads(PQgetvalue(r, 0, 8), 0, NULL);
        ok = (out->expression != NULL && out->digest != NULL && out->validate != NULL) ||
             fail(f, EXIT_REFUSED, "out of memory");
    }
    PQclear(r);
    return ok;
}

void swap_row_fini(struct swap_row *row)
{
    free(row->expression);
    free(row->digest);
    free(row->cursor);
    free(row->upto);
    json_decref(row->validate);
    *row = (struct swap_row){.phase = SWAP_NONE};
}

/* "table_schema = 'public' AND table_name = 'chunks'" */
static char *where(const struct cutover *c)
{
    char *schema = control_quote_literal(c->control, c->rule->schema);
    char *table = control_quote_literal(c->control, c->rule->table);
    char *sql = schema == NULL || table == NULL
                    ? NULL
                    : text_printf("table_schema = %s AND table_name = %s", schema, table);
    free(schema);
    free(table);
    return sql;
}

char *swap_state_insert_sql(const struct cutover *c, const char *shadow, const char *digest,
                            bool made_schema)
{
    char *name = control_quote_literal(c->control, shadow);
    char *schema = control_quote_literal(c->control, c->rule->schema);
    char *table = control_quote_literal(c->control, c->rule->table);
    char *expression = control_quote_literal(c->control, c->rule->expression);
    char *sql =
        schema == NULL || table == NULL || expression == NULL || name == NULL
            ? NULL
            : text_printf(
                  "INSERT INTO pgsluice.swap (table_schema, table_name, column_name, owner, "
                  "phase, relation, shadow, expression, digest, made_schema) VALUES "
                  "(%s, %s, %s, '%s', '%s', %u, %s::regclass, %s, '%s', %s)",
                  schema, table, c->column_text, c->run, phase_names[SWAP_COPY], c->table.oid, name,
                  expression, digest, made_schema ? "true" : "false");
    free(name);
    free(schema);
    free(table);
    free(expression);
    return sql;
}

char *swap_state_enter_sql(const struct cutover *c, enum swap_phase phase, const json_t *validate)
{
    char *condition = where(c);
    char *list = validate != NULL ? json_dumps(validate, 0) : NULL;
    char *value = list != NULL ? control_quote_literal(c->control, list) : NULL;
    char *sql =
        condition == NULL || (validate != NULL && value == NULL)
            ? NULL
            : text_printf("UPDATE pgsluice.swap SET phase = '%s', validate = %s, "
                          "changed_at = clock_timestamp() WHERE %s AND owner = '%s';\n"
                          "IF NOT FOUND THEN RAISE EXCEPTION USING ERRCODE = '" SWAP_TAKEN "', "
                          "MESSAGE = 'another run has taken the swap over'; END IF;\n",
                          phase_names[phase], value != NULL ? value : "validate", condition,
                          c->run);
    free(condition);
    free(list);
    free(value);
    return sql;
}

bool swap_state_lead(struct cutover *c, struct failure *f)
{
    for (unsigned turn = 0; turn < LEAD_TURNS; turn++) {
        PGresult *r = control_query(
            c->control,
            "SELECT pg_try_advisory_lock(hashtext('pgsluice.swap'), hashtext($1 || '.' || $2))", 2,
            (const char *const[]){c->rule->schema, c->rule->table}, STATEMENT_TIMEOUT_MS, f);
        bool leads = r != NULL && PQgetvalue(r, 0, 0)[0] == 't';
        PQclear(r);
        if (r == NULL || leads) {
            return leads;
        }
        nanosleep(&(struct timespec){.tv_nsec = LEAD_PAUSE_MS * 1000000L}, NULL);
    }
    fail(f, EXIT_REFUSED, "another cutover, rollback or finish of this table is under way");
    snprintf(f->sqlstate, sizeof f->sqlstate, SWAP_TAKEN);
    return false;
}

/* Only the backend of this run's own connection, by its process id and the lock it has. */
static void end_leader(struct cutover *c, int process)
{
    struct failure ignored;
    char pid[16];
    snprintf(pid, sizeof pid, "%d", process);
    PQclear(control_query(
        c->control,
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE pid = $3::int AND locktype = "
        "'advisory' AND objsubid = 2 AND classid::bigint = hashtext('pgsluice.swap')::bigint & "
        "4294967295 AND objid::bigint = hashtext($1 || '.' || $2)::bigint & 4294967295",
        3, (const char *const[]){c->rule->schema, c->rule->table, pid}, STATEMENT_TIMEOUT_MS,
        &ignored));
}

bool swap_state_reconnect(struct cutover *c, bool abortable, struct failure *f)
{
    struct control *fresh = NULL;
    if (!context_connect_again(c, abortable, &fresh, f)) {
        return false;
    }
    int process = c->control != NULL ? control_backend_pid(c->control) : 0;
    control_close(c->control);
    c->control = fresh;
    if (process != 0) {
        end_leader(c, process);
    }
    return true;
}

/* UPDATE of the row, with this SET list. */
static bool update(struct cutover *c, const char *set, struct failure *f)
{
    char *condition = where(c);
    char *sql = condition == NULL ? NULL
                                  : text_printf("UPDATE pgsluice.swap SET %s, changed_at = "
                                                "clock_timestamp() WHERE %s",
                                                set, condition);
    bool ok = sql != NULL ? control_run(c->control, sql, STATEMENT_TIMEOUT_MS, f)
                          : fail(f, EXIT_REFUSED, "out of memory");
    free(condition);
    free(sql);
    return ok;
}

bool swap_state_take(struct cutover *c, struct failure *f)
{
    char set[64];
    snprintf(set, sizeof set, "owner = '%s'", c->run);
    return update(c, set, f);
}

bool swap_state_validated(struct cutover *c, struct failure *f)
{
    return update(c, "validate = '[]'", f);
}

bool swap_state_enter(struct cutover *c, enum swap_phase phase, struct failure *f)
{
    char *enter = swap_state_enter_sql(c, phase, NULL);
    char *sql = enter != NULL ? text_printf("DO $phase$ BEGIN %s END $phase$", enter) : NULL;
    bool ok = sql != NULL ? control_run(c->control, sql, STATEMENT_TIMEOUT_MS, f)
                          : fail(f, EXIT_REFUSED, "out of memory");
    free(enter);
    free(sql);
    return ok;
}

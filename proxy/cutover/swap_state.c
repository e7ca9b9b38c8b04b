/* The row in pgsluice.swap; see swap_state.h. */
#include "proxy/cutover/swap_state.h"

#include <stdlib.h>
#include <string.h>

enum { LEAD_WAIT_MS = 3000 };

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
    "flipped_at timestamptz, "
    "bake_until timestamptz, " /* NULL: until somebody says finish */
    "followed bigint NOT NULL DEFAULT 0, "
    "in_step_at timestamptz, "
    "trouble text NOT NULL DEFAULT '', "
    "began_at timestamptz NOT NULL DEFAULT clock_timestamp(), "
    "changed_at timestamptz NOT NULL DEFAULT clock_timestamp(), "
    "PRIMARY KEY (table_schema, table_name))";

static const char *const phase_names[] = {
    [SWAP_NONE] = "none", [SWAP_COPY] = "copy", [SWAP_FINISH] = "finish",
    [SWAP_BAKE] = "bake", [SWAP_BACK] = "back", [SWAP_DROP] = "drop",
};

static const char *const phase_texts[] = {
    [SWAP_NONE] = "nothing", [SWAP_COPY] = "copying rows", [SWAP_FINISH] = "all rows copied",
    [SWAP_BAKE] = "baking",  [SWAP_BACK] = "flipped back", [SWAP_DROP] = "cleaning up",
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

#define UTC(column)                                                                                \
    "coalesce(to_char(" column " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), ''), "

static const char row_sql[] =
    "SELECT phase, relation, shadow, expression, digest, cursor, copied, made_schema, validate, "
    "upto, " UTC("flipped_at") UTC("bake_until")
        UTC("in_step_at") "coalesce(bake_until <= clock_timestamp(), false), followed, trouble "
                          "FROM pgsluice.swap WHERE table_schema = $1 AND table_name = $2";

static void read_bake_time(const PGresult *r, struct swap_bake_time *out)
{
    snprintf(out->since, sizeof out->since, "%s", PQgetvalue(r, 0, 10));
    snprintf(out->until, sizeof out->until, "%s", PQgetvalue(r, 0, 11));
    snprintf(out->in_step, sizeof out->in_step, "%s", PQgetvalue(r, 0, 12));
    out->over = PQgetvalue(r, 0, 13)[0] == 't';
    out->followed = strtoll(PQgetvalue(r, 0, 14), NULL, 10);
    snprintf(out->trouble, sizeof out->trouble, "%s", PQgetvalue(r, 0, 15));
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
    PGresult *r = control_query(c->control, row_sql, 2,
                                (const char *const[]){c->rule->schema, c->rule->table},
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
        read_bake_time(r, &out->bake);
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
    char bake[160] = "";
    if (phase == SWAP_BAKE && c->options.bake_ms > 0) {
        snprintf(bake, sizeof bake,
                 "flipped_at = clock_timestamp(), bake_until = clock_timestamp() + %llu * interval "
                 "'1 ms', ",
                 (unsigned long long)c->options.bake_ms);
    } else if (phase == SWAP_BAKE) {
        snprintf(bake, sizeof bake, "flipped_at = clock_timestamp(), ");
    }
    char *sql =
        condition == NULL || (validate != NULL && value == NULL)
            ? NULL
            : text_printf("UPDATE pgsluice.swap SET phase = '%s', validate = %s, %s"
                          "changed_at = clock_timestamp() WHERE %s AND owner = '%s';\n"
                          "IF NOT FOUND THEN RAISE EXCEPTION USING ERRCODE = '" SWAP_TAKEN "', "
                          "MESSAGE = 'another run has taken the swap over'; END IF;\n",
                          phase_names[phase], value != NULL ? value : "validate", bake, condition,
                          c->run);
    free(condition);
    free(list);
    free(value);
    return sql;
}

#define LOCK_KEY "hashtext('pgsluice.swap'), hashtext($1 || '.' || $2)"

/* One row with one value about this table. */
static bool ask(struct cutover *c, const char *sql, bool *out, struct failure *f)
{
    PGresult *r =
        control_query(c->control, sql, 2, (const char *const[]){c->rule->schema, c->rule->table},
                      STATEMENT_TIMEOUT_MS, f);
    *out = r != NULL && PQgetvalue(r, 0, 0)[0] == 't';
    PQclear(r);
    return r != NULL;
}

/* Waits in the server's own queue, so that a follower that takes turn after turn is never in the
 * way for longer than one. */
bool swap_state_lead(struct cutover *c, struct failure *f)
{
    bool locked;
    char limit[48];
    struct failure ignored;
    snprintf(limit, sizeof limit, "SET lock_timeout = %d", LEAD_WAIT_MS);
    if (!control_run(c->control, limit, STATEMENT_TIMEOUT_MS, f)) {
        return false;
    }
    bool ok = ask(c, "SELECT pg_advisory_lock(" LOCK_KEY ") IS NOT NULL", &locked, f);
    if (!ok && strcmp(f->sqlstate, "55P03") == 0) {
        fail(f, EXIT_REFUSED, "another cutover, rollback or finish of this table is under way");
        snprintf(f->sqlstate, sizeof f->sqlstate, SWAP_TAKEN);
    }
    return control_run(c->control, "SET lock_timeout = 0", STATEMENT_TIMEOUT_MS,
                       ok ? f : &ignored) &&
           ok;
}

bool swap_state_try_lead(struct cutover *c, bool *leads, struct failure *f)
{
    return ask(c, "SELECT pg_try_advisory_lock(" LOCK_KEY ")", leads, f);
}

bool swap_state_unlead(struct cutover *c, struct failure *f)
{
    bool had;
    return ask(c, "SELECT pg_advisory_unlock(" LOCK_KEY ")", &had, f);
}

bool swap_state_follow(struct cutover *c, bool *follows, struct failure *f)
{
    return ask(c,
               "SELECT pg_try_advisory_lock(hashtext('pgsluice.bake'), hashtext($1 || '.' || $2))",
               follows, f);
}

bool swap_state_followed(struct cutover *c, uint64_t changes, bool in_step, const char *trouble,
                         struct failure *f)
{
    char count[24];
    snprintf(count, sizeof count, "%llu", (unsigned long long)changes);
    PGresult *r = control_query(
        c->control,
        "UPDATE pgsluice.swap SET followed = followed + $3::bigint, trouble = $5, "
        "in_step_at = CASE WHEN $4::boolean THEN clock_timestamp() ELSE in_step_at END "
        "WHERE table_schema = $1 AND table_name = $2 AND phase = 'bake'",
        5,
        (const char *const[]){c->rule->schema, c->rule->table, count, in_step ? "t" : "f", trouble},
        STATEMENT_TIMEOUT_MS, f);
    PQclear(r);
    return r != NULL;
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

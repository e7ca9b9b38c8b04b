/* The state row; see state.h. The catalog reads the column order from it (catalog_read.c). */
#include "proxy/cutover/state.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/catalog_read.h"

const char state_create_sql[] =
    "CREATE SCHEMA IF NOT EXISTS pgsluice; "
    "CREATE TABLE IF NOT EXISTS pgsluice.run ("
    "run_id text PRIMARY KEY, "
    "epoch bigint NOT NULL, "
    "table_schema text NOT NULL, "
    "table_name text NOT NULL, "
    "column_name text NOT NULL, "
    "relation oid NOT NULL, "
    "strategy text NOT NULL, "
    "phase text NOT NULL CHECK (phase IN ('flipped', 'rolled_back')), "
    "expression text NOT NULL, "
    /* The columns as applications know their order, by name and by number after the flip. */
    "order_names text[] NOT NULL, "
    "order_numbers int2[] NOT NULL, "
    "taken_away jsonb NOT NULL, "
    "flip_xid bigint NOT NULL, "
    "flip_pid integer NOT NULL, "
    "flipped_at timestamptz NOT NULL DEFAULT clock_timestamp(), "
    "rollback_run_id text, "
    "rollback_xid bigint, "
    "rolled_back_at timestamptz, "
    "software text NOT NULL, "
    "UNIQUE (table_schema, table_name, column_name, epoch))";

static const char *const *rule_values(const struct cutover *c, const char *values[3])
{
    values[0] = c->rule->schema;
    values[1] = c->rule->table;
    values[2] = c->rule->column;
    return values;
}

static bool has_state(const struct cutover *c)
{
    return json_is_true(json_object_get(c->table.facts, "has_state"));
}

bool state_read(struct cutover *c, struct state_run *out, struct failure *f)
{
    *out = (struct state_run){.found = false};
    if (!has_state(c)) {
        return true;
    }
    const char *values[3];
    PGresult *r = control_query(c->control,
                                "SELECT run_id, phase, taken_away, strategy FROM pgsluice.run "
                                "WHERE table_schema = $1 AND table_name = $2 AND column_name = $3 "
                                "ORDER BY epoch DESC LIMIT 1",
                                3, rule_values(c, values), STATEMENT_TIMEOUT_MS, f);
    if (r == NULL) {
        return false;
    }
    bool ok = true;
    if (PQntuples(r) > 0) {
        out->found = true;
        out->run = strdup(PQgetvalue(r, 0, 0));
        out->phase = strdup(PQgetvalue(r, 0, 1));
        out->strategy = strdup(PQgetvalue(r, 0, 3));
        out->trigger = json_loads(PQgetvalue(r, 0, 2), 0, NULL);
        ok = (out->run != NULL && out->phase != NULL && out->strategy != NULL &&
              out->trigger != NULL) ||
             fail(f, EXIT_REFUSED, "the row of run %s in pgsluice.run cannot be read",
                  PQgetvalue(r, 0, 0));
    }
    PQclear(r);
    return ok;
}

void state_run_fini(struct state_run *run)
{
    free(run->run);
    free(run->strategy);
    free(run->phase);
    json_decref(run->trigger);
    *run = (struct state_run){.found = false};
}

bool state_column_order(struct cutover *c, char **out, struct failure *f)
{
    *out = NULL;
    char oid[16];
    snprintf(oid, sizeof oid, "%u", c->table.oid);
    PGresult *r = catalog_read_columns(c->control, c->rule, oid, has_state(c), f);
    if (r == NULL) {
        return false;
    }
    struct text t;
    bool ok = text_begin(&t);
    if (ok) {
        fputs("ARRAY[", t.out);
    }
    for (int i = 0; ok && i < PQntuples(r); i++) {
        char *name = control_quote_literal(c->control, PQgetvalue(r, i, 0));
        ok = name != NULL;
        if (ok) {
            fprintf(t.out, "%s%s", i > 0 ? ", " : "", name);
        }
        free(name);
    }
    PQclear(r);
    if (t.out != NULL) {
        fputs("]", t.out);
        *out = text_end(&t);
    }
    if (!ok) {
        free(*out);
        *out = NULL;
    }
    return *out != NULL || fail(f, EXIT_REFUSED, "out of memory");
}

/* The two arrays of the order, from the catalog as it is when the statement runs. */
#define ORDER_NAMES "array_agg(a.attname::text ORDER BY o.ord)"
#define ORDER_NUMBERS "array_agg(a.attnum ORDER BY o.ord)"
#define ORDER_FROM                                                                                 \
    "unnest(%s) WITH ORDINALITY o(name, ord) JOIN pg_attribute a ON a.attrelid = %u "              \
    "AND a.attname = o.name::name AND NOT a.attisdropped"

char *state_flipped_sql(struct cutover *c, const char *columns, const char *strategy,
                        unsigned relation)
{
    char *schema = control_quote_literal(c->control, c->rule->schema);
    char *table = control_quote_literal(c->control, c->rule->table);
    char *expression = control_quote_literal(c->control, c->rule->expression);
    char *trigger = control_quote_literal(c->control, c->capture);
    char *sql = NULL;
    if (schema != NULL && table != NULL && expression != NULL && trigger != NULL) {
        sql = text_printf(
            "INSERT INTO pgsluice.run (run_id, epoch, table_schema, table_name, column_name, "
            "relation, strategy, phase, expression, order_names, order_numbers, taken_away, "
            "flip_xid, flip_pid, software) SELECT '%s', 1 + coalesce((SELECT max(epoch) FROM "
            "pgsluice.run WHERE table_schema = %s AND table_name = %s AND column_name = %s), 0), "
            "%s, %s, %s, %u, '%s', 'flipped', %s, " ORDER_NAMES ", " ORDER_NUMBERS
            ", %s::jsonb, txid_current(), pg_backend_pid(), 'pgsluice " PGSLUICE_VERSION "' "
            "FROM " ORDER_FROM ";\n",
            c->run, schema, table, c->column_text, schema, table, c->column_text, relation,
            strategy, expression, trigger, columns, relation);
    }
    free(schema);
    free(table);
    free(expression);
    free(trigger);
    return sql;
}

char *state_rolled_back_sql(struct cutover *c, const char *flip_run, const char *columns,
                            unsigned relation)
{
    char *run = control_quote_literal(c->control, flip_run);
    char *sql = NULL;
    if (run != NULL) {
        sql = text_printf("UPDATE pgsluice.run SET phase = 'rolled_back', rollback_run_id = '%s', "
                          "rollback_xid = txid_current(), rolled_back_at = clock_timestamp(), "
                          "relation = %u, "
                          "(order_names, order_numbers) = (SELECT " ORDER_NAMES ", " ORDER_NUMBERS
                          " FROM " ORDER_FROM ") WHERE run_id = %s AND phase = 'flipped';\n"
                          "IF NOT FOUND THEN RAISE EXCEPTION USING ERRCODE = 'PSL04', "
                          "MESSAGE = 'the state row has changed since it was read'; END IF;\n",
                          c->run, relation, columns, relation, run);
    }
    free(run);
    return sql;
}

bool state_has_happened(struct cutover *c, struct control *control, bool *out, struct failure *f)
{
    PGresult *r = control_query(control, "SELECT to_regclass('pgsluice.run') IS NOT NULL", 0, NULL,
                                STATEMENT_TIMEOUT_MS, f);
    if (r == NULL) {
        return false;
    }
    bool exists = PQgetvalue(r, 0, 0)[0] == 't';
    PQclear(r);
    *out = false;
    if (!exists) {
        return true;
    }
    const char *run = c->run;
    r = control_query(control, "SELECT FROM pgsluice.run WHERE run_id = $1 OR rollback_run_id = $1",
                      1, &run, STATEMENT_TIMEOUT_MS, f);
    if (r == NULL) {
        return false;
    }
    *out = PQntuples(r) > 0;
    PQclear(r);
    return true;
}

/*
 * The catalog's SQL; see catalog_read.h. Only system catalogs and pgsluice.run are read: nothing
 * here takes a lock on a guarded table, so that it can run while a cutover holds one.
 */
#include "proxy/catalog_read.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/catalog_expression.h"
#include "proxy/catalog_views.h"
#include "rules/compare.h"

enum { READ_TIMEOUT_MS = 10000 };

bool names_add(struct names *names, const char *name)
{
    char **at = realloc(names->at, (names->count + 1) * sizeof *at);
    if (at == NULL) {
        return false;
    }
    names->at = at;
    names->at[names->count] = strdup(name);
    if (names->at[names->count] == NULL) {
        return false;
    }
    names->count++;
    return true;
}

bool names_has(const struct names *names, const char *name)
{
    for (size_t i = 0; i < names->count; i++) {
        if (strcmp(names->at[i], name) == 0) {
            return true;
        }
    }
    return false;
}

void names_free(struct names *names)
{
    for (size_t i = 0; i < names->count; i++) {
        free(names->at[i]);
    }
    free(names->at);
    *names = (struct names){.count = 0};
}

bool catalog_list_databases(struct control *control, struct names *out, struct failure *f)
{
    PGresult *r = control_query(control,
                                "SELECT datname FROM pg_database WHERE datallowconn "
                                "AND NOT datistemplate ORDER BY datname",
                                0, NULL, READ_TIMEOUT_MS, f);
    if (r == NULL) {
        return false;
    }
    bool ok = true;
    for (int i = 0; ok && i < PQntuples(r); i++) {
        ok = names_add(out, PQgetvalue(r, i, 0)) || fail(f, EXIT_REFUSED, "out of memory");
    }
    PQclear(r);
    return ok;
}

bool catalog_has_table(struct control *control, const struct config_rule *rule, bool *out,
                       struct failure *f)
{
    PGresult *r =
        control_query(control,
                      "SELECT FROM pg_class c JOIN pg_namespace n "
                      "ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
                      2, (const char *const[]){rule->schema, rule->table}, READ_TIMEOUT_MS, f);
    if (r == NULL) {
        return false;
    }
    *out = PQntuples(r) > 0;
    PQclear(r);
    return true;
}

/* $1 schema, $2 table, $3 column. `computed` tells whether a row trigger or the default could be
 * what computes the column; partitions are looked at as well, because up to version 12 the trigger
 * can only be there. partexprs is a node tree: a column in it appears as a Var with its number. */
static const char relation_sql[] =
    "SELECT c.oid, c.relkind, a.attnum IS NOT NULL, coalesce(to_jsonb(a) ->> 'attgenerated', ''), "
    "EXISTS (WITH RECURSIVE down(oid) AS (SELECT c.oid UNION SELECT i.inhrelid FROM pg_inherits i "
    "  JOIN down d ON d.oid = i.inhparent), up(oid) AS (SELECT c.oid UNION SELECT i.inhparent "
    "  FROM pg_inherits i JOIN up u ON u.oid = i.inhrelid) "
    "  SELECT FROM pg_partitioned_table p JOIN pg_attribute k ON k.attrelid = p.partrelid "
    "  WHERE p.partrelid IN (SELECT oid FROM down UNION SELECT oid FROM up) AND k.attname = $3 "
    "  AND (k.attnum = ANY (p.partattrs) OR p.partexprs::text ~ (':varattno ' || k.attnum || ' "
    "'))), "
    "EXISTS (WITH RECURSIVE down(oid) AS (SELECT c.oid UNION SELECT i.inhrelid FROM pg_inherits i "
    "  JOIN down d ON d.oid = i.inhparent) SELECT FROM pg_trigger t JOIN down d "
    "  ON d.oid = t.tgrelid WHERE NOT t.tgisinternal AND t.tgtype & 7 = 7 AND t.tgenabled <> 'D') "
    "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_attribute a "
    "ON a.attrelid = c.oid AND a.attname = $3 AND a.attnum > 0 AND NOT a.attisdropped "
    "WHERE n.nspname = $1 AND c.relname = $2";

/* $1 relation. */
static const char columns_sql[] =
    "SELECT attname, atttypid, attnum, " CATALOG_COLUMN_SOURCE " AS source FROM pg_attribute a "
    "WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum";

/* The same in the order in which applications know the columns. An in-place cutover leaves the
 * column at the end and records the order of before: by column number, which survives a RENAME, and
 * by name, for a table that came out of a dump and has other numbers. When the recorded columns no
 * longer follow each other as they did after the cutover, somebody has built the table anew, and
 * the catalog's own order is what applications know. $2 schema, $3 table, $4 column. */
static const char recorded_columns_sql[] =
    "WITH run AS (SELECT * FROM pgsluice.run WHERE table_schema = $2 AND table_name = $3 "
    "  AND column_name = $4 ORDER BY epoch DESC LIMIT 1), "
    "live AS (SELECT attname, atttypid, attnum, " CATALOG_COLUMN_SOURCE
    " AS source FROM pg_attribute a "
    "  WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped), "
    "known AS (SELECT u.* FROM run, unnest(order_names, order_numbers) "
    "  WITH ORDINALITY u(name, num, ord)), "
    "by_number AS (SELECT EXISTS (SELECT FROM run, known k, live l WHERE run.relation = $1::oid "
    "  AND k.name = $4 AND l.attname = k.name::name AND l.attnum = k.num) AS yes), "
    "matched AS (SELECT l.*, k.num, k.ord FROM live l LEFT JOIN known k "
    "  ON CASE WHEN (SELECT yes FROM by_number) THEN k.num = l.attnum "
    "  ELSE k.name::name = l.attname END), "
    "sound AS (SELECT coalesce(bool_and(follows), false) AS yes FROM (SELECT "
    "  (num > lag(num) OVER (ORDER BY attnum)) IS NOT FALSE AS follows "
    "  FROM matched WHERE num IS NOT NULL) x) "
    "SELECT attname, atttypid, attnum, source, EXISTS (SELECT FROM run) FROM matched "
    "ORDER BY CASE WHEN (SELECT yes FROM sound) THEN ord END NULLS LAST, attnum";

/* What mode compute and comparisons must know of the columns. Types are written out as any session
 * reads them: the control connection's search_path is pg_catalog alone. A type may have a default
 * of its own. $1 relation. */
static const char sources_sql[] =
    "SELECT a.attname, format_type(a.atttypid, a.atttypmod), "
    "a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL OR t.typdefaultbin IS NOT "
    "NULL, "
    /* before 12 all collations were deterministic */
    "a.atttypid, a.atttypmod, coalesce(to_jsonb(c) ->> 'collisdeterministic' = 'false', false) "
    "FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
    "LEFT JOIN pg_collation c ON c.oid = a.attcollation "
    "WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

static const char database_sql[] =
    "SELECT EXISTS (SELECT FROM pg_db_role_setting s, unnest(s.setconfig) o "
    "  WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database "
    "  WHERE datname = current_database())) AND o ~* '^default_transaction_isolation=' "
    "  AND o !~* '=read (un)?committed$') "
    "OR (SELECT reset_val NOT LIKE 'read %' FROM pg_settings "
    "  WHERE name = 'default_transaction_isolation'), "
    "EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "  WHERE n.nspname = 'pgsluice' AND c.relname = 'run')";

/* What one rule's relation looked like; the results own the strings. */
struct reading {
    PGresult *columns;
    PGresult *sources;
    struct rule_source *source;
    struct rule_column *column;
    struct catalog_dependents dependents;
    enum rule_shape shape;
    bool reordered;
    bool converted;
    bool absent;
    char *complaint; /* the server's about the expression; NULL: none */
};

static void reading_fini(struct reading *r)
{
    PQclear(r->columns);
    PQclear(r->sources);
    free(r->source);
    free(r->column);
    free(r->complaint);
    catalog_dependents_fini(&r->dependents);
}

static const char *database_of(struct control *control)
{
    const char *name = control_database(control);
    return name != NULL ? name : "?";
}

static bool is_true(const PGresult *r, int column)
{
    return PQgetvalue(r, 0, column)[0] == 't';
}

/* Judges the rows of relation_sql. Sets `absent` where the rule need not concern this database. */
static bool check_relation(struct control *control, const struct config_rule *rule,
                           const PGresult *r, struct reading *out, FILE *print, struct failure *f)
{
    const char *db = database_of(control);
    if (PQntuples(r) == 0) {
        out->absent = true;
        return rule->database == NULL ||
               fail(f, EXIT_REFUSED, "rule %s: table %s.%s does not exist in database \"%s\"",
                    rule->name, rule->schema, rule->table, db);
    }
    char kind = PQgetvalue(r, 0, 1)[0];
    if (kind != 'r' && kind != 'p') {
        return fail(f, EXIT_REFUSED,
                    "rule %s: %s.%s in database \"%s\" is not a table or partitioned table",
                    rule->name, rule->schema, rule->table, db);
    }
    if (!is_true(r, 2)) {
        return fail(f, EXIT_REFUSED, "rule %s: table %s.%s in database \"%s\" has no column \"%s\"",
                    rule->name, rule->schema, rule->table, db, rule->column);
    }
    if (is_true(r, 4)) {
        out->shape = RULE_SHAPE_PARTITION_KEY;
        if (rule->mode == RULE_MODE_STRIP) {
            return fail(f, EXIT_REFUSED,
                        "rule %s: mode = strip cannot work on %s.%s: it is partitioned by \"%s\", "
                        "and neither a trigger nor a generated column can compute a partition key "
                        "(42P17, 0A000); use mode = compute, observe or reject",
                        rule->name, rule->schema, rule->table, rule->column);
        }
    } else if (PQgetvalue(r, 0, 3)[0] != '\0') {
        out->shape = RULE_SHAPE_GENERATED;
    } else if (rule->mode == RULE_MODE_STRIP && !is_true(r, 5)) {
        fprintf(print,
                CATALOG_WARNING
                "rule %s: mode = strip, but no BEFORE INSERT trigger on %s.%s could "
                "compute \"%s\": stripped rows get its default\n",
                rule->name, rule->schema, rule->table, rule->column);
    }
    return true;
}

PGresult *catalog_read_columns(struct control *control, const struct config_rule *rule,
                               const char *relation_oid, bool recorded, struct failure *f)
{
    if (!recorded) {
        return control_query(control, columns_sql, 1, &relation_oid, READ_TIMEOUT_MS, f);
    }
    return control_query(
        control, recorded_columns_sql, 4,
        (const char *const[]){relation_oid, rule->schema, rule->table, rule->column},
        READ_TIMEOUT_MS, f);
}

static bool read_lists(struct control *control, const struct config_rule *rule, const char *oid,
                       bool recorded, struct reading *out, struct failure *f)
{
    out->columns = catalog_read_columns(control, rule, oid, recorded, f);
    if (out->columns == NULL) {
        return false;
    }
    if (!catalog_read_dependents(control, rule, oid, &out->dependents, f)) {
        return false;
    }
    int columns = PQntuples(out->columns);
    out->column = calloc((size_t)columns + 1, sizeof *out->column);
    if (out->column == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    out->converted =
        recorded && columns > 0 && is_true(out->columns, 4) && out->shape == RULE_SHAPE_GENERATED;
    long last = 0;
    for (int i = 0; i < columns; i++) {
        out->column[i].name = PQgetvalue(out->columns, i, 0);
        out->column[i].type_oid = (uint32_t)strtoul(PQgetvalue(out->columns, i, 1), NULL, 10);
        out->column[i].source = (enum column_source)atoi(PQgetvalue(out->columns, i, 3));
        long number = strtol(PQgetvalue(out->columns, i, 2), NULL, 10);
        out->reordered = out->reordered || number < last;
        last = number;
    }
    return true;
}

static bool read_sources(struct control *control, const char *oid, struct reading *out,
                         struct failure *f)
{
    out->sources = control_query(control, sources_sql, 1, &oid, READ_TIMEOUT_MS, f);
    if (out->sources == NULL) {
        return false;
    }
    const int count = PQntuples(out->sources);
    out->source = calloc((size_t)count + 1, sizeof *out->source);
    if (out->source == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    for (int i = 0; i < count; i++) {
        out->source[i] = (struct rule_source){
            .column = PQgetvalue(out->sources, i, 0),
            .type = PQgetvalue(out->sources, i, 1),
            .has_default = PQgetvalue(out->sources, i, 2)[0] == 't',
            .value = {.type_oid = (uint32_t)strtoul(PQgetvalue(out->sources, i, 3), NULL, 10),
                      .typmod = (int32_t)strtol(PQgetvalue(out->sources, i, 4), NULL, 10),
                      .is_nondeterministic = PQgetvalue(out->sources, i, 5)[0] == 't'},
        };
    }
    return true;
}

/* Whether supplied values are compared with the expression's. */
static bool is_compared(const struct config *config, const struct config_rule *rule)
{
    return config->audit != NULL || rule->reject_mismatch;
}

static bool read_rule(struct control *control, const struct config_rule *rule, bool recorded,
                      struct reading *out, FILE *print, struct failure *f)
{
    PGresult *r = control_query(control, relation_sql, 3,
                                (const char *const[]){rule->schema, rule->table, rule->column},
                                READ_TIMEOUT_MS, f);
    if (r == NULL) {
        return false;
    }
    bool ok = check_relation(control, rule, r, out, print, f);
    if (ok && !out->absent) {
        ok = read_lists(control, rule, PQgetvalue(r, 0, 0), recorded, out, f);
    }
    if (ok && !out->absent) {
        ok = read_sources(control, PQgetvalue(r, 0, 0), out, f) &&
             catalog_try_expression(control, rule, out->source, (size_t)PQntuples(out->sources),
                                    &out->complaint, f);
    }
    if (ok && out->complaint != NULL) {
        fprintf(print, CATALOG_WARNING "%s\n", out->complaint);
    }
    PQclear(r);
    return ok;
}

static void fill_rule(struct rule *out, const struct config *config, const struct config_rule *rule,
                      const struct reading *r)
{
    *out = (struct rule){
        .name = rule->name,
        .schema = rule->schema,
        .table = rule->table,
        .column = rule->column,
        .mode = rule->mode,
        .on_unparsed = rule->on_unparsed,
        .unqualified_guarded = rule->unqualified_guarded,
        .shape = r->shape,
        .compares = is_compared(config, rule),
        .rejects_mismatch = rule->reject_mismatch,
        .columns = r->column,
        .column_count = (size_t)PQntuples(r->columns),
        .reordered = r->reordered,
        .converted = r->converted,
        .dependents = r->dependents.at,
        .dependent_count = r->dependents.count,
        .expression = rule->expression,
        .sources = r->source,
        .source_count = r->source == NULL ? 0 : (size_t)PQntuples(r->sources),
    };
}

/* Where the server does not compute the column, the expression must be one that statements can
 * hold. */
static bool check_expression(const struct rule *rule, struct failure *f)
{
    char why[200];
    return rule->mode != RULE_MODE_COMPUTE || rule->shape == RULE_SHAPE_GENERATED ||
           rule_is_computable(rule, why, sizeof why) ||
           fail(f, EXIT_REFUSED, "rule %s: mode = compute cannot work with expression = %s: %s",
                rule->name, rule->expression, why);
}

/* What cannot be kept is not promised. */
static bool check_comparison(const struct rule *rule, struct failure *f)
{
    struct compare_rule compares;
    return !rule->rejects_mismatch || compare_rule_read(rule, &compares) ||
           fail(f, EXIT_REFUSED,
                "rule %s: on_mismatch = reject needs an expression that pgsluice can evaluate, as "
                "mod(hashtext(column::text), 100) over a text, varchar, char, integer or uuid "
                "column of a deterministic collation; %s is none",
                rule->name, rule->expression);
}

static void print_rule(FILE *print, const struct rule *rule, size_t index)
{
    fprintf(print,
            "rule %zu mode %d unparsed %d unqualified %d shape %d reordered %d converted %d\n",
            index, (int)rule->mode, (int)rule->on_unparsed, rule->unqualified_guarded,
            (int)rule->shape, rule->reordered, rule->converted);
    fprintf(print, "compares %d rejects %d\n", rule->compares, rule->rejects_mismatch);
    for (size_t i = 0; i < rule->column_count; i++) {
        fprintf(print, "column %s %u %d\n", rule->columns[i].name, rule->columns[i].type_oid,
                (int)rule->columns[i].source);
    }
    for (size_t i = 0; i < rule->source_count; i++) {
        const struct rule_source *source = &rule->sources[i];
        fprintf(print, "source %s %s %d %d %d\n", source->column, source->type, source->has_default,
                (int)source->value.typmod, source->value.is_nondeterministic);
    }
    for (size_t i = 0; i < rule->dependent_count; i++) {
        const struct rule_relation *dependent = &rule->dependents[i];
        fprintf(print, "dependent %s %s %s", dependent->schema, dependent->name,
                dependent->column == NULL ? "?" : dependent->column);
        for (size_t c = 0; c < dependent->column_count; c++) {
            const struct rule_column *column = &dependent->columns[c];
            fprintf(print, " %s %u %d", column->name, column->type_oid, (int)column->source);
        }
        fprintf(print, "\n");
    }
}

/* The first one, but rather one about a rule that computes. */
static void keep_complaint(struct catalog_database *out, const struct config_rule *rule,
                           struct reading *r)
{
    const bool is_graver = rule->mode == RULE_MODE_COMPUTE && out->complaint_mode != rule->mode;
    if (r->complaint != NULL && (out->complaint == NULL || is_graver)) {
        free(out->complaint);
        out->complaint = r->complaint;
        out->complaint_mode = rule->mode;
        r->complaint = NULL;
    }
}

bool catalog_read_database(struct control *control, const struct config *config,
                           const size_t *rules, size_t count, uint64_t moving,
                           struct catalog_database *out, FILE *print, struct failure *f)
{
    *out = (struct catalog_database){.name = strdup(database_of(control))};
    struct rule *rule = calloc(count + 1, sizeof *rule);
    struct reading *reading = calloc(count + 1, sizeof *reading);
    out->rule_index = calloc(count + 1, sizeof *out->rule_index);
    bool ok = false;
    PGresult *db = NULL;
    if (out->name == NULL || rule == NULL || reading == NULL || out->rule_index == NULL) {
        fail(f, EXIT_REFUSED, "out of memory");
        goto out;
    }
    if (!control_run(control, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", READ_TIMEOUT_MS,
                     f)) {
        goto out;
    }
    db = control_query(control, database_sql, 0, NULL, READ_TIMEOUT_MS, f);
    if (db == NULL) {
        goto out;
    }
    out->snapshot_default = is_true(db, 0);
    fprintf(print, "database %s snapshots %d\n", out->name, out->snapshot_default);
    for (size_t i = 0; i < count; i++) {
        const struct config_rule *from = &config->rules[rules[i]];
        if (!read_rule(control, from, is_true(db, 1), &reading[i], print, f)) {
            goto out;
        }
        if (!reading[i].absent) {
            fill_rule(&rule[out->rule_count], config, from, &reading[i]);
            if (!check_expression(&rule[out->rule_count], f) ||
                !check_comparison(&rule[out->rule_count], f)) {
                goto out;
            }
            rule[out->rule_count].reordered |= (moving >> rules[i] & 1) != 0;
            print_rule(print, &rule[out->rule_count], rules[i]);
            keep_complaint(out, from, &reading[i]);
            out->rule_index[out->rule_count++] = rules[i];
        }
    }
    if (!control_run(control, "COMMIT", READ_TIMEOUT_MS, f)) {
        goto out;
    }
    out->set = rule_set_new(rule, out->rule_count, out->name);
    ok = out->set != NULL || fail(f, EXIT_REFUSED, "out of memory");
    for (size_t i = 0; ok && i < out->rule_count; i++) {
        const uint64_t bit = (uint64_t)1 << out->rule_index[i];
        out->computes |= rule[i].mode == RULE_MODE_COMPUTE ? bit : 0;
        out->computed |= rule_set_get(out->set, i)->mode == RULE_MODE_COMPUTE ? bit : 0;
    }
out:
    PQclear(db);
    for (size_t i = 0; reading != NULL && i < count; i++) {
        reading_fini(&reading[i]);
    }
    free(reading);
    free(rule);
    return ok;
}

void catalog_database_fini(struct catalog_database *database)
{
    free(database->name);
    if (database->set != NULL) {
        rule_set_free(database->set);
    }
    free(database->rule_index);
    free(database->complaint);
    *database = (struct catalog_database){.name = NULL};
}

bool catalog_locate(const struct config *config, const struct config_rule *rule,
                    bool (*abort_requested)(void *arg), void *abort_arg, char **out,
                    struct failure *f)
{
    *out = NULL;
    if (rule->database != NULL) {
        *out = strdup(rule->database);
        return *out != NULL || fail(f, EXIT_REFUSED, "out of memory");
    }
    struct control_target target = {
        .conninfo = config->control, .abort_requested = abort_requested, .abort_arg = abort_arg};
    struct control *control = NULL;
    struct names all = {.count = 0};
    bool ok = control_open(&target, &control, f) && catalog_list_databases(control, &all, f);
    control_close(control);
    for (size_t i = 0; ok && i < all.count; i++) {
        bool has = false;
        target.database = all.at[i];
        ok = control_open(&target, &control, f) && catalog_has_table(control, rule, &has, f);
        control_close(control);
        if (ok && has && *out != NULL) {
            ok = fail(f, EXIT_USAGE,
                      "rule %s: databases \"%s\" and \"%s\" both have table %s.%s; name one in the "
                      "rule (database = ...)",
                      rule->name, *out, all.at[i], rule->schema, rule->table);
        } else if (ok && has) {
            *out = strdup(all.at[i]);
            ok = *out != NULL || fail(f, EXIT_REFUSED, "out of memory");
        }
    }
    if (ok && *out == NULL) {
        ok = fail(f, EXIT_REFUSED, "rule %s: no database has table %s.%s", rule->name, rule->schema,
                  rule->table);
    }
    if (!ok) {
        free(*out);
        *out = NULL;
    }
    names_free(&all);
    return ok;
}

/*
 * The flip's SQL; see compose.h.
 *
 * The column is not dropped and added but added under another name, compared and renamed: a CHECK
 * in the same ALTER TABLE makes the server prove, in the pass that rewrites the table, that no
 * row's value changes. Then the old column goes, without CASCADE, so that anything that was not
 * captured stops everything. At the end the catalog is compared with what it was.
 */
#include "proxy/cutover/compose.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/shape.h"
#include "proxy/cutover/state.h"

#define NEW_COLUMN "pgsluice_new"

void flip_sql_fini(struct flip_sql *sql)
{
    free(sql->first);
    free(sql->lock);
    free(sql->body);
    free(sql->plan);
    *sql = (struct flip_sql){.lock = NULL};
}

bool compose_rollback_rewrites(const struct cutover *c)
{
    return control_version(c->control) < 130000;
}

/* The DO statement in the making, and the same for people. */
struct draft {
    struct cutover *c;
    struct text body;
    struct text plan;
    bool bad;
};

static void add_text(struct draft *d, const char *sql)
{
    char tag[TEXT_TAG_SIZE];
    text_choose_tag(sql, tag);
    fprintf(d->body.out, "EXECUTE %s%s%s;\n", tag, sql, tag);
    fprintf(d->plan.out, "%s;\n", sql);
}

char *compose_do(const char *block)
{
    char tag[TEXT_TAG_SIZE];
    text_choose_tag(block, tag);
    return text_printf("DO %s%s%s", tag, block, tag);
}

/* Adds one statement, or several, from a template. */
static void add(struct draft *d, const char *template)
{
    char *sql = context_expand(d->c, template);
    if (sql == NULL) {
        d->bad = true;
        return;
    }
    add_text(d, sql);
    free(sql);
}

static void add_shape(struct draft *d, const char *into)
{
    fprintf(d->body.out, "%s := ARRAY(SELECT line FROM (", into);
    for (const char *const *piece = shape_sql; *piece != NULL; piece++) {
        char *sql = context_expand(d->c, *piece);
        d->bad = d->bad || sql == NULL;
        fputs(sql != NULL ? sql : "", d->body.out);
        free(sql);
    }
    fputs(") s(line) ORDER BY line COLLATE \"C\");\n", d->body.out);
}

static void add_intended(struct draft *d, const char *into)
{
    char *sql = context_expand(d->c, shape_intended_sql);
    d->bad = d->bad || sql == NULL;
    fprintf(d->body.out,
            "%s := ARRAY(SELECT line FROM (%s) s(line) ORDER BY line COLLATE \"C\");\n", into,
            sql != NULL ? sql : "");
    free(sql);
}

/* Keeps in the transaction, as settings, how the table is while the lock of GATE keeps DDL away
 * from it: the flip then needs to look only once while it stops everybody. */
static bool remember_shape(struct cutover *c, struct failure *f)
{
    struct draft d = {.c = c};
    if (!text_begin(&d.body)) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    fputs("DO $examine$ DECLARE before_ text[]; intended_ text[]; BEGIN\n", d.body.out);
    add_shape(&d, "before_");
    add_intended(&d, "intended_");
    fputs("PERFORM set_config('pgsluice.before', before_::text, true), "
          "set_config('pgsluice.intended', intended_::text, true); END $examine$",
          d.body.out);
    char *sql = text_end(&d.body);
    bool ok = sql != NULL && !d.bad ? control_run(c->control, sql, STATEMENT_TIMEOUT_MS, f)
                                    : fail(f, EXIT_REFUSED, "out of memory");
    free(sql);
    return ok;
}

/* A transaction that took its snapshot before the rewrite and comes to the table after it sees no
 * rows, without an error. Under our lock nobody has the table open: who is idle with a snapshot has
 * not come to it yet. Looked at first, so that the rewrite is not for nothing, and last. */
const char compose_snapshots_sql[] =
    "PERFORM pg_stat_clear_snapshot();\n"
    "SELECT string_agg(pid::text, ', ') INTO found_ FROM pg_stat_activity "
    "WHERE datid = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND pid <> pg_backend_pid() AND state = 'idle in transaction' AND backend_xmin IS NOT NULL;\n"
    "IF found_ IS NOT NULL THEN RAISE EXCEPTION USING ERRCODE = '" FLIP_SNAPSHOTS "', "
    "MESSAGE = 'transactions with an older snapshot are open: pid ' || found_; END IF;\n";

static bool draft_begin(struct draft *d, struct cutover *c, bool rewrites, struct failure *f)
{
    *d = (struct draft){.c = c};
    if (!remember_shape(c, f)) {
        return false;
    }
    if (!text_begin(&d->body) || !text_begin(&d->plan)) {
        free(text_end(&d->body));
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    fputs("DECLARE before_ text[] := current_setting('pgsluice.before'); after_ text[]; "
          "found_ text;\nBEGIN\n",
          d->body.out);
    add_intended(d, "after_");
    fputs("IF after_::text <> current_setting('pgsluice.intended') THEN RAISE EXCEPTION USING "
          "ERRCODE = '" FLIP_CHANGED "', MESSAGE = 'the column or its trigger has changed since it "
          "was examined'; END IF;\n",
          d->body.out);
    if (rewrites) {
        fputs(compose_snapshots_sql, d->body.out);
    }
    return true;
}

/* A view or a grant that has changed since GATE is a difference as well. */
static void add_comparison(struct draft *d)
{
    add_shape(d, "after_");
    fputs("IF before_ IS DISTINCT FROM after_ THEN RAISE EXCEPTION USING ERRCODE = '" FLIP_DIFFERENT
          "', MESSAGE = 'the table would not be as before: ' || array_to_string(ARRAY("
          "(SELECT '- ' || x FROM unnest(before_) x WHERE x <> ALL (after_)) UNION ALL "
          "(SELECT '+ ' || x FROM unnest(after_) x WHERE x <> ALL (before_))), '; '); END IF;\n",
          d->body.out);
}

/* Ends the draft: *out takes what it has made. */
static bool draft_end(struct draft *d, const struct capture *capture, struct flip_sql *out,
                      struct failure *f)
{
    struct text lock;
    fputs("END", d->body.out);
    char *body = text_end(&d->body);
    out->plan = text_end(&d->plan);
    bool ok = body != NULL && out->plan != NULL && !d->bad && text_begin(&lock);
    if (ok) {
        out->body = compose_do(body);
        fputs(d->c->relation, lock.out);
        for (size_t i = 0; capture != NULL && i < capture_count(capture); i++) {
            if (capture_lock(capture, i) != NULL) {
                fprintf(lock.out, ", %s", capture_lock(capture, i));
            }
        }
        out->lock = text_end(&lock);
        ok = out->body != NULL && out->lock != NULL;
    }
    free(body);
    if (!ok) {
        flip_sql_fini(out);
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    return true;
}

/* Replaces the column by a new one: generated, or plain with the same values. */
static void add_replacement(struct draft *d, const struct capture *capture, bool generated)
{
    struct cutover *c = d->c;
    for (size_t i = capture_count(capture); i-- > 0;) {
        if (capture_drop(capture, i) != NULL) {
            add_text(d, capture_drop(capture, i));
        }
    }
    const char *not_null = c->table.not_null ? " NOT NULL" : "";
    char *differ = context_differ(c, c->column, NEW_COLUMN);
    char *template =
        generated
            ? text_printf("ALTER TABLE {name} ADD COLUMN " NEW_COLUMN
                          " {type} GENERATED ALWAYS AS ({expr}) STORED%s, "
                          "ADD CONSTRAINT " FLIP_PROOF " CHECK (NOT (%s))",
                          not_null, differ)
            : text_printf(
                  "ALTER TABLE {name} ADD COLUMN " NEW_COLUMN " {type}; "
                  "ALTER TABLE {name} ALTER COLUMN " NEW_COLUMN " TYPE {type} USING {value}, "
                  "ADD CONSTRAINT " FLIP_PROOF " CHECK (NOT (%s))%s",
                  differ, c->table.not_null ? ", ALTER COLUMN " NEW_COLUMN " SET NOT NULL" : "");
    if (template == NULL || differ == NULL) {
        d->bad = true;
    } else {
        add(d, template);
    }
    free(template);
    free(differ);
    add(d, "ALTER TABLE {name} DROP COLUMN {col}");
    add(d, "ALTER TABLE {name} RENAME COLUMN " NEW_COLUMN " TO {col}");
    for (size_t i = 0; i < capture_count(capture); i++) {
        add_text(d, capture_restore(capture, i));
    }
}

bool compose_cutover(struct cutover *c, const struct capture *capture, struct flip_sql *out,
                     struct failure *f)
{
    struct draft d;
    char *columns = NULL;
    *out = (struct flip_sql){.lock = NULL};
    if (!state_column_order(c, &columns, f)) {
        return false;
    }
    char *state = state_flipped_sql(c, columns, "inplace", c->table.oid);
    free(columns);
    if (state == NULL || !draft_begin(&d, c, true, f)) {
        free(state);
        return state != NULL ? false : fail(f, EXIT_REFUSED, "out of memory");
    }
    if (c->trigger.oid != 0) {
        char *name = control_quote_identifier(c->control, c->trigger.name);
        char *drop = name != NULL ? text_printf("DROP TRIGGER %s ON {name}", name) : NULL;
        add(&d, drop != NULL ? drop : "");
        d.bad = d.bad || drop == NULL;
        free(name);
        free(drop);
    }
    add_replacement(&d, capture, true);
    add_comparison(&d);
    fputs(compose_snapshots_sql, d.body.out);
    if (c->trigger.drop_with) {
        char *drop = text_printf("DROP FUNCTION %s", c->trigger.function);
        add_text(&d, drop != NULL ? drop : "");
        d.bad = d.bad || drop == NULL;
        free(drop);
    }
    fputs(state, d.body.out);
    free(state);
    return draft_end(&d, capture, out, f);
}

static void add_list(struct draft *d, const json_t *list)
{
    size_t i;
    const json_t *sql;
    json_array_foreach(list, i, sql)
    {
        if (json_is_string(sql)) {
            add_text(d, json_string_value(sql));
        }
    }
}

bool compose_rollback(struct cutover *c, const struct capture *capture, const char *flip_run,
                      const json_t *taken_away, struct flip_sql *out, struct failure *f)
{
    struct draft d;
    char *columns = NULL;
    bool rewrites = compose_rollback_rewrites(c);
    *out = (struct flip_sql){.lock = NULL};
    if (!state_column_order(c, &columns, f)) {
        return false;
    }
    char *state = state_rolled_back_sql(c, flip_run, columns, c->table.oid);
    free(columns);
    if (state == NULL || !draft_begin(&d, c, rewrites, f)) {
        free(state);
        return state != NULL ? false : fail(f, EXIT_REFUSED, "out of memory");
    }
    if (rewrites) {
        add_replacement(&d, capture, false);
    } else {
        add(&d, "ALTER TABLE {name} ALTER COLUMN {col} DROP EXPRESSION");
    }
    add_list(&d, json_object_get(taken_away, "default"));
    add_list(&d, json_object_get(taken_away, "function"));
    add_list(&d, json_object_get(taken_away, "trigger"));
    add_comparison(&d);
    if (rewrites) {
        fputs(compose_snapshots_sql, d.body.out);
    }
    fputs(state, d.body.out);
    free(state);
    return draft_end(&d, rewrites ? capture : NULL, out, f);
}

char *compose_message(const struct flip_sql *sql, unsigned lock_ms, uint64_t hold_ms)
{
    /* The two clocks tell how long the lock was held: their results come with the outcome. */
    bool has_first = sql->first != NULL && sql->first[0] != '\0';
    return text_printf("SAVEPOINT pgsluice_flip; SET LOCAL lock_timeout = %u; %s%s"
                       "LOCK TABLE %s IN ACCESS EXCLUSIVE MODE; "
                       "SELECT extract(epoch FROM clock_timestamp()) * 1000; "
                       "SET LOCAL statement_timeout = %llu; %s; COMMIT; "
                       "SELECT extract(epoch FROM clock_timestamp()) * 1000",
                       lock_ms, has_first ? sql->first : "", has_first ? "; " : "", sql->lock,
                       (unsigned long long)hold_ms, sql->body);
}

/*
 * The plan of a swap: names, columns, key, and what goes with it once it is planned; see shadow.h.
 * What cannot be carried over is found in shadow_refuse.c.
 */
#include "proxy/cutover/shadow.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/shadow_sql.h"

#define SUFFIX_NEW "_pgsluice_new"
#define SUFFIX_OLD "_pgsluice_old"

enum { NAME_MAX_BYTES = 63 };

/* The table's name with a suffix; a long one is cut at a character and told from others by a hash.
 * The caller frees it. */
static char *name_beside(const char *table, const char *suffix)
{
    size_t len = strlen(table);
    if (len + strlen(suffix) <= NAME_MAX_BYTES) {
        return text_printf("%s%s", table, suffix);
    }
    uint32_t hash = 2166136261u;
    for (const char *p = table; *p != '\0'; p++) {
        hash = (hash ^ (unsigned char)*p) * 16777619u;
    }
    len = NAME_MAX_BYTES - strlen(suffix) - 9;
    while (len > 0 && ((unsigned char)table[len] & 0xc0) == 0x80) {
        len--;
    }
    return text_printf("%.*s_%08x%s", (int)len, table, hash, suffix);
}

/* "schema"."name" */
static char *qualify(const struct cutover *c, const char *name)
{
    char *schema = control_quote_identifier(c->control, c->rule->schema);
    char *quoted = name != NULL ? control_quote_identifier(c->control, name) : NULL;
    char *both = schema != NULL && quoted != NULL ? text_printf("%s.%s", schema, quoted) : NULL;
    free(schema);
    free(quoted);
    return both;
}

static const char *version_piece(const struct cutover *c, const char *word)
{
    bool v15 = control_version(c->control) >= 150000;
    if (strcmp(word, "{row_filter}") == 0) {
        return v15 ? "pg_get_expr(r.prqual, r.prrelid)" : "NULL::text";
    }
    return v15 ? "SELECT x.pnpubid FROM pg_publication_namespace x WHERE x.pnnspid = (SELECT "
                 "relnamespace FROM pg_class WHERE oid = {from})"
               : "SELECT NULL::oid WHERE false";
}

/* The literals of shadow_expand(), in the order of their words. */
static bool put_word(const struct cutover *c, const struct shadow *shadow, const char *word,
                     size_t len, FILE *out)
{
    bool forward = shadow->direction == SHADOW_FORWARD;
    const char *const words[] = {
        "{name_text}", "{relation_text}", "{aside_text}", "{relation_name}", "{aside_name}",
        "{base_name}", "{expr_text}",     "{to_suffix}",  "{aside_suffix}",  "{partition_by}"};
    const char *const values[] = {c->relation,
                                  shadow->relation,
                                  shadow->aside,
                                  shadow->relation_name,
                                  shadow->aside_name,
                                  c->rule->table,
                                  c->rule->expression,
                                  forward ? SUFFIX_NEW : SUFFIX_OLD,
                                  forward ? SUFFIX_OLD : SUFFIX_NEW,
                                  shadow->partition_by};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strlen(words[i]) == len && memcmp(words[i], word, len) == 0) {
            char *literal = values[i] != NULL ? control_quote_literal(c->control, values[i]) : NULL;
            fputs(literal != NULL ? literal : "NULL", out);
            free(literal);
            return true;
        }
    }
    return false;
}

static bool is(const char *at, const char *word)
{
    return strncmp(at, word, strlen(word)) == 0;
}

char *shadow_expand(const struct cutover *c, const struct shadow *shadow, const char *pattern)
{
    struct text t;
    if (!text_begin(&t)) {
        return NULL;
    }
    for (const char *p = pattern; *p != '\0';) {
        size_t plain = strcspn(p, "{");
        fwrite(p, 1, plain, t.out);
        p += plain;
        const char *end = strchr(p, '}');
        size_t len = end != NULL ? (size_t)(end - p) + 1 : strlen(p);
        if (is(p, "{from}")) {
            fprintf(t.out, "%u", shadow->from);
        } else if (is(p, "{to}")) {
            fprintf(t.out, "%u", shadow->to);
        } else if (is(p, "{rel}")) {
            fputs("$1", t.out);
        } else if (is(p, "{key_index}")) {
            fprintf(t.out, "%u", shadow->key_index);
        } else if (is(p, "{reads}")) {
            char *reads = shadow->reads != NULL ? json_dumps(shadow->reads, 0) : NULL;
            char *literal = reads != NULL ? control_quote_literal(c->control, reads) : NULL;
            fputs(literal != NULL ? literal : "'[]'", t.out);
            free(reads);
            free(literal);
        } else if (is(p, "{hashed}")) {
            fputs(shadow->hashed ? "true" : "false", t.out);
        } else if (is(p, "{back}")) {
            fputs(shadow->direction == SHADOW_BACK ? "true" : "false", t.out);
        } else if (is(p, "{trigger_name}")) {
            fputs(shadow->triggers_kept, t.out);
        } else if (is(p, "{row_filter}")) {
            fputs(version_piece(c, "{row_filter}"), t.out);
        } else if (is(p, "{schema_publications}")) {
            char *piece = shadow_expand(c, shadow, version_piece(c, "{schema_publications}"));
            fputs(piece != NULL ? piece : "", t.out);
            free(piece);
        } else if (end == NULL || !put_word(c, shadow, p, len, t.out)) {
            /* What a value looks like is not looked at again. */
            char *word = text_printf("%.*s", (int)len, p);
            char *value = word != NULL ? context_expand(c, word) : NULL;
            fputs(value != NULL ? value : "", t.out);
            free(word);
            free(value);
        }
        p += len;
    }
    return text_end(&t);
}

PGresult *shadow_query(struct cutover *c, const struct shadow *shadow, const char *const *pieces,
                       struct failure *f)
{
    struct text t;
    if (!text_begin(&t)) {
        fail(f, EXIT_REFUSED, "out of memory");
        return NULL;
    }
    for (; *pieces != NULL; pieces++) {
        char *sql = shadow_expand(c, shadow, *pieces);
        fputs(sql != NULL ? sql : "out of memory", t.out);
        free(sql);
    }
    char *sql = text_end(&t);
    PGresult *r = NULL;
    if (sql == NULL) {
        fail(f, EXIT_REFUSED, "out of memory");
    } else {
        r = control_query(c->control, sql, 0, NULL, STATEMENT_TIMEOUT_MS, f);
    }
    free(sql);
    return r;
}

json_t *shadow_strings(PGresult *r, struct failure *f)
{
    if (r == NULL) {
        return NULL;
    }
    json_t *list = json_array();
    for (int i = 0; i < PQntuples(r); i++) {
        if (!PQgetisnull(r, i, 0)) {
            json_array_append_new(list, report_string(PQgetvalue(r, i, 0)));
        }
    }
    PQclear(r);
    if (list == NULL) {
        fail(f, EXIT_REFUSED, "out of memory");
    }
    return list;
}

/* Columns, key, and the other table's oid, as JSON. */
static const char *const plan_sql[] = {
    "WITH a AS (SELECT * FROM pg_attribute WHERE attrelid = {from} AND attnum > 0 "
    "AND NOT attisdropped), "
    "k AS (SELECT i.*, ARRAY(SELECT a.attname FROM unnest(i.indkey::int2[]) WITH ORDINALITY "
    "u(num, ord) JOIN a ON a.attnum = u.num WHERE u.ord <= i.indnkeyatts ORDER BY u.ord) AS names "
    "FROM pg_index i WHERE i.indrelid = {from} AND i.indisunique AND i.indisvalid "
    "AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL AND NOT EXISTS (SELECT "
    "FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(num, ord) JOIN a ON a.attnum = u.num "
    "WHERE u.ord <= i.indnkeyatts AND NOT a.attnotnull) "
    "ORDER BY {key}::name = ANY (ARRAY(SELECT a.attname FROM unnest(i.indkey::int2[]) WITH "
    "ORDINALITY u(num, ord) JOIN a ON a.attnum = u.num WHERE u.ord <= i.indnkeyatts)), "
    "i.indisprimary DESC, i.indexrelid LIMIT 1) "
    "SELECT json_build_object("
    "'to', coalesce((SELECT oid::int8 FROM pg_class WHERE oid = to_regclass({relation_text})), 0), "
    "'columns', (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM a "
    "WHERE coalesce(to_jsonb(a) ->> 'attgenerated', '') = '' AND attname <> {key}), "
    "'all_columns', (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM a), "
    "'key', (SELECT string_agg(quote_ident(n), ', ' ORDER BY o) FROM k, "
    "unnest(k.names) WITH ORDINALITY u(n, o)), "
    "'key_names', (SELECT to_json(names) FROM k), "
    "'key_index', coalesce((SELECT indexrelid::int8 FROM k), 0), "
    "'key_guarded', coalesce((SELECT {key}::name = ANY (names) FROM k), false), "
    "'partitioning', pg_get_partkeydef({from}), "
    "'triggers', coalesce((SELECT json_agg(tgname ORDER BY tgname) FROM pg_trigger WHERE "
    "tgrelid = to_regclass({relation_text}) AND NOT tgisinternal), '[]'))",
    NULL};

static char *take_string(const json_t *from, const char *key)
{
    const char *text = json_string_value(json_object_get(from, key));
    return text != NULL ? strdup(text) : NULL;
}

/* ALL (ARRAY['a', 'b']::name[]), of the triggers that are not carried over. */
static char *kept_list(struct cutover *c, const struct shadow *shadow, const json_t *there)
{
    struct text t;
    if (!text_begin(&t)) {
        return NULL;
    }
    fputs("ALL (ARRAY[", t.out);
    if (shadow->direction == SHADOW_FORWARD) {
        fputs(c->trigger.name_text != NULL ? c->trigger.name_text : "", t.out);
    } else {
        size_t i;
        const json_t *name;
        json_array_foreach(there, i, name)
        {
            char *literal = control_quote_literal(c->control, json_string_value(name));
            fprintf(t.out, "%s%s", i > 0 ? ", " : "", literal != NULL ? literal : "NULL");
            free(literal);
        }
    }
    fputs("]::name[])", t.out);
    return text_end(&t);
}

bool shadow_plan(struct cutover *c, enum shadow_direction direction, struct shadow *out,
                 struct failure *f)
{
    bool forward = direction == SHADOW_FORWARD;
    *out = (struct shadow){.direction = direction, .from = c->table.oid};
    out->relation_name = name_beside(c->rule->table, forward ? SUFFIX_NEW : SUFFIX_OLD);
    out->aside_name = name_beside(c->rule->table, forward ? SUFFIX_OLD : SUFFIX_NEW);
    out->relation = qualify(c, out->relation_name);
    out->aside = qualify(c, out->aside_name);
    out->triggers_kept = strdup("ALL (ARRAY[]::name[])");
    if (out->relation == NULL || out->aside == NULL || out->triggers_kept == NULL) {
        shadow_fini(out);
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    json_t *plan = context_json(shadow_query(c, out, plan_sql, f), f);
    if (plan == NULL) {
        shadow_fini(out);
        return false;
    }
    out->to = (unsigned)json_integer_value(json_object_get(plan, "to"));
    out->columns = take_string(plan, "columns");
    out->all_columns = take_string(plan, "all_columns");
    out->key = take_string(plan, "key");
    out->key_names = json_incref(json_object_get(plan, "key_names"));
    out->key_index = (unsigned)json_integer_value(json_object_get(plan, "key_index"));
    out->partition_by = take_string(plan, "partitioning");
    out->key_guarded = json_is_true(json_object_get(plan, "key_guarded"));
    free(out->triggers_kept);
    out->triggers_kept = kept_list(c, out, json_object_get(plan, "triggers"));
    json_decref(plan);
    if (out->triggers_kept == NULL || out->all_columns == NULL) {
        shadow_fini(out);
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    if (!shadow_partitioning(c, out, f)) {
        shadow_fini(out);
        return false;
    }
    out->refusals = shadow_refusals(c, out, f);
    if (out->refusals == NULL) {
        shadow_fini(out);
        return false;
    }
    return true;
}

void shadow_fini(struct shadow *shadow)
{
    free(shadow->relation);
    free(shadow->aside);
    free(shadow->relation_name);
    free(shadow->aside_name);
    free(shadow->columns);
    free(shadow->all_columns);
    free(shadow->key);
    json_decref(shadow->key_names);
    json_decref(shadow->reads);
    free(shadow->partition_by);
    json_decref(shadow->refusals);
    free(shadow->triggers_kept);
    *shadow = (struct shadow){.relation = NULL};
}

void shadow_report(struct cutover *c, const struct shadow *shadow)
{
    size_t i;
    const json_t *refusal;
    json_array_foreach(shadow->refusals, i, refusal)
    {
        report_check(c, "shadow", CHECK_BLOCK,
                     "drop it, and make it again after the cutover, or change it so that it can be "
                     "carried over",
                     "%s: %s", json_string_value(json_object_get(refusal, "what")),
                     json_string_value(json_object_get(refusal, "why")));
    }
    if (json_array_size(shadow->refusals) == 0) {
        report_check(c, "shadow", CHECK_PASS, NULL,
                     "everything that stands on the table can be carried over to %s",
                     shadow->relation);
    }
}

/* Removes the columns of the expression one by one, and sees which of them it cannot do without. */
static const char *const reads_sql[] = {
    "DO $pgsluice$ DECLARE k record; reads_ text[] := '{}'; BEGIN FOR k IN SELECT a.attname, "
    "(SELECT format(E'SELECT (%s\n) FROM (SELECT %s) %I LIMIT 0', {expr_text}, string_agg(format("
    "'NULL::%s AS %I', format_type(b.atttypid, b.atttypmod), b.attname), ', '), {base_name}) "
    "FROM pg_attribute b WHERE b.attrelid = {from} AND b.attnum > 0 AND NOT b.attisdropped "
    "AND b.attname <> a.attname) AS sql FROM pg_attribute a WHERE a.attrelid = {from} "
    "AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> {key} ORDER BY a.attnum LOOP "
    "BEGIN EXECUTE k.sql; EXCEPTION WHEN undefined_column THEN reads_ := reads_ || "
    "k.attname::text; END; END LOOP; PERFORM set_config('pgsluice.reads', to_json(reads_)::text, "
    "false); END $pgsluice$",
    NULL};

bool shadow_partitioning(struct cutover *c, struct shadow *shadow, struct failure *f)
{
    PGresult *r = shadow_query(c, shadow, reads_sql, f);
    if (r == NULL) {
        return false;
    }
    PQclear(r);
    shadow->reads = context_json(
        context_query(c, "SELECT current_setting('pgsluice.reads')", STATEMENT_TIMEOUT_MS, f), f);
    if (shadow->reads == NULL) {
        return false;
    }
    shadow->hashed = shadow->partition_by != NULL && shadow->direction == SHADOW_FORWARD &&
                     json_is_true(json_object_get(c->table.facts, "partitioned_by_column"));
    if (!shadow->hashed) {
        return true;
    }
    struct text t;
    bool ok = text_begin(&t);
    if (ok) {
        size_t i;
        const json_t *name;
        fputs("HASH (", t.out);
        json_array_foreach(shadow->reads, i, name)
        {
            char *quoted = control_quote_identifier(c->control, json_string_value(name));
            fprintf(t.out, "%s%s", i > 0 ? ", " : "", quoted != NULL ? quoted : "");
            free(quoted);
        }
        fputs(")", t.out);
    }
    free(shadow->partition_by);
    shadow->partition_by = text_end(&t);
    return shadow->partition_by != NULL || fail(f, EXIT_REFUSED, "out of memory");
}

json_t *shadow_drop(struct cutover *c, struct failure *f)
{
    json_t *list = json_array();
    const char *const suffixes[] = {SUFFIX_NEW, SUFFIX_OLD};
    for (size_t i = 0; i < 2 && list != NULL; i++) {
        char *name = name_beside(c->rule->table, suffixes[i]);
        char *relation = qualify(c, name);
        char *sql = relation != NULL ? text_printf("DROP TABLE IF EXISTS %s", relation) : NULL;
        if (sql == NULL || json_array_append_new(list, report_string(sql)) != 0) {
            json_decref(list);
            list = NULL;
        }
        free(name);
        free(relation);
        free(sql);
    }
    if (list == NULL) {
        fail(f, EXIT_REFUSED, "out of memory");
    }
    return list;
}

bool shadow_run(struct cutover *c, const json_t *statements, unsigned timeout_ms, struct failure *f)
{
    size_t i;
    const json_t *sql;
    json_array_foreach(statements, i, sql)
    {
        if (!control_run(c->control, json_string_value(sql), timeout_ms, f)) {
            return false;
        }
    }
    return true;
}

/* The stored values; see values.h. */
#include "proxy/cutover/values.h"

#include <stdlib.h>
#include <string.h>

enum {
    HISTOGRAM_MAX = 1000, /* so many keys are all listed; of more, */
    HISTOGRAM_ENDS = 20,  /* so many of either end */
};

/* {ordered}: min and max exist for the type. */
static char *summary_sql(struct cutover *c, const char *differ)
{
    bool ordered = strchr("NSD", c->table.category) != NULL;
    return text_printf("SELECT count(*), count(*) FILTER (WHERE %s), "
                       "count(*) FILTER (WHERE {col} IS NULL), %s FROM {name}",
                       differ, ordered ? "min({col})::text, max({col})::text" : "NULL, NULL");
}

static const char key_columns[] =
    "(SELECT array_agg(k.attname::text) FROM pg_index i JOIN pg_attribute k "
    "ON k.attrelid = i.indrelid AND k.attnum = ANY (i.indkey) "
    "WHERE i.indrelid = {rel} AND i.indisprimary AND k.attnum <> {num})";

static bool read_examples(struct cutover *c, const char *differ, struct values *out,
                          struct failure *f)
{
    char *template =
        text_printf("SELECT coalesce(json_agg(x), '[]') FROM (SELECT json_build_object('row', "
                    "coalesce((SELECT jsonb_object_agg(k, to_jsonb(r) -> k) FROM unnest(%s) k), "
                    "to_jsonb(r.ctid::text)), 'stored', {col}, 'expected', {value}) AS x "
                    "FROM {name} r WHERE %s LIMIT 5) q",
                    key_columns, differ);
    if (template == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    out->examples = context_json(context_query(c, template, 0, f), f);
    free(template);
    if (out->examples == NULL) {
        return false;
    }
    struct text t;
    size_t i;
    const json_t *example;
    if (!text_begin(&t)) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    json_array_foreach(out->examples, i, example)
    {
        char *row = json_dumps(json_object_get(example, "row"), JSON_ENCODE_ANY);
        char *stored = json_dumps(json_object_get(example, "stored"), JSON_ENCODE_ANY);
        char *expected = json_dumps(json_object_get(example, "expected"), JSON_ENCODE_ANY);
        fprintf(t.out, "%s%s has %s, expected %s", i > 0 ? "; " : "", row != NULL ? row : "?",
                stored != NULL ? stored : "?", expected != NULL ? expected : "?");
        free(row);
        free(stored);
        free(expected);
    }
    out->examples_text = text_end(&t);
    return out->examples_text != NULL || fail(f, EXIT_REFUSED, "out of memory");
}

static bool read_distribution(struct cutover *c, struct values *out, struct failure *f)
{
    char *template = text_printf(
        "WITH g AS (SELECT {col} AS key, count(*) AS n FROM {name} GROUP BY 1), "
        "s AS (SELECT count(*) AS keys, max(n) AS most, avg(n) AS mean FROM g), "
        "o AS (SELECT key, n, row_number() OVER (ORDER BY n DESC, key::text) AS r FROM g) "
        "SELECT s.keys, coalesce(s.most / nullif(s.mean, 0), 0)::float8, "
        "(SELECT coalesce(json_agg(json_build_object('key', key, 'rows', n) ORDER BY r), '[]') "
        "FROM o WHERE s.keys <= %d OR r <= %d OR r > s.keys - %d) FROM s",
        HISTOGRAM_MAX, HISTOGRAM_ENDS, HISTOGRAM_ENDS);
    if (template == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    PGresult *r = context_query(c, template, 0, f);
    free(template);
    if (r == NULL) {
        return false;
    }
    out->distinct = strtoll(PQgetvalue(r, 0, 0), NULL, 10);
    out->skew = strtod(PQgetvalue(r, 0, 1), NULL);
    out->histogram = json_loads(PQgetvalue(r, 0, 2), 0, NULL);
    PQclear(r);
    return out->histogram != NULL || fail(f, EXIT_REFUSED, "out of memory");
}

bool values_read(struct cutover *c, bool distribution, struct values *out, struct failure *f)
{
    *out = (struct values){.distinct = -1};
    char *value = context_expand(c, "{value}");
    char *differ = value != NULL ? context_differ(c, c->column, value) : NULL;
    char *template = differ != NULL ? summary_sql(c, differ) : NULL;
    bool ok = template != NULL || fail(f, EXIT_REFUSED, "out of memory");
    PGresult *r = ok ? context_query(c, template, 0, f) : NULL;
    ok = r != NULL;
    if (ok) {
        out->rows = strtoll(PQgetvalue(r, 0, 0), NULL, 10);
        out->mismatches = strtoll(PQgetvalue(r, 0, 1), NULL, 10);
        out->nulls = strtoll(PQgetvalue(r, 0, 2), NULL, 10);
        out->min = PQgetisnull(r, 0, 3) ? NULL : strdup(PQgetvalue(r, 0, 3));
        out->max = PQgetisnull(r, 0, 4) ? NULL : strdup(PQgetvalue(r, 0, 4));
        PQclear(r);
    }
    ok = ok && (out->mismatches == 0 || read_examples(c, differ, out, f)) &&
         (!distribution || read_distribution(c, out, f));
    free(value);
    free(differ);
    free(template);
    if (!ok) {
        values_fini(out);
    }
    return ok;
}

json_t *values_json(const struct values *v)
{
    json_t *out = json_pack("{s:I, s:I, s:I}", "rows", (json_int_t)v->rows, "mismatches",
                            (json_int_t)v->mismatches, "nulls", (json_int_t)v->nulls);
    if (out == NULL) {
        return NULL;
    }
    (void)json_object_set_new(out, "min", v->min != NULL ? report_string(v->min) : json_null());
    (void)json_object_set_new(out, "max", v->max != NULL ? report_string(v->max) : json_null());
    (void)json_object_set_new(out, "examples",
                              v->examples != NULL ? json_deep_copy(v->examples) : json_array());
    if (v->distinct >= 0) {
        (void)json_object_set_new(out, "distinct", json_integer(v->distinct));
        (void)json_object_set_new(out, "skew", json_real(v->skew));
        (void)json_object_set_new(out, "histogram", json_deep_copy(v->histogram));
    }
    return out;
}

void values_fini(struct values *v)
{
    free(v->min);
    free(v->max);
    json_decref(v->examples);
    free(v->examples_text);
    json_decref(v->histogram);
    *v = (struct values){.distinct = -1};
}

/*
 * The dependents of a guarded table; see catalog_views.h. The server tells of a view's columns
 * where they come from in its rewrite rule alone (pg_rewrite.ev_action); its functions for it lock
 * the table, which a cutover may hold.
 */
#include "proxy/catalog_views.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { READ_TIMEOUT_MS = 10000 };

/* Relations through which a statement may write the table: views and tables whose rules mention it,
 * transitively; its partitions and children; the partitioned tables above it, from which rows are
 * routed to it. $1 relation, $2 column, $3 table's name.
 * kind: u above, d below, o other. computes: by a trigger of its own (up to version 14, what it has
 * from above counts as internal), or generated. opaque: a rule
 * that depends on the column or on another dependent writes through it, or a trigger in its place
 * whose function names the column, writes whole rows of the table, or is in a language that is not
 * read. definition: of a view that is not opaque. */
static const char relations_sql[] =
    "WITH RECURSIVE up(oid) AS (SELECT $1::oid UNION SELECT i.inhparent FROM up u "
    "  JOIN pg_class c ON c.oid = u.oid AND c.relispartition "
    "  JOIN pg_inherits i ON i.inhrelid = u.oid), "
    "down(oid) AS (SELECT $1::oid UNION SELECT i.inhrelid FROM down d "
    "  JOIN pg_inherits i ON i.inhparent = d.oid), "
    "family(oid) AS (SELECT oid FROM up UNION SELECT oid FROM down), "
    "reach(oid) AS (SELECT oid FROM family "
    "  UNION SELECT w.ev_class FROM reach r JOIN pg_depend p ON p.refobjid = r.oid "
    "  AND p.refclassid = 'pg_class'::regclass AND p.classid = 'pg_rewrite'::regclass "
    "  JOIN pg_rewrite w ON w.oid = p.objid "
    "  JOIN pg_class v ON v.oid = w.ev_class AND v.relkind <> 'm'), "
    "guarded(oid, num) AS (SELECT a.attrelid, a.attnum FROM family JOIN pg_attribute a "
    "  ON a.attrelid = family.oid AND a.attname = $2 AND NOT a.attisdropped), "
    "ruled(oid) AS (SELECT w.ev_class FROM pg_rewrite w JOIN reach r ON r.oid = w.ev_class "
    "  JOIN pg_depend p ON p.classid = 'pg_rewrite'::regclass AND p.objid = w.oid "
    "  AND p.refclassid = 'pg_class'::regclass WHERE w.rulename <> '_RETURN' "
    "  AND ((p.refobjid, p.refobjsubid) IN (SELECT oid, num FROM guarded) "
    "    OR p.refobjid <> w.ev_class AND p.refobjid IN "
    "      (SELECT oid FROM reach EXCEPT SELECT oid FROM family))), "
    "replaced(oid) AS (SELECT t.tgrelid FROM pg_trigger t JOIN reach r ON r.oid = t.tgrelid "
    "  JOIN pg_proc f ON f.oid = t.tgfoid JOIN pg_language l ON l.oid = f.prolang "
    "  WHERE t.tgtype & 64 <> 0 AND (l.lanname NOT IN ('plpgsql', 'sql') "
    "    OR position(lower($2) IN lower(f.prosrc)) > 0 "
    "    OR f.prosrc ~* ('(into|copy)\\s+([^\\s(]+\\.)?\"?' || "
    "      regexp_replace($3, '(\\W)', '\\\\\\1', 'g') || '\"?\\s*[^\\s(]'))) "
    "SELECT n.nspname, c.relname, c.oid, "
    "CASE WHEN c.oid IN (SELECT oid FROM up) THEN 'u' WHEN c.oid IN (SELECT oid FROM down) THEN "
    "'d' "
    "  ELSE 'o' END AS kind, "
    "EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid "
    "  AND t.tgtype & 7 = 7 AND t.tgenabled <> 'D') OR EXISTS (SELECT FROM pg_attribute a "
    "  WHERE a.attrelid = c.oid AND a.attname = $2 "
    "  AND coalesce(to_jsonb(a) ->> 'attgenerated', '') <> '') AS computes, "
    "c.oid IN (SELECT oid FROM ruled UNION SELECT oid FROM replaced) AS opaque, "
    "CASE WHEN c.relkind = 'v' AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid "
    "  AND t.tgtype & 64 <> 0) THEN (SELECT w.ev_action::text FROM pg_rewrite w "
    "  WHERE w.ev_class = c.oid AND w.rulename = '_RETURN') END AS definition "
    "FROM reach r JOIN pg_class c ON c.oid = r.oid "
    "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.oid <> $1::oid ORDER BY 1, 2";

/* $1 the table, $2 the others: an array. With the table's own columns first. */
static const char columns_sql[] =
    "SELECT attrelid, attnum, attname, atttypid, " CATALOG_COLUMN_SOURCE
    " AS source FROM pg_attribute a WHERE (attrelid = $1::oid OR attrelid = ANY ($2::oid[])) "
    "AND attnum > 0 AND NOT attisdropped ORDER BY attrelid <> $1::oid, attrelid, attnum";

enum relation_field {
    RELATION_SCHEMA,
    RELATION_NAME,
    RELATION_OID,
    RELATION_KIND,
    RELATION_COMPUTES,
    RELATION_OPAQUE,
    RELATION_DEFINITION,
};

enum column_field { COLUMN_RELATION, COLUMN_NUMBER, COLUMN_NAME, COLUMN_TYPE, COLUMN_SOURCE };

/* A column of the table or of a dependent. */
struct column {
    uint32_t relation;
    int number;
    bool is_guarded; /* it is the rule's, or shows it */
    enum column_source source;
};

/* What is found out about the relations, one after the other. */
struct survey {
    const PGresult *relations, *columns;
    struct column *column;
    int column_count;
    bool *is_known; /* by relation: its columns are settled */
    bool *is_opaque;
    int relation_count;
};

static bool is_true(const PGresult *r, int row, int field)
{
    return PQgetvalue(r, row, field)[0] == 't';
}

static uint32_t number_in(const PGresult *r, int row, int field)
{
    return (uint32_t)strtoul(PQgetvalue(r, row, field), NULL, 10);
}

static struct column *find_column(const struct survey *survey, uint32_t relation, int number)
{
    for (int i = 0; i < survey->column_count; i++) {
        if (survey->column[i].relation == relation && survey->column[i].number == number) {
            return &survey->column[i];
        }
    }
    return NULL;
}

static int find_relation(const struct survey *survey, uint32_t relation)
{
    int i = 0;
    while (i < survey->relation_count &&
           number_in(survey->relations, i, RELATION_OID) != relation) {
        i++;
    }
    return i;
}

/* One item of a view's target list. */
struct target {
    int number;
    uint32_t relation; /* where its column comes from; 0: it is an expression */
    int column;
    bool is_junk; /* not a column of the view */
};

/* Behind a word of a node tree, whose blanks and brackets are escaped by a backslash. */
static const char *behind_word(const char *at)
{
    while (*at != '\0' && *at != ' ') {
        at += at[0] == '\\' && at[1] != '\0' ? 2 : 1;
    }
    return at;
}

/* Reads what stands behind an item's expression. */
static bool read_target(const char *at, struct target *target)
{
    char junk;
    int len = 0;
    if (sscanf(at, " :resno %d :resname %n", &target->number, &len) != 1 || len == 0) {
        return false;
    }
    const bool is_read = sscanf(behind_word(at + len),
                                " :ressortgroupref %*u :resorigtbl %u :resorigcol %d :resjunk %c",
                                &target->relation, &target->column, &junk) == 3;
    target->is_junk = is_read && junk == 't';
    return is_read;
}

/* The next item of the target list of the definition's own query, which is the second bracket deep;
 * those of queries in it are deeper. `at` begins at the definition, with `depth` 0. */
static bool next_target(const char **at, int *depth, struct target *target)
{
    static const char item[] = "{TARGETENTRY ";
    bool is_open = false; /* an item of the own list */
    for (const char *c = *at; *c != '\0'; c++) {
        if (c[0] == '\\' && c[1] != '\0') {
            c++;
        } else if (*c == '{') {
            is_open |= ++*depth == 2 && strncmp(c, item, sizeof item - 1) == 0;
        } else if (*c == '}') {
            --*depth;
            if (is_open && *depth == 2 && read_target(c + 1, target)) {
                *at = c + 1;
                return true;
            }
            is_open &= *depth >= 2;
        }
    }
    return false;
}

/* True when all that the view takes columns from is settled; then it is, too. */
static bool settle_view(struct survey *survey, int at)
{
    const uint32_t view = number_in(survey->relations, at, RELATION_OID);
    const char *text = PQgetvalue(survey->relations, at, RELATION_DEFINITION);
    int depth = 0;
    struct target target;
    bool is_opaque = survey->is_opaque[at];
    while (next_target(&text, &depth, &target)) {
        struct column *column = find_column(survey, view, target.number);
        if (column == NULL || target.is_junk) {
            continue;
        }
        const int origin = find_relation(survey, target.relation);
        if (origin < survey->relation_count && !survey->is_known[origin]) {
            return false;
        }
        is_opaque |= origin < survey->relation_count && survey->is_opaque[origin];
        const struct column *from = find_column(survey, target.relation, target.column);
        column->is_guarded = from != NULL && from->is_guarded;
        column->source = from == NULL ? COLUMN_FIXED : from->source;
    }
    survey->is_opaque[at] = is_opaque;
    return true;
}

static bool is_view(const struct survey *survey, int at)
{
    return PQgetvalue(survey->relations, at, RELATION_DEFINITION)[0] != '\0';
}

/* Views over views, in whatever order they came. */
static void settle_views(struct survey *survey)
{
    for (bool goes_on = true; goes_on;) {
        goes_on = false;
        for (int i = 0; i < survey->relation_count; i++) {
            if (!survey->is_known[i] && settle_view(survey, i)) {
                survey->is_known[i] = goes_on = true;
            }
        }
    }
}

/* Views have their columns from their definitions; all else has the column by its name, or by
 * rules. */
static void begin(struct survey *survey, const struct config_rule *rule, uint32_t table)
{
    for (int i = 0; i < survey->column_count; i++) {
        const uint32_t relation = number_in(survey->columns, i, COLUMN_RELATION);
        const int at = find_relation(survey, relation);
        const bool is_family =
            relation == table || *PQgetvalue(survey->relations, at, RELATION_KIND) != 'o';
        survey->column[i] = (struct column){
            .relation = relation,
            .number = (int)number_in(survey->columns, i, COLUMN_NUMBER),
            .is_guarded =
                is_family && strcmp(PQgetvalue(survey->columns, i, COLUMN_NAME), rule->column) == 0,
            .source = (enum column_source)number_in(survey->columns, i, COLUMN_SOURCE),
        };
    }
    for (int i = 0; i < survey->relation_count; i++) {
        survey->is_opaque[i] = is_true(survey->relations, i, RELATION_OPAQUE);
        survey->is_known[i] = !is_view(survey, i);
    }
}

/* Its columns into `to`; returns how many. Two that show the column are one too many to be told. */
static int list_columns(const struct survey *survey, int at, struct rule_column *to,
                        struct rule_relation *relation, const char **guarded)
{
    const uint32_t oid = number_in(survey->relations, at, RELATION_OID);
    int count = 0, guarded_count = 0;
    for (int i = 0; i < survey->column_count; i++) {
        if (survey->column[i].relation != oid) {
            continue;
        }
        to[count++] = (struct rule_column){
            .name = PQgetvalue(survey->columns, i, COLUMN_NAME),
            .type_oid = number_in(survey->columns, i, COLUMN_TYPE),
            .source = survey->column[i].source,
        };
        if (survey->column[i].is_guarded) {
            *guarded = PQgetvalue(survey->columns, i, COLUMN_NAME);
            guarded_count++;
        }
    }
    relation->column = guarded_count == 0 ? "" : guarded_count == 1 ? *guarded : NULL;
    return count;
}

/* What rows may be written to without the column: a child that computes it itself, and a view
 * through which they come to the table. */
static bool is_like(const struct survey *survey, int at)
{
    const char kind = *PQgetvalue(survey->relations, at, RELATION_KIND);
    return kind == 'o' ? is_view(survey, at)
                       : kind == 'd' && is_true(survey->relations, at, RELATION_COMPUTES);
}

static void fill(struct survey *survey, struct catalog_dependents *out)
{
    struct rule_column *to = out->column;
    for (int i = 0; i < survey->relation_count; i++) {
        struct rule_relation *relation = &out->at[out->count++];
        const char *guarded = NULL;
        *relation = (struct rule_relation){
            .schema = PQgetvalue(survey->relations, i, RELATION_SCHEMA),
            .name = PQgetvalue(survey->relations, i, RELATION_NAME),
        };
        const int count = list_columns(survey, i, to, relation, &guarded);
        if (survey->is_opaque[i]) {
            relation->column = NULL;
        } else if (guarded != NULL && relation->column != NULL && is_like(survey, i)) {
            relation->columns = to;
            relation->column_count = (size_t)count;
        }
        to += count;
    }
}

/* {1,2,3} of the relations; NULL when out of memory. */
static char *array_of(const PGresult *relations)
{
    char *text = NULL;
    size_t len;
    FILE *array = open_memstream(&text, &len);
    if (array == NULL) {
        return NULL;
    }
    for (int i = 0; i < PQntuples(relations); i++) {
        fprintf(array, "%c%s", i == 0 ? '{' : ',', PQgetvalue(relations, i, RELATION_OID));
    }
    fputs(PQntuples(relations) == 0 ? "{}" : "}", array);
    if (fclose(array) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

static bool read_results(struct control *control, const struct config_rule *rule,
                         const char *relation, struct catalog_dependents *out, struct failure *f)
{
    out->relations = control_query(control, relations_sql, 3,
                                   (const char *const[]){relation, rule->column, rule->table},
                                   READ_TIMEOUT_MS, f);
    if (out->relations == NULL) {
        return false;
    }
    char *array = array_of(out->relations);
    if (array == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    out->columns = control_query(control, columns_sql, 2, (const char *const[]){relation, array},
                                 READ_TIMEOUT_MS, f);
    free(array);
    return out->columns != NULL;
}

bool catalog_read_dependents(struct control *control, const struct config_rule *rule,
                             const char *relation, struct catalog_dependents *out,
                             struct failure *f)
{
    *out = (struct catalog_dependents){.count = 0};
    if (!read_results(control, rule, relation, out, f)) {
        return false;
    }
    struct survey survey = {
        .relations = out->relations,
        .columns = out->columns,
        .relation_count = PQntuples(out->relations),
        .column_count = PQntuples(out->columns),
    };
    survey.column = calloc((size_t)survey.column_count + 1, sizeof *survey.column);
    survey.is_known = calloc((size_t)survey.relation_count + 1, sizeof *survey.is_known);
    survey.is_opaque = calloc((size_t)survey.relation_count + 1, sizeof *survey.is_opaque);
    out->at = calloc((size_t)survey.relation_count + 1, sizeof *out->at);
    out->column = calloc((size_t)survey.column_count + 1, sizeof *out->column);
    const bool ok = (survey.column != NULL && survey.is_known != NULL && survey.is_opaque != NULL &&
                     out->at != NULL && out->column != NULL) ||
                    fail(f, EXIT_REFUSED, "out of memory");
    if (ok) {
        begin(&survey, rule, (uint32_t)strtoul(relation, NULL, 10));
        settle_views(&survey);
        fill(&survey, out);
    }
    free(survey.column);
    free(survey.is_known);
    free(survey.is_opaque);
    return ok;
}

void catalog_dependents_fini(struct catalog_dependents *dependents)
{
    PQclear(dependents->relations);
    PQclear(dependents->columns);
    free(dependents->at);
    free(dependents->column);
    *dependents = (struct catalog_dependents){.count = 0};
}

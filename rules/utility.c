/*
 * Statements that are not queries: those that carry one (EXPLAIN, PREPARE, COPY, ...), those that
 * write in their own way, those whose text is opaque, and DDL. Called by statement.c; owns nothing.
 */
#include "rules/analysis.h"

#include "rules/copy_statement.h"

#include <catalog/pg_class_d.h>
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "rules/compute.h"

/* The rules that the whole text may concern. */
static uint64_t mentioned(const struct analysis *a)
{
    return rule_set_mentioned(a->set, a->text, a->len);
}

/* Supplies the columns of the rules, whose values come in the stream; returns those to be taken
 * out. */
static uint64_t supplied_by_stream(struct analysis *a, const CopyStmt *stmt, uint64_t rules,
                                   struct copy_options *options)
{
    const char *obstacle = copy_statement_read(a, stmt, rules, options);
    uint64_t stripped = 0;
    for (uint64_t rest = rules; rest != 0; rest &= rest - 1) {
        struct supply supply = {.statement = "COPY", .obstacle = obstacle};
        if (analysis_supply(a, rule_first(rest), &supply)) {
            stripped |= UINT64_C(1) << rule_first(rest);
        }
    }
    return stripped;
}

static void note_stream(struct analysis *a, const struct verdict_copy *copy)
{
    a->copies =
        arena_grow(a->arena, a->copies, a->copy_count, &a->copy_capacity, sizeof *a->copies);
    a->copies[a->copy_count++] = *copy;
}

/* A COPY whose rows get the column of a rule in mode compute; `rules` are all those of the table.
 */
static void compute_copy(struct analysis *a, CopyStmt *stmt, uint64_t rules,
                         struct verdict_copy *copy)
{
    const size_t index = rule_first(rule_set_in_mode(a->set, rules, RULE_MODE_COMPUTE));
    const char *hint = "Load the rows by INSERT.";
    const char *obstacle =
        (rules & (rules - 1)) != 0
            ? "more than one rule is about the table"
            : copy_statement_read_computed(a, stmt, index, &copy->options, &hint);
    const uint64_t carried = copy_statement_carries(a, stmt, rules);
    for (uint64_t rest = carried; rest != 0; rest &= rest - 1) {
        analysis_record(a, rule_first(rest), &(struct supply){.statement = "COPY"});
    }
    if (obstacle != NULL) {
        analysis_refuse_compute(a, rule_set_get(a->set, index), "COPY", obstacle, hint);
        return;
    }
    copy_statement_compute(a, stmt, index, &copy->options);
    copy_statement_compare(a, stmt, carried, copy);
}

/* Without a list a client may send the column or not: that it was supplied is not said yet. Where
 * records are told together, all are told at once. */
static void await_first_row(struct analysis *a, struct verdict_copy *copy)
{
    struct supplied *last = &a->supplied[a->supplied_count - 1];
    if (copy->options.may_lack && a->supplied_count < SUPPLIED_APART_MAX) {
        last->is_awaited = true;
        copy->awaits = true;
        copy->rule = last->rule;
    }
}

static void strip_copy(struct analysis *a, CopyStmt *stmt, uint64_t rules,
                       struct verdict_copy *copy)
{
    const uint64_t carried = copy_statement_carries(a, stmt, rules);
    const uint64_t stripped =
        carried == 0 ? 0 : supplied_by_stream(a, stmt, carried, &copy->options);
    if (stripped != 0) {
        copy_statement_strip(a, stmt, stripped, &copy->options);
        copy_statement_compare(a, stmt, stripped, copy);
        await_first_row(a, copy);
    }
}

static void judge_copy(struct analysis *a, CopyStmt *stmt)
{
    if (stmt->query != NULL) {
        statement_judge(a, stmt->query);
    }
    if (stmt->relation == NULL) {
        return;
    }
    if (!stmt->is_from) {
        copy_out_judge(a, stmt);
        return;
    }
    const struct rule_target target = analysis_target(a, stmt->relation);
    a->writes |= target.direct | target.dependents;
    dependent_judge(a, stmt->relation, stmt->attlist, "COPY", false);
    struct verdict_copy copy = {.pair_count = 0};
    const uint64_t rules = target.direct | target.like;
    if (stmt->attlist == NIL && rules != 0 && analysis_refuse_unknown(a, rules, "COPY")) {
        note_stream(a, &copy);
        return;
    }
    if (rule_set_in_mode(a->set, target.direct, RULE_MODE_COMPUTE) != 0) {
        compute_copy(a, stmt, target.direct, &copy);
    } else {
        strip_copy(a, stmt, target.direct | target.like, &copy);
    }
    if (stmt->filename == NULL) {
        note_stream(a, &copy);
    }
}

static bool is_name_part(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '$' || (unsigned char)c >= 0x80;
}

/* INTO or COPY in front of the table name that begins at `name`, which may be qualified. */
static bool follows_into(const char *body, const char *name)
{
    const char *at = name;
    while (at > body && (is_name_part(at[-1]) || at[-1] == '"' || at[-1] == '.')) {
        at--;
    }
    while (at > body && isspace((unsigned char)at[-1])) {
        at--;
    }
    return at - body >= 4 &&
           (strncasecmp(at - 4, "into", 4) == 0 || strncasecmp(at - 4, "copy", 4) == 0);
}

/* INTO chunks VALUES: a list of columns would stand behind the name. */
static bool writes_by_position(const char *body, const char *table)
{
    const char *name = body;
    while ((name = strcasestr(name, table)) != NULL) {
        const char *behind = name + strlen(table);
        behind += *behind == '"';
        if (!is_name_part(*behind) && follows_into(body, name)) {
            while (isspace((unsigned char)*behind)) {
                behind++;
            }
            if (*behind != '(') {
                return true;
            }
        }
        name++;
    }
    return false;
}

/* Under mode compute, a column that the key is computed from must not change without it. */
static bool may_leave_stale(struct analysis *a, const char *body, size_t len,
                            const struct rule *rule)
{
    if (rule->mode != RULE_MODE_COMPUTE || !text_mentions(body, len, "update")) {
        return false;
    }
    const struct compute *compute = compute_of(a, rule);
    for (size_t i = 0; i < compute->source_count; i++) {
        if (text_mentions(body, len, compute->sources[i].column->column)) {
            return true;
        }
    }
    return false;
}

/* A body that is a string: what it does with a table and a column that it names is not known. A
 * generated column is guarded by the server there too. */
static void judge_body(struct analysis *a, const char *body, const char *statement)
{
    const size_t len = strlen(body);
    uint64_t rules = rule_set_mentioned(a->set, body, len);
    a->writes |= rules;
    for (; rules != 0; rules &= rules - 1) {
        const struct rule *rule = rule_set_get(a->set, rule_first(rules));
        const bool names_column = text_mentions(body, len, rule->column);
        if (rule->shape == RULE_SHAPE_GENERATED ||
            (!names_column && !writes_by_position(body, rule->table) &&
             !may_leave_stale(a, body, len, rule))) {
            continue;
        }
        struct supply supply = {.statement = statement,
                                .obstacle = names_column
                                                ? "its body names the table and the column"
                                                : "its body writes all columns of the table"};
        analysis_supply(a, rule_first(rules), &supply);
    }
}

static void judge_options(struct analysis *a, const List *options, const char *statement)
{
    for (int i = 0; i < list_length(options); i++) {
        const DefElem *option = list_nth(options, i);
        if (strcmp(option->defname, "as") != 0) {
            continue;
        }
        if (IsA(option->arg, String)) {
            judge_body(a, strVal(option->arg), statement);
            continue;
        }
        const List *parts = (const List *)option->arg;
        for (int part = 0; part < list_length(parts); part++) {
            judge_body(a, strVal(list_nth(parts, part)), statement);
        }
    }
}

/* Statements that are stored and run later; BEGIN ATOMIC bodies are lists of lists. */
static void judge_stored(struct analysis *a, Node *node, const char *definition)
{
    if (node == NULL) {
        return;
    }
    if (IsA(node, List)) {
        for (int i = 0; i < list_length((const List *)node); i++) {
            judge_stored(a, list_nth((const List *)node, i), definition);
        }
        return;
    }
    const char *outer = a->definition;
    a->definition = definition;
    if (IsA(node, ReturnStmt)) {
        statement_judge_part(a, ((ReturnStmt *)node)->returnval);
    } else {
        statement_judge(a, node);
    }
    a->definition = outer;
}

static void judge_definition(struct analysis *a, Node *node)
{
    a->schema_change |= mentioned(a) != 0;
    if (IsA(node, RuleStmt)) {
        const RuleStmt *stmt = (const RuleStmt *)node;
        judge_stored(a, (Node *)stmt->actions, "CREATE RULE");
    } else {
        const CreateFunctionStmt *stmt = (const CreateFunctionStmt *)node;
        judge_options(a, stmt->options, "CREATE FUNCTION");
        judge_stored(a, stmt->sql_body, "CREATE FUNCTION");
    }
    a->writes |= mentioned(a);
}

static void judge_truncate(struct analysis *a, const TruncateStmt *stmt)
{
    for (int i = 0; i < list_length(stmt->relations); i++) {
        const struct rule_target target = analysis_target(a, list_nth(stmt->relations, i));
        a->writes |= target.direct | target.dependents;
    }
}

/* A temporary table is what its bare name means from then on; a value taken out of what is written
 * to it would be the client's own loss. */
void utility_judge_created(struct analysis *a, const RangeVar *relation)
{
    if (relation->relpersistence != RELPERSISTENCE_TEMP) {
        return;
    }
    for (size_t i = 0; i < rule_set_count(a->set); i++) {
        const struct rule *rule = rule_set_get(a->set, i);
        if (rule->mode == RULE_MODE_OBSERVE || !rule->unqualified_guarded ||
            strcmp(rule->table, relation->relname) != 0) {
            continue;
        }
        analysis_refuse(
            a, (struct refusal){
                   .sqlstate = "0A000",
                   .message = arena_printf(
                       a->arena, "a temporary relation must not hide table \"%s\" (rule \"%s\")",
                       rule->table, rule->name),
                   .detail =
                       "What is written to it could not be told from what is written to the table.",
                   .hint = arena_printf(
                       a->arena,
                       "Give it another name, or set unqualified = pass in rule \"%s\" and write "
                       "\"%s.%s\" for the table.",
                       rule->name, rule->schema, rule->table),
               });
    }
}

void utility_judge(struct analysis *a, Node *node)
{
    switch ((int)nodeTag(node)) {
    case T_ExplainStmt:
        statement_judge(a, ((ExplainStmt *)node)->query);
        break;
    case T_PrepareStmt:
        params_judge_prepare(a, (PrepareStmt *)node);
        break;
    case T_DeclareCursorStmt:
        statement_judge(a, ((DeclareCursorStmt *)node)->query);
        break;
    case T_CreateTableAsStmt: {
        /* A materialized view keeps its query, as a view does. */
        const CreateTableAsStmt *stmt = (CreateTableAsStmt *)node;
        a->schema_change |= mentioned(a) != 0;
        utility_judge_created(a, stmt->into->rel);
        if (stmt->objtype == OBJECT_MATVIEW) {
            judge_stored(a, stmt->query, "CREATE MATERIALIZED VIEW");
        } else {
            statement_judge(a, stmt->query);
        }
        break;
    }
    case T_CopyStmt:
        judge_copy(a, (CopyStmt *)node);
        break;
    case T_DoStmt:
        judge_options(a, ((DoStmt *)node)->args, "DO");
        break;
    case T_RuleStmt:
    case T_CreateFunctionStmt:
        judge_definition(a, node);
        break;
    case T_TruncateStmt:
        judge_truncate(a, (TruncateStmt *)node);
        break;
    case T_CallStmt:
    case T_ExecuteStmt:
    case T_LockStmt:
    case T_VacuumStmt:
        a->writes |= mentioned(a);
        break;
    case T_CheckPointStmt:
    case T_ClosePortalStmt:
    case T_ConstraintsSetStmt:
    case T_DeallocateStmt:
    case T_DiscardStmt:
    case T_FetchStmt:
    case T_ListenStmt:
    case T_LoadStmt:
    case T_NotifyStmt:
    case T_TransactionStmt:
    case T_UnlistenStmt:
    case T_VariableSetStmt:
    case T_VariableShowStmt:
        break;
    case T_AlterTableStmt:
    case T_DropStmt:
    case T_RenameStmt:
        a->columns_change |= mentioned(a) != 0;
        a->writes |= mentioned(a);
        a->schema_change |= mentioned(a) != 0;
        break;
    case T_CreateStmt:
    case T_ViewStmt:
        utility_judge_created(a, IsA(node, ViewStmt) ? ((const ViewStmt *)node)->view
                                                     : ((const CreateStmt *)node)->relation);
        a->writes |= mentioned(a);
        a->schema_change |= mentioned(a) != 0;
        break;
    default:
        /* DDL, and whatever else there is: it may change what the catalog says of the table. */
        a->writes |= mentioned(a);
        a->schema_change |= mentioned(a) != 0;
        break;
    }
}

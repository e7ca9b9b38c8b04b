/*
 * Statements that are not queries: those that carry one (EXPLAIN, PREPARE, COPY, ...), those that
 * write in their own way, those whose text is opaque, and DDL. Called by statement.c; owns nothing.
 */
#include "rules/analysis.h"

#include "rules/copy_statement.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

/* The rules that the whole text may concern. */
static uint64_t mentioned(const struct analysis *a)
{
    return rule_set_mentioned(a->set, a->text, a->len);
}

/* Supplies the columns of the rules, whose values come in the stream; returns those to be taken out. */
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

static void judge_copy(struct analysis *a, CopyStmt *stmt)
{
    if (stmt->query != NULL) {
        statement_judge(a, stmt->query);
    }
    if (!stmt->is_from || stmt->relation == NULL) {
        return;
    }
    const struct rule_target target = analysis_target(a, stmt->relation);
    a->writes |= target.direct | target.dependents;
    dependent_judge(a, stmt->relation, stmt->attlist, "COPY", false);
    struct verdict_copy copy = {.pair_count = 0};
    uint64_t carried = copy_statement_carries(a, stmt, target.direct);
    uint64_t stripped = carried == 0 ? 0 : supplied_by_stream(a, stmt, carried, &copy.options);
    if (stripped != 0) {
        copy_statement_strip(a, stmt, stripped, &copy.options);
        copy_statement_compare(a, stmt, stripped, &copy);
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
            (!names_column && !writes_by_position(body, rule->table))) {
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
    default:
        /* DDL, and whatever else there is: it may change what the catalog says of the table. */
        a->writes |= mentioned(a);
        a->schema_change |= mentioned(a) != 0;
        break;
    }
}

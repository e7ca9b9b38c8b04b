/*
 * The walk over a statement: every INSERT, UPDATE, DELETE, MERGE and "*" in it, at any depth, comes
 * to its judge. Called by judge.c for each statement of a text; owns nothing.
 */
#include "rules/analysis.h"

#include <nodes/nodeFuncs.h>

/* What raw_expression_tree_walker() can take: it ends the process on any other node. */
static bool is_walkable(NodeTag tag)
{
    switch ((int)tag) {
    case T_A_ArrayExpr:
    case T_A_Const:
    case T_A_Expr:
    case T_A_Indices:
    case T_A_Indirection:
    case T_A_Star:
    case T_Alias:
    case T_BitString:
    case T_BoolExpr:
    case T_Boolean:
    case T_BooleanTest:
    case T_CaseExpr:
    case T_CoalesceExpr:
    case T_CollateClause:
    case T_ColumnDef:
    case T_ColumnRef:
    case T_CommonTableExpr:
    case T_CurrentOfExpr:
    case T_DeleteStmt:
    case T_Float:
    case T_FuncCall:
    case T_GroupingFunc:
    case T_GroupingSet:
    case T_IndexElem:
    case T_InferClause:
    case T_InsertStmt:
    case T_Integer:
    case T_IntoClause:
    case T_JoinExpr:
    case T_List:
    case T_LockingClause:
    case T_MergeStmt:
    case T_MergeWhenClause:
    case T_MinMaxExpr:
    case T_MultiAssignRef:
    case T_NamedArgExpr:
    case T_NullTest:
    case T_OnConflictClause:
    case T_ParamRef:
    case T_RangeFunction:
    case T_RangeSubselect:
    case T_RangeTableFunc:
    case T_RangeTableFuncCol:
    case T_RangeTableSample:
    case T_RangeVar:
    case T_ResTarget:
    case T_RowExpr:
    case T_SelectStmt:
    case T_SetToDefault:
    case T_SortBy:
    case T_SQLValueFunction:
    case T_String:
    case T_SubLink:
    case T_TypeCast:
    case T_TypeName:
    case T_UpdateStmt:
    case T_WindowDef:
    case T_WithClause:
    case T_XmlExpr:
    case T_XmlSerialize:
        return true;
    default:
        return false;
    }
}

static const WithClause *with_clause(const Node *node)
{
    switch ((int)nodeTag(node)) {
    case T_InsertStmt:
        return ((const InsertStmt *)node)->withClause;
    case T_UpdateStmt:
        return ((const UpdateStmt *)node)->withClause;
    case T_DeleteStmt:
        return ((const DeleteStmt *)node)->withClause;
    case T_MergeStmt:
        return ((const MergeStmt *)node)->withClause;
    case T_SelectStmt:
        return ((const SelectStmt *)node)->withClause;
    default:
        return NULL;
    }
}

/* The queries of WITH can be named in all of its statement; one of them names those in front of it,
 * or any behind RECURSIVE (WITH Queries, in the manual's chapter on SELECT). */
static void enter_scope(struct analysis *a, const Node *node)
{
    const WithClause *clause = with_clause(node);
    if (clause != NULL) {
        struct with_scope *scope = arena_alloc(a->arena, sizeof *scope);
        *scope = (struct with_scope){
            .outer = a->with, .clause = clause, .visible = list_length(clause->ctes)};
        a->with = scope;
    } else if (IsA(node, CommonTableExpr) && !a->with->clause->recursive) {
        a->with->visible = 0;
        while (list_nth(a->with->clause->ctes, a->with->visible) != node) {
            a->with->visible++;
        }
    }
}

static void leave_scope(Node *node, void *context)
{
    struct analysis *a = context;
    if (with_clause(node) != NULL) {
        a->with = a->with->outer;
    } else if (IsA(node, CommonTableExpr)) {
        a->with->visible = list_length(a->with->clause->ctes);
    }
}

static void judge_update(struct analysis *a, UpdateStmt *stmt)
{
    const struct rule_target target = analysis_target(a, stmt->relation);
    a->writes |= target.direct | target.dependents;
    assign_judge(a, stmt->relation, &stmt->targetList, "UPDATE");
    stars_note_returning(a, stmt->relation, stmt->fromClause, &stmt->returningList);
}

static void judge_delete(struct analysis *a, DeleteStmt *stmt)
{
    const struct rule_target target = analysis_target(a, stmt->relation);
    a->writes |= target.direct | target.dependents;
    stars_note_returning(a, stmt->relation, stmt->usingClause, &stmt->returningList);
}

static void judge_node(struct analysis *a, Node *node)
{
    switch ((int)nodeTag(node)) {
    case T_InsertStmt:
        insert_judge(a, (InsertStmt *)node);
        break;
    case T_UpdateStmt:
        judge_update(a, (UpdateStmt *)node);
        break;
    case T_DeleteStmt:
        judge_delete(a, (DeleteStmt *)node);
        break;
    case T_MergeStmt:
        merge_judge(a, (MergeStmt *)node);
        break;
    case T_SelectStmt:
        stars_note_select(a, (SelectStmt *)node);
        if (((SelectStmt *)node)->intoClause != NULL) {
            utility_judge_created(a, ((SelectStmt *)node)->intoClause->rel);
        }
        break;
    default:
        break;
    }
}

/* (a, b) = ROW (1, 2): the row hangs at every part, and is walked at the first. */
static bool is_later_part(const Node *node)
{
    return IsA(node, MultiAssignRef) && ((const MultiAssignRef *)node)->colno > 1;
}

bool statement_walk(Node *node, struct sql_walk *walk)
{
    if (node == NULL || IsA(node, A_Const)) {
        return false;
    }
    if (walk->depth >= ANALYSIS_DEPTH_MAX || !is_walkable(nodeTag(node))) {
        walk->is_cut_short = true;
        return true;
    }
    if (!walk->visit(node, walk->context) || is_later_part(node)) {
        return false;
    }
    walk->depth++;
    bool is_aborted = raw_expression_tree_walker(node, statement_walk, walk);
    walk->depth--;
    if (walk->leave != NULL && !is_aborted) {
        walk->leave(node, walk->context);
    }
    return is_aborted;
}

static bool visit(Node *node, void *context)
{
    enter_scope(context, node);
    judge_node(context, node);
    return true;
}

void statement_judge_part(struct analysis *a, Node *node)
{
    struct sql_walk walk = {.visit = visit, .leave = leave_scope, .context = a};
    a->with = NULL;
    statement_walk(node, &walk);
    a->is_cut_short |= walk.is_cut_short;
}

void statement_judge(struct analysis *a, Node *node)
{
    switch ((int)nodeTag(node)) {
    case T_InsertStmt:
    case T_UpdateStmt:
    case T_DeleteStmt:
    case T_MergeStmt:
    case T_SelectStmt:
        statement_judge_part(a, node);
        break;
    default:
        utility_judge(a, node);
        break;
    }
}

/*
 * COPY ... TO of a guarded table. Of a generated column COPY knows nothing: without a list it
 * leaves the column out, and by name it refuses it (42P10). Applications that know the column as a
 * plain one, from before a cutover, are given it by a query in the table's place. Called by the
 * judge of COPY; owns nothing.
 */
#include "rules/copy_statement.h"

#include <string.h>
#include <strings.h>

static bool is_known_as_plain(const struct analysis *a, const struct rule *rule)
{
    return (rule->mode == RULE_MODE_STRIP || rule->mode == RULE_MODE_REJECT) &&
           (rule->reordered || rule->converted) && a->definition == NULL;
}

static bool lists_column(const CopyStmt *stmt, const struct rule *rule)
{
    for (int i = 0; i < list_length(stmt->attlist); i++) {
        if (strcmp(strVal(list_nth(stmt->attlist, i)), rule->column) == 0) {
            return true;
        }
    }
    return stmt->attlist == NIL;
}

/* The columns that the client has in mind, as a target list. */
static const char *columns_of(struct analysis *a, const CopyStmt *stmt, const struct rule *rule)
{
    const char *text = "";
    for (int i = 0; i < list_length(stmt->attlist); i++) {
        text = arena_printf(a->arena, "%s%s%s", text, i == 0 ? "" : ", ",
                            quoted_name(strVal(list_nth(stmt->attlist, i))));
    }
    for (size_t i = 0; stmt->attlist == NIL && i < rule->column_count; i++) {
        const struct rule_column *column = &rule->columns[i];
        if (column->source != COLUMN_GENERATED || strcmp(column->name, rule->column) == 0) {
            text = arena_printf(a->arena, "%s%s%s", text, *text == '\0' ? "" : ", ",
                                quoted_name(column->name));
        }
    }
    return text;
}

/* The token behind the table's name and its column list; count when text and tree do not agree. */
static size_t behind_columns(const struct token_list *tokens, const CopyStmt *stmt)
{
    const size_t behind = tokens_after_relation(tokens, stmt->relation);
    if (stmt->attlist == NIL || behind >= tokens->count) {
        return behind;
    }
    return tokens->items[behind].kind == TOKEN_OPEN ? (size_t)tokens->items[behind].match + 1
                                                    : tokens->count;
}

/* COPY chunks, not COPY BINARY chunks, which has no form with a query. */
static bool follows_copy(const struct analysis *a, const struct token_list *tokens, size_t at)
{
    return at > 0 && at < tokens->count &&
           strncasecmp(a->text + tokens->items[at - 1].start, "copy", 4) == 0;
}

void copy_out_judge(struct analysis *a, CopyStmt *stmt)
{
    uint64_t rules = analysis_target(a, stmt->relation).direct;
    while (rules != 0 && !(is_known_as_plain(a, rule_set_get(a->set, rule_first(rules))) &&
                           lists_column(stmt, rule_set_get(a->set, rule_first(rules))))) {
        rules &= rules - 1;
    }
    if (rules == 0) {
        return;
    }
    const struct token_list *tokens = analysis_tokens(a);
    const size_t at = token_at(tokens, stmt->relation->location);
    const size_t name_end = tokens_after_relation(tokens, stmt->relation);
    const size_t behind = behind_columns(tokens, stmt);
    if (!follows_copy(a, tokens, at) || behind >= tokens->count) {
        return;
    }
    const int start = tokens->items[at].start, end = tokens->items[name_end].start;
    const char *query = arena_printf(a->arena, "SELECT %s FROM ONLY %.*s",
                                     columns_of(a, stmt, rule_set_get(a->set, rule_first(rules))),
                                     end - start, a->text + start);
    const char *error;
    size_t position = 0;
    const List *parsed = sql_parse(query, a->arena, &error, &position);
    if (list_length(parsed) != 1) {
        analysis_refuse_unfollowed(a, "COPY");
        return;
    }
    analysis_edit(a, start, tokens->items[behind].start, arena_printf(a->arena, "(%s) ", query));
    stmt->query = ((const RawStmt *)linitial(parsed))->stmt;
    stmt->relation = NULL;
    stmt->attlist = NIL;
}

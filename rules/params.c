/*
 * Parameters whose place in the text is taken out stay declared by type, so that Bind and
 * ParameterDescription stay byte for byte as they were. The type is the one that the server would
 * have inferred: within a row casts are analysed first, bare parameters when the row is assigned to
 * its columns. Called by insert.c (parameters of Parse and of PREPARE) and utility.c; owns nothing.
 */
#include "rules/analysis.h"

#include <limits.h>
#include <string.h>

enum {
    UNKNOWN_OID = 705,
    PARAMETERS_MAX = 65535, /* the protocol's count is 16 bits */
};

/* How the first use of a parameter that settles its type looks. */
enum use_kind {
    USE_NONE,
    USE_BARE,  /* takes its column's type */
    USE_CAST,  /* $1::type */
    USE_OTHER, /* $1 + 1: the server would have to be asked */
};

struct use {
    enum use_kind kind;
    uint32_t type_oid; /* of BARE and CAST; 0 when not known */
    int row;           /* -1: before the rows */
    int location;
    bool is_dropped; /* one of its places is taken out */
};

struct uses {
    struct arena *arena;
    struct use *items; /* by number - 1 */
    size_t count;
    int limit;           /* locations below this one count */
    const List *skipped; /* nodes that do not */
    bool is_out_of_range;
    /* where the walk is */
    const Node *bare; /* the value itself, when it is a parameter */
    uint32_t bare_type;
    int row;
    bool is_dropped;
};

static struct use *use_of(struct uses *uses, size_t number)
{
    if (number > uses->count) {
        size_t count = number < 8 ? 16 : number * 2;
        struct use *items = arena_alloc(uses->arena, count * sizeof *items);
        memset(items, 0, count * sizeof *items);
        if (uses->count > 0) {
            memcpy(items, uses->items, uses->count * sizeof *items);
        }
        uses->items = items;
        uses->count = count;
    }
    return &uses->items[number - 1];
}

/* Later uses settle nothing, but for a cast in the row in which the first use was bare. */
static void note_use(struct uses *uses, const ParamRef *param, enum use_kind kind,
                     uint32_t type_oid)
{
    if (param->number < 1 || param->number > PARAMETERS_MAX) {
        uses->is_out_of_range = true;
        return;
    }
    struct use *use = use_of(uses, (size_t)param->number);
    use->is_dropped |= uses->is_dropped;
    const bool is_first =
        uses->row < 0 ? use->kind == USE_NONE || param->location < use->location
                      : use->kind == USE_NONE ||
                            (use->row == uses->row && use->kind == USE_BARE && kind != USE_BARE);
    if (is_first) {
        use->kind = kind;
        use->type_oid = type_oid;
        use->row = uses->row;
        use->location = param->location;
    }
}

static bool visit(Node *node, void *context)
{
    struct uses *uses = context;
    for (int i = 0; i < list_length(uses->skipped); i++) {
        if (list_nth(uses->skipped, i) == node) {
            return false;
        }
    }
    const TypeCast *cast = IsA(node, TypeCast) ? (const TypeCast *)node : NULL;
    const Node *inner = cast == NULL ? node : cast->arg;
    if (inner == NULL || !IsA(inner, ParamRef)) {
        return true;
    }
    const ParamRef *param = (const ParamRef *)inner;
    if (param->location >= uses->limit) {
        return false;
    }
    if (cast != NULL) {
        note_use(uses, param, USE_CAST, type_oid_of(cast->typeName));
    } else if (node == uses->bare) {
        note_use(uses, param, USE_BARE, uses->bare_type);
    } else {
        note_use(uses, param, USE_OTHER, 0);
    }
    return false;
}

static bool is_parameter_free(const Node *value)
{
    return IsA(value, A_Const) || IsA(value, SetToDefault) || IsA(value, ColumnRef);
}

static void collect(struct analysis *a, Node *node, struct uses *uses)
{
    struct sql_walk walk = {.visit = visit, .context = uses};
    statement_walk(node, &walk);
    a->is_cut_short |= walk.is_cut_short;
}

/* The statement being judged, without what only carries it. */
static Node *whole_query(const struct analysis *a)
{
    Node *node = a->statement->stmt;
    if (IsA(node, PrepareStmt)) {
        node = ((PrepareStmt *)node)->query;
    }
    if (IsA(node, ExplainStmt)) {
        node = ((ExplainStmt *)node)->query;
    }
    return node;
}

static void collect_rows(struct analysis *a, const struct insert_rows *insert, struct uses *uses)
{
    for (int row = 0; row < list_length(insert->rows); row++) {
        const List *values = list_nth(insert->rows, row);
        uses->row = row;
        for (int i = 0; i < list_length(values); i++) {
            Node *value = list_nth(values, i);
            if (is_parameter_free(value)) {
                continue;
            }
            const size_t column = rule_column_index(insert->rule, insert->names[i]);
            uses->bare = value;
            uses->bare_type = column < insert->rule->column_count && !insert->is_query
                                  ? insert->rule->columns[column].type_oid
                                  : 0;
            uses->is_dropped = insert->is_dropped[i];
            collect(a, value, uses);
        }
    }
}

/* A statement around the INSERT, or a WITH in front of it, is analysed before its rows. */
static void collect_before(struct analysis *a, const struct insert_rows *insert, struct uses *uses)
{
    uses->limit = insert->start;
    uses->row = -1;
    collect(a, whole_query(a), uses);
}

static bool drops_parameters(const struct insert_rows *insert)
{
    for (int row = 0; row < list_length(insert->rows); row++) {
        const List *values = list_nth(insert->rows, row);
        for (int i = 0; i < list_length(values); i++) {
            if (insert->is_dropped[i] && !is_parameter_free(list_nth(values, i))) {
                return true;
            }
        }
    }
    return false;
}

static void declare(struct analysis *a, int number, uint32_t type_oid)
{
    a->params =
        arena_grow(a->arena, a->params, a->param_count, &a->param_capacity, sizeof *a->params);
    a->params[a->param_count++] = (struct param_type){number, type_oid};
}

static bool is_declared(const struct analysis *a, size_t number)
{
    for (size_t i = 0; i < a->param_count; i++) {
        if ((size_t)a->params[i].number == number) {
            return true;
        }
    }
    return number <= a->declared_count && a->declared[number - 1] != 0 &&
           a->declared[number - 1] != UNKNOWN_OID;
}

/* Declares what is dropped; refuses where no type is known. */
static void settle(struct analysis *a, const struct uses *uses, const struct rule *rule,
                   const char *statement)
{
    if (uses->is_out_of_range) {
        analysis_refuse_obstacle(a, rule, statement, "a parameter's number is out of range");
        return;
    }
    for (size_t number = 1; number <= uses->count; number++) {
        const struct use *use = &uses->items[number - 1];
        if (!use->is_dropped || is_declared(a, number)) {
            continue;
        }
        if (use->type_oid == 0) {
            analysis_refuse_obstacle(
                a, rule, statement,
                arena_printf(a->arena,
                             "the type of $%zu cannot be told without it, declare it or "
                             "write a cast",
                             number));
            return;
        }
        declare(a, (int)number, use->type_oid);
    }
}

void params_keep(struct analysis *a, const struct insert_rows *insert)
{
    if (!a->has_params || !drops_parameters(insert)) {
        return;
    }
    struct uses uses = {.arena = a->arena};
    collect_before(a, insert, &uses);
    uses.limit = INT_MAX;
    collect_rows(a, insert, &uses);
    settle(a, &uses, insert->rule, "INSERT");
}

/* In what order the server would see the uses of a parameter differs by statement; so it must not
 * be used elsewhere. */
void params_keep_values(struct analysis *a, const struct rule *rule, const char *statement,
                        const List *values)
{
    if (!a->has_params) {
        return;
    }
    struct uses uses = {.arena = a->arena, .limit = INT_MAX, .is_dropped = true};
    for (int i = 0; i < list_length(values); i++) {
        uses.bare = list_nth(values, i);
        uses.bare_type = rule->columns[rule_column_index(rule, rule->column)].type_oid;
        collect(a, list_nth(values, i), &uses);
    }
    struct uses others = {.arena = a->arena, .limit = INT_MAX, .skipped = values};
    collect(a, whole_query(a), &others);
    for (size_t i = 0; i < uses.count && i < others.count; i++) {
        if (others.items[i].kind != USE_NONE) {
            uses.items[i].type_oid = 0;
        }
    }
    settle(a, &uses, rule, statement);
}

/* The types of PREPARE name (...) AS, as OIDs; a type that is not built in counts as declared. */
static void read_prepare_types(struct analysis *a, const PrepareStmt *stmt)
{
    const size_t count = (size_t)list_length(stmt->argtypes);
    uint32_t *types = arena_alloc(a->arena, (count + 1) * sizeof *types);
    for (size_t i = 0; i < count; i++) {
        const TypeName *type = list_nth(stmt->argtypes, (int)i);
        const char *name = strVal(llast(type->names));
        types[i] = strcmp(name, "unknown") == 0 ? 0 : UINT32_MAX;
    }
    a->declared = types;
    a->declared_count = count;
    a->has_params = true;
    a->param_count = 0;
}

static const char *type_in_prepare(struct analysis *a, size_t number)
{
    for (size_t i = 0; i < a->param_count; i++) {
        if ((size_t)a->params[i].number == number) {
            const char *name = type_name_of(a->params[i].type_oid);
            return name == NULL ? NULL : arena_printf(a->arena, "pg_catalog.%s", name);
        }
    }
    return "unknown";
}

/* Writes the parameters' types into the list behind the statement's name. */
static bool edit_prepare(struct analysis *a)
{
    const struct token_list *tokens = analysis_tokens(a);
    size_t at = 0, highest = 0;
    while (at < tokens->count && tokens->items[at].start < a->statement->stmt_location) {
        at++;
    }
    at += 2; /* PREPARE name */
    if (at + 2 < tokens->count && tokens->items[at].kind == TOKEN_UESCAPE) {
        at += 2;
    }
    for (size_t i = 0; i < a->param_count; i++) {
        const size_t number = (size_t)a->params[i].number;
        highest = number > highest ? number : highest;
    }
    const size_t present = a->declared_count;
    size_t *firsts = arena_alloc(a->arena, (present + 1) * sizeof *firsts);
    if (at >= tokens->count || tokens_list(tokens, at, firsts, present) != present) {
        return false;
    }
    const char *added = "";
    for (size_t number = 1; number <= highest; number++) {
        const char *type = type_in_prepare(a, number);
        if (type == NULL) {
            return false;
        }
        if (number > present) {
            added = arena_printf(a->arena, "%s%s%s", added, number == 1 ? "" : ", ", type);
        } else if (a->declared[number - 1] == 0) {
            const size_t close = (size_t)tokens->items[at].match;
            const size_t end = number < present ? firsts[number] - 1 : close;
            analysis_edit(a, tokens->items[firsts[number - 1]].start, tokens->items[end].start,
                          type);
        }
    }
    if (present == 0) {
        const int place = tokens->items[at].start;
        analysis_edit(a, place, place, arena_printf(a->arena, "(%s) ", added));
    } else {
        const int place = tokens->items[tokens->items[at].match].start;
        analysis_edit(a, place, place, added);
    }
    return true;
}

void params_judge_prepare(struct analysis *a, const PrepareStmt *stmt)
{
    const bool had_params = a->has_params, was_single_use = a->is_single_use;
    const uint32_t *declared = a->declared;
    const size_t declared_count = a->declared_count;
    const uint64_t writes = a->writes;
    read_prepare_types(a, stmt);
    a->is_single_use = false;
    a->writes = 0;

    statement_judge(a, stmt->query);
    if (a->param_count > 0 && !a->is_refused && !edit_prepare(a)) {
        analysis_refuse(a, (struct refusal){
                               .sqlstate = "428C9",
                               .message = "the types of this PREPARE cannot be written out",
                               .hint = "Declare the types of its parameters.",
                           });
    }

    a->prepares |= a->writes != 0;
    a->writes |= writes;
    a->has_params = had_params;
    a->is_single_use = was_single_use;
    a->declared = declared;
    a->declared_count = declared_count;
    a->param_count = 0;
}

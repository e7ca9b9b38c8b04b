/*
 * The proof of an edit: every change of the text is noted as a change of the tree as well, and the
 * edited text must parse to exactly that tree. Called by the judges that edit, and by judge.c; owns
 * nothing.
 */
#include "rules/analysis.h"

struct revision {
    void **list; /* where the tree keeps the list, or the node */
    int at, removed;
    List *added;
    Node *node; /* that stands there instead; NULL: it is a list that changes */
};

void revision_note(struct analysis *a, void *list, int at, int removed, List *added)
{
    a->revisions = arena_grow(a->arena, a->revisions, a->revision_count, &a->revision_capacity,
                              sizeof *a->revisions);
    a->revisions[a->revision_count++] = (struct revision){list, at, removed, added, NULL};
}

void revision_note_node(struct analysis *a, void *place, Node *node)
{
    revision_note(a, place, 0, 0, NIL);
    a->revisions[a->revision_count - 1].node = node;
}

void revision_note_drops(struct analysis *a, void *list, const bool *drop, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (drop[i]) {
            revision_note(a, list, (int)i, 1, NIL);
        }
    }
}

/* makeNode() names a variable that is thread-local in the library and plain in its headers. */
static void *new_node(size_t size, NodeTag tag)
{
    Node *node = palloc0(size);
    node->type = tag;
    return node;
}

Node *revision_default(void)
{
    return new_node(sizeof(SetToDefault), T_SetToDefault);
}

Node *revision_column(const char *qualifier, const char *name)
{
    ColumnRef *reference = new_node(sizeof *reference, T_ColumnRef);
    if (qualifier != NULL) {
        reference->fields = lappend(NIL, makeString(pstrdup(qualifier)));
    }
    reference->fields = lappend(reference->fields, makeString(pstrdup(name)));
    return (Node *)reference;
}

ResTarget *revision_target(const char *name, Node *value)
{
    ResTarget *target = new_node(sizeof *target, T_ResTarget);
    target->name = name == NULL ? NULL : pstrdup(name);
    target->val = value;
    return target;
}

Node *revision_values(Node *value)
{
    SelectStmt *values = new_node(sizeof *values, T_SelectStmt);
    values->valuesLists = lappend(NIL, lappend(NIL, value));
    return (Node *)values;
}

/* From the last to the first: those of one list are noted in its order, so that the places of those
 * still to be made do not move. */
static void apply(struct analysis *a)
{
    for (size_t i = a->revision_count; i > 0; i--) {
        const struct revision *revision = &a->revisions[i - 1];
        if (revision->node != NULL) {
            *revision->list = revision->node;
            continue;
        }
        const List *old = *revision->list;
        List *list = NIL;
        for (int at = 0; at <= list_length(old); at++) {
            if (at == revision->at) {
                list = list_concat(list, revision->added);
            }
            const bool is_removed = at >= revision->at && at < revision->at + revision->removed;
            if (at < list_length(old) && !is_removed) {
                list = lappend(list, list_nth(old, at));
            }
        }
        *revision->list = list;
    }
}

/* Of a kind whose text may have been edited; equal() is not asked about others. */
static bool is_editable(const Node *statement)
{
    return IsA(statement, InsertStmt) || IsA(statement, UpdateStmt) || IsA(statement, DeleteStmt) ||
           IsA(statement, MergeStmt) || IsA(statement, SelectStmt) || IsA(statement, ExplainStmt) ||
           IsA(statement, PrepareStmt) || IsA(statement, CopyStmt) ||
           IsA(statement, DeclareCursorStmt) || IsA(statement, CreateTableAsStmt);
}

bool revision_is_made(struct analysis *a, const List *again)
{
    apply(a);
    if (list_length(again) != list_length(a->statements)) {
        return false;
    }
    for (int i = 0; i < list_length(again); i++) {
        RawStmt *want = list_nth(a->statements, i), *have = list_nth(again, i);
        if (IsA(want->stmt, PrepareStmt) && IsA(have->stmt, PrepareStmt)) {
            /* Types that were added to its list change nothing else. */
            ((PrepareStmt *)want->stmt)->argtypes = NIL;
            ((PrepareStmt *)have->stmt)->argtypes = NIL;
        }
        if (nodeTag(want->stmt) != nodeTag(have->stmt) ||
            (is_editable(want->stmt) && !equal(want->stmt, have->stmt))) {
            return false;
        }
    }
    return true;
}

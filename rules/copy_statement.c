/*
 * The statement around a COPY stream: options as PostgreSQL reads them, the column list edited by
 * token. Called by the judge of COPY; owns nothing.
 */
#include "rules/copy_statement.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "rules/compare.h"

/* Without a list, generated columns are not in the stream; the rule's own may be. */
static bool is_in_stream(const struct rule *rule, size_t at)
{
    return rule->columns[at].source != COLUMN_GENERATED ||
           strcmp(rule->columns[at].name, rule->column) == 0;
}

/* The stream's columns, in its order. */
static size_t stream_width(const struct rule *rule, const CopyStmt *stmt)
{
    size_t width = (size_t)list_length(stmt->attlist);
    for (size_t i = 0; stmt->attlist == NIL && i < rule->column_count; i++) {
        width += is_in_stream(rule, i);
    }
    return width;
}

static const char *stream_column(const struct rule *rule, const CopyStmt *stmt, size_t at)
{
    if (stmt->attlist != NIL) {
        return strVal(list_nth(stmt->attlist, (int)at));
    }
    size_t i = 0;
    for (; !is_in_stream(rule, i) || at-- > 0; i++) {
    }
    return rule->columns[i].name;
}

/* The place of a column in the stream, of the rule's; the width when it is not there. */
static size_t stream_find(const struct rule *rule, const CopyStmt *stmt, const char *column)
{
    const size_t width = stream_width(rule, stmt);
    size_t at = 0;
    while (at < width && strcmp(stream_column(rule, stmt, at), column) != 0) {
        at++;
    }
    return at;
}

static size_t stream_index(const struct rule *rule, const CopyStmt *stmt)
{
    return stream_find(rule, stmt, rule->column);
}

uint64_t copy_statement_carries(const struct analysis *a, const CopyStmt *stmt, uint64_t rules)
{
    uint64_t carried = 0;
    for (; rules != 0; rules &= rules - 1) {
        const struct rule *rule = analysis_rule(a, rule_first(rules), stmt->relation);
        /* Without a list a generated column is not in the stream, but applications that knew the
         * table before a cutover may still put it there. */
        const bool is_left_out = stmt->attlist == NIL && rule->shape == RULE_SHAPE_GENERATED &&
                                 !rule->reordered && !rule->converted;
        if (!is_left_out && stream_index(rule, stmt) < stream_width(rule, stmt)) {
            carried |= UINT64_C(1) << rule_first(rules);
        }
    }
    return carried;
}

/* What stands for an option as text, as defGetString() has it; NULL when it is something else. */
static const char *option_text(const struct analysis *a, const DefElem *option)
{
    if (option->arg == NULL) {
        return NULL;
    }
    if (IsA(option->arg, String)) {
        return strVal(option->arg);
    }
    if (IsA(option->arg, Boolean)) {
        return boolVal(option->arg) ? "true" : "false";
    }
    return IsA(option->arg, Integer) ? arena_printf(a->arena, "%d", intVal(option->arg)) : NULL;
}

static bool is_one_of(const char *text, const char *const *words)
{
    for (; *words != NULL; words++) {
        if (strcasecmp(text, *words) == 0) {
            return true;
        }
    }
    return false;
}

static bool read_header(const struct analysis *a, const DefElem *option,
                        struct copy_options *options)
{
    static const char *const yes[] = {"true", "on", "1", NULL};
    static const char *const no[] = {"false", "off", "0", NULL};
    const char *text = option->arg == NULL ? "true" : option_text(a, option);
    if (text == NULL) {
        return false;
    }
    if (strcasecmp(text, "match") == 0) {
        options->header = COPY_HEADER_MATCHED;
    } else if (is_one_of(text, yes)) {
        options->header = COPY_HEADER_IGNORED;
    } else if (is_one_of(text, no)) {
        options->header = COPY_HEADER_NONE;
    } else {
        return false;
    }
    return true;
}

static bool read_format(const char *text, struct copy_options *options)
{
    if (text != NULL && strcmp(text, "csv") == 0) {
        options->format = COPY_FORMAT_CSV;
    } else if (text != NULL && strcmp(text, "binary") == 0) {
        options->format = COPY_FORMAT_BINARY;
    } else {
        return text != NULL && strcmp(text, "text") == 0;
    }
    return true;
}

static bool read_byte(const char *text, char *byte)
{
    if (text == NULL || strlen(text) != 1 || (unsigned char)*text >= 0x80) {
        return false;
    }
    *byte = *text;
    return true;
}

static bool read_null(const char *text, struct copy_options *options)
{
    if (text == NULL || strlen(text) > COPY_NULL_MAX) {
        return false;
    }
    options->null_len = strlen(text);
    memcpy(options->null, text, options->null_len);
    return true;
}

/* A list of columns, or "*". */
static bool names_column(const struct analysis *a, const CopyStmt *stmt, const Node *list,
                         uint64_t rules)
{
    if (list == NULL || !IsA(list, List)) {
        return false;
    }
    for (int i = 0; i < list_length((const List *)list); i++) {
        for (uint64_t rest = rules; rest != 0; rest &= rest - 1) {
            const struct rule *rule = analysis_rule(a, rule_first(rest), stmt->relation);
            const Node *name = list_nth((const List *)list, i);
            if (IsA(name, String) && strcmp(strVal(name), rule->column) == 0) {
                return true;
            }
        }
    }
    return false;
}

/* What the options say that is not the filter's. */
struct option_words {
    const char *default_text; /* PostgreSQL 16: a field that stands for the column's default */
    bool has_null, has_delimiter, has_escape;
};

/* Options that do not change how a stream is taken apart. FORCE_QUOTE, of COPY TO, the server
 * refuses. */
static bool is_indifferent(const char *name)
{
    static const char *const names[] = {"freeze",   "force_quote",  "force_not_null", "force_null",
                                        "on_error", "reject_limit", "log_verbosity",  NULL};
    return is_one_of(name, names);
}

static bool read_option(const struct analysis *a, const DefElem *option,
                        struct copy_options *options, struct option_words *words)
{
    const char *name = option->defname;
    const char *text = option_text(a, option);
    if (strcmp(name, "format") == 0) {
        return read_format(text, options);
    }
    if (strcmp(name, "delimiter") == 0) {
        words->has_delimiter = true;
        return read_byte(text, &options->delimiter);
    }
    if (strcmp(name, "null") == 0) {
        words->has_null = true;
        return read_null(text, options);
    }
    if (strcmp(name, "header") == 0) {
        return read_header(a, option, options);
    }
    if (strcmp(name, "quote") == 0) {
        return read_byte(text, &options->quote);
    }
    if (strcmp(name, "escape") == 0) {
        words->has_escape = true;
        return read_byte(text, &options->escape);
    }
    if (strcmp(name, "encoding") == 0 && text != NULL) {
        static const char *const utf8[] = {"utf8", "utf-8", "unicode", NULL};
        options->has_encoding = true;
        options->encoding = copy_encoding_of(text);
        options->key.is_utf8 = is_one_of(text, utf8);
        return true;
    }
    if (strcmp(name, "default") == 0) {
        words->default_text = text;
        return text != NULL;
    }
    return is_indifferent(name);
}

static void fill_defaults(struct copy_options *options, const struct option_words *words)
{
    const bool is_csv = options->format == COPY_FORMAT_CSV;
    if (!words->has_delimiter) {
        options->delimiter = is_csv ? ',' : '\t';
    }
    if (!words->has_null) {
        read_null(is_csv ? "" : "\\N", options);
    }
    if (!words->has_escape) {
        options->escape = options->quote;
    }
}

static bool begins_with_marker(const char *text, size_t len)
{
    return len >= 2 && memcmp(text, "\\.", 2) == 0;
}

/* Bytes whose meaning the filter would have to guess: those of line ends, those of the end marker,
 * and, in text, those that can be a digit of an escape. */
static const char *ambiguity(const struct copy_options *options, const struct option_words *words)
{
    static const char line_ends[] = "\r\n", hex_digits[] = "ABCDEF";
    if (options->format == COPY_FORMAT_TEXT && strchr(hex_digits, options->delimiter) != NULL) {
        return "its DELIMITER is a hexadecimal digit";
    }
    if (options->format != COPY_FORMAT_CSV) {
        return NULL;
    }
    const char special[] = {options->delimiter, options->quote, '\0'};
    if (strpbrk(special, "\\.") != NULL) {
        return "its DELIMITER or QUOTE is a part of the end marker";
    }
    if (strpbrk(special, line_ends) != NULL || strchr(line_ends, options->escape) != NULL) {
        return "its DELIMITER, QUOTE or ESCAPE is a line end";
    }
    if (begins_with_marker(options->null, options->null_len) ||
        (words->default_text != NULL &&
         begins_with_marker(words->default_text, strlen(words->default_text)))) {
        return "its NULL or DEFAULT begins with the end marker";
    }
    return NULL;
}

static const char *read_options(const struct analysis *a, const CopyStmt *stmt, uint64_t rules,
                                struct copy_options *options)
{
    struct option_words words = {0};
    *options = (struct copy_options){.quote = '"'};
    for (int i = 0; i < list_length(stmt->options); i++) {
        const DefElem *option = list_nth(stmt->options, i);
        if (!read_option(a, option, options, &words)) {
            return arena_printf(a->arena, "its option %s is not understood", option->defname);
        }
        if (strncmp(option->defname, "force_", 6) == 0 &&
            names_column(a, stmt, option->arg, rules)) {
            return arena_printf(a->arena, "its option %s names the column", option->defname);
        }
    }
    fill_defaults(options, &words);
    return ambiguity(options, &words);
}

/* For the walk over WHERE. */
struct reading {
    const struct analysis *a;
    const CopyStmt *stmt;
    uint64_t rules;
    bool is_found;
};

/* The column, the whole row or all of its columns. */
static bool visit(Node *node, void *context)
{
    struct reading *reading = context;
    if (!IsA(node, ColumnRef)) {
        return true;
    }
    const Node *last = llast(((ColumnRef *)node)->fields);
    if (!IsA(last, String) || strcmp(strVal(last), reading->stmt->relation->relname) == 0) {
        reading->is_found = true;
        return true;
    }
    for (uint64_t rest = reading->rules; rest != 0; rest &= rest - 1) {
        const struct rule *rule =
            analysis_rule(reading->a, rule_first(rest), reading->stmt->relation);
        reading->is_found |= strcmp(strVal(last), rule->column) == 0;
    }
    return true;
}

static bool reads_column(const struct analysis *a, const CopyStmt *stmt, uint64_t rules)
{
    struct reading reading = {.a = a, .stmt = stmt, .rules = rules};
    struct sql_walk walk = {.visit = visit, .context = &reading};
    statement_walk(stmt->whereClause, &walk);
    return reading.is_found || walk.is_cut_short;
}

static size_t count_rules(uint64_t rules)
{
    return (size_t)__builtin_popcountll(rules);
}

static bool has_generated(const struct analysis *a, const CopyStmt *stmt, uint64_t rules)
{
    while (rules != 0 &&
           analysis_rule(a, rule_first(rules), stmt->relation)->shape != RULE_SHAPE_GENERATED) {
        rules &= rules - 1;
    }
    return rules != 0;
}

static bool has_duplicates(const CopyStmt *stmt)
{
    for (int i = 0; i < list_length(stmt->attlist); i++) {
        for (int other = 0; other < i; other++) {
            if (equal(list_nth(stmt->attlist, i), list_nth(stmt->attlist, other))) {
                return true;
            }
        }
    }
    return false;
}

/* What is in the way of filtering the stream, whatever becomes of it. */
static const char *stream_obstacle(const CopyStmt *stmt)
{
    if (stmt->is_program) {
        return "the data is a program's output";
    }
    if (stmt->filename != NULL) {
        return "the data is in a file of the server";
    }
    return has_duplicates(stmt) ? "it names a column twice" : NULL;
}

const char *copy_statement_read(const struct analysis *a, const CopyStmt *stmt, uint64_t rules,
                                struct copy_options *options)
{
    const struct rule *rule = analysis_rule(a, rule_first(rules), stmt->relation);
    const char *obstacle = stream_obstacle(stmt);
    if (obstacle != NULL) {
        return obstacle;
    }
    if (count_rules(rules) > COPY_FIELDS_MAX) {
        return "it carries too many computed columns";
    }
    if (stream_width(rule, stmt) <= count_rules(rules)) {
        return "it carries no other column";
    }
    if (stmt->attlist == NIL && count_rules(rules) > 1 && has_generated(a, stmt, rules)) {
        return "without a column list it is not known which of them it carries";
    }
    if (reads_column(a, stmt, rules)) {
        return "its WHERE reads the column";
    }
    obstacle = read_options(a, stmt, rules, options);
    options->width = (uint32_t)stream_width(rule, stmt);
    options->may_lack = stmt->attlist == NIL && rule->shape == RULE_SHAPE_GENERATED;
    return obstacle;
}

/* By index. */
static int compare_fields(const void *left, const void *right)
{
    const struct copy_field *l = left, *r = right;
    return l->index < r->index ? -1 : l->index > r->index;
}

static void name_fields(const struct analysis *a, const CopyStmt *stmt, uint64_t rules,
                        struct copy_options *options)
{
    options->field_count = 0;
    for (; rules != 0; rules &= rules - 1) {
        const struct rule *rule = analysis_rule(a, rule_first(rules), stmt->relation);
        struct copy_field *field = &options->fields[options->field_count++];
        *field = (struct copy_field){.index = (uint32_t)stream_index(rule, stmt)};
        const size_t len = strnlen(rule->column, COPY_NAME_MAX - 1);
        memcpy(field->name, rule->column, len);
    }
    qsort(options->fields, options->field_count, sizeof *options->fields, compare_fields);
}

static const bool *fields_to_drop(struct analysis *a, const struct copy_options *options)
{
    bool *drop = arena_alloc(a->arena, options->width * sizeof *drop);
    memset(drop, 0, options->width * sizeof *drop);
    for (size_t i = 0; i < options->field_count; i++) {
        drop[options->fields[i].index] = true;
    }
    return drop;
}

static void shorten_list(struct analysis *a, CopyStmt *stmt, size_t open, const bool *drop,
                         size_t width)
{
    size_t *firsts = arena_alloc(a->arena, width * sizeof *firsts);
    if (tokens_list(analysis_tokens(a), open, firsts, width) != width) {
        analysis_refuse_unfollowed(a, "COPY");
        return;
    }
    tokens_drop(a, open, firsts, drop, width);
    revision_note_drops(a, &stmt->attlist, drop, width);
}

/* `last` is put behind the columns that stay; NULL: none is. */
static void make_list(struct analysis *a, CopyStmt *stmt, const struct rule *rule, size_t behind,
                      const bool *drop, const char *last)
{
    const char *text = "";
    List *names = NIL;
    const size_t width = stream_width(rule, stmt);
    for (size_t i = 0; i <= width; i++) {
        const bool is_last = i == width;
        const char *name = is_last ? last : stream_column(rule, stmt, i);
        if (is_last ? last != NULL : !drop[i]) {
            text = arena_printf(a->arena, "%s%s%s", text, *text == '\0' ? "" : ", ",
                                quoted_name(name));
            names = lappend(names, makeString(pstrdup(name)));
        }
    }
    const int at = analysis_tokens(a)->items[behind].start;
    analysis_edit(a, at, at, arena_printf(a->arena, "(%s) ", text));
    revision_note(a, &stmt->attlist, 0, 0, names);
}

void copy_statement_strip(struct analysis *a, CopyStmt *stmt, uint64_t rules,
                          struct copy_options *options)
{
    const struct rule *rule = analysis_rule(a, rule_first(rules), stmt->relation);
    name_fields(a, stmt, rules, options);
    const bool *drop = fields_to_drop(a, options);
    const struct token_list *tokens = analysis_tokens(a);
    const size_t behind = tokens_after_relation(tokens, stmt->relation);
    if (behind >= tokens->count) {
        analysis_refuse_unfollowed(a, "COPY");
    } else if (stmt->attlist != NIL) {
        shorten_list(a, stmt, behind, drop, options->width);
    } else {
        make_list(a, stmt, rule, behind, drop, NULL);
    }
}

/* --- computed --- */

enum {
    OID_INT8 = 20,
    OID_INT2 = 21,
    OID_INT4 = 23,
};

/* The bytes of an integer type; 0 for others. */
static uint32_t integer_bytes(uint32_t type)
{
    return type == OID_INT2 ? 2 : type == OID_INT4 ? 4 : type == OID_INT8 ? 8 : 0;
}

static bool is_number_byte(char byte)
{
    return isdigit((unsigned char)byte) || byte == '-';
}

/* Whether a key, or the column's name in a header, would be read as something else. */
static const char *key_ambiguity(const struct copy_options *options)
{
    const bool is_csv = options->format == COPY_FORMAT_CSV;
    if (options->format == COPY_FORMAT_BINARY) {
        return NULL;
    }
    if (is_number_byte(options->delimiter) || (is_csv && is_number_byte(options->quote))) {
        return "its DELIMITER or QUOTE could be a part of the key";
    }
    if (options->null_len > 0 && is_number_byte(options->null[0])) {
        return "its NULL could be a key";
    }
    for (const char *at = options->key.name; options->header == COPY_HEADER_MATCHED; at++) {
        if (*at == '\0') {
            const size_t len = strlen(options->key.name);
            return len == options->null_len && memcmp(options->null, options->key.name, len) == 0
                       ? "its NULL is the column's name"
                       : NULL;
        }
        const bool is_plain = isalnum((unsigned char)*at) || *at == '_';
        if (!is_plain || *at == options->delimiter || (is_csv && *at == options->quote)) {
            return "its header would need quotes";
        }
    }
    return NULL;
}

/* Options by which a value of the source may be another one than it looks. */
static const char *source_ambiguity(const CopyStmt *stmt, const char *source)
{
    for (int i = 0; i < list_length(stmt->options); i++) {
        const DefElem *option = list_nth(stmt->options, i);
        if (strcmp(option->defname, "default") == 0) {
            return "its DEFAULT may stand for a value";
        }
        if (strcmp(option->defname, "force_null") != 0 &&
            strcmp(option->defname, "force_not_null") != 0) {
            continue;
        }
        const List *names =
            option->arg != NULL && IsA(option->arg, List) ? (const List *)option->arg : NIL;
        bool is_meant = names == NIL; /* all columns */
        for (int at = 0; at < list_length(names); at++) {
            const Node *name = list_nth(names, at);
            is_meant |= !IsA(name, String) || strcmp(strVal(name), source) == 0;
        }
        if (is_meant) {
            return "its FORCE_NULL or FORCE_NOT_NULL is about the column that the key is computed "
                   "from";
        }
    }
    return NULL;
}

static const char *read_key(const struct analysis *a, const CopyStmt *stmt, size_t index,
                            struct copy_options *options, const char **hint)
{
    const struct rule *rule = rule_set_get(a->set, index);
    const struct evaluation *evaluation = rule_set_evaluation(a->set, index);
    if (evaluation == NULL) {
        return "in a COPY pgsluice computes expressions like mod(hashtext(column::text), 100) only";
    }
    const struct rule_source *source = rule_source_named(rule, evaluation->column);
    const size_t place = stream_find(rule, stmt, evaluation->column);
    const size_t key = rule_column_index(rule, rule->column);
    const uint32_t bytes =
        key < rule->column_count ? integer_bytes(rule->columns[key].type_oid) : 0;
    if (place == stream_width(rule, stmt)) {
        *hint = arena_printf(a->arena, "Have the COPY carry column \"%s\".", evaluation->column);
        return arena_printf(a->arena, "it does not carry \"%s\"", evaluation->column);
    }
    if (bytes == 0) {
        return "in a COPY pgsluice computes columns of type smallint, integer and bigint only";
    }
    if (source == NULL || !evaluation_is_possible(evaluation, &source->value)) {
        return arena_printf(a->arena, "only the server knows the text form, or the hash, of \"%s\"",
                            evaluation->column);
    }
    options->key.is_there = true;
    options->key.is_alone = list_length(a->statements) == 1;
    options->key.bytes = bytes;
    options->key.evaluation = *evaluation;
    options->key.column = source->value;
    memcpy(options->key.name, rule->column, strnlen(rule->column, COPY_NAME_MAX - 1));
    options->fields[options->field_count++] =
        (struct copy_field){.index = (uint32_t)place, .stays = true};
    return source_ambiguity(stmt, evaluation->column);
}

const char *copy_statement_read_computed(const struct analysis *a, const CopyStmt *stmt,
                                         size_t index, struct copy_options *options,
                                         const char **hint)
{
    const struct rule *rule = rule_set_get(a->set, index);
    const char *obstacle = stream_obstacle(stmt);
    *hint = "Load the rows by INSERT.";
    if (stmt->filename != NULL || stmt->is_program) {
        *hint = "Send the rows by COPY ... FROM STDIN.";
    }
    if (obstacle == NULL) {
        obstacle = read_options(a, stmt, UINT64_C(1) << index, options);
    }
    if (obstacle == NULL) {
        obstacle = read_key(a, stmt, index, options, hint);
    }
    if (obstacle == NULL) {
        obstacle = key_ambiguity(options);
    }
    if (obstacle != NULL) {
        return obstacle;
    }
    const uint32_t key = (uint32_t)stream_index(rule, stmt), source = options->fields[0].index;
    options->width = (uint32_t)stream_width(rule, stmt);
    if (key < options->width) {
        struct copy_field field = {.index = key};
        memcpy(field.name, options->key.name, sizeof field.name);
        options->fields[options->field_count++] = field;
    }
    qsort(options->fields, options->field_count, sizeof *options->fields, compare_fields);
    options->key.source = options->fields[0].index == source ? 0 : 1;
    return NULL;
}

void copy_statement_compute(struct analysis *a, CopyStmt *stmt, size_t index,
                            const struct copy_options *options)
{
    const struct rule *rule = rule_set_get(a->set, index);
    const struct token_list *tokens = analysis_tokens(a);
    const size_t behind = tokens_after_relation(tokens, stmt->relation);
    bool *drop = arena_alloc(a->arena, options->width * sizeof *drop);
    for (size_t i = 0; i < options->width; i++) {
        drop[i] = i == stream_index(rule, stmt);
    }
    if (behind >= tokens->count) {
        analysis_refuse_unfollowed(a, "COPY");
    } else if (stmt->attlist == NIL) {
        make_list(a, stmt, rule, behind, drop, rule->column);
    } else if (!drop[options->width - 1]) {
        shorten_list(a, stmt, behind, drop, options->width);
        const int close = tokens->items[tokens->items[behind].match].start;
        analysis_edit(a, close, close, arena_printf(a->arena, ", %s", quoted_name(rule->column)));
        revision_note(a, &stmt->attlist, (int)options->width, 0,
                      lappend(NIL, makeString(pstrdup(rule->column))));
    }
}

static size_t field_of(const struct copy_options *options, size_t index)
{
    size_t at = 0;
    while (at < options->field_count && options->fields[at].index != index) {
        at++;
    }
    return at;
}

/* Options by which a field's text is not its value. */
static bool has_other_values(const CopyStmt *stmt)
{
    static const char *const names[] = {"force_not_null", "force_null", "default", NULL};
    for (int i = 0; i < list_length(stmt->options); i++) {
        const DefElem *option = list_nth(stmt->options, i);
        if (is_one_of(option->defname, names)) {
            return true;
        }
    }
    return false;
}

/* The place in the stream that the rule's expression reads, as a field; false when there is none.
 */
static bool add_source(const struct compare_rule *compares, const struct rule *rule,
                       const CopyStmt *stmt, struct copy_options *options)
{
    const size_t index = stream_find(rule, stmt, compares->evaluation.column);
    if (index >= options->width) {
        return false;
    }
    if (field_of(options, index) == options->field_count) {
        if (options->field_count == COPY_FIELDS_MAX) {
            return false;
        }
        options->fields[options->field_count++] =
            (struct copy_field){.index = (uint32_t)index, .stays = true};
        qsort(options->fields, options->field_count, sizeof *options->fields, compare_fields);
    }
    return true;
}

void copy_statement_compare(const struct analysis *a, const CopyStmt *stmt, uint64_t rules,
                            struct verdict_copy *copy)
{
    struct copy_options *options = &copy->options;
    size_t rule_of[COPY_PAIRS_MAX];
    copy->pair_count = 0;
    for (; rules != 0 && copy->pair_count < COPY_PAIRS_MAX && !has_other_values(stmt);
         rules &= rules - 1) {
        const struct rule *rule = rule_set_get(a->set, rule_first(rules));
        const struct compare_rule *compares =
            analysis_compares(a, rule_first(rules), stmt->relation);
        if (compares != NULL && add_source(compares, rule, stmt, options)) {
            rule_of[copy->pair_count++] = rule_first(rules);
        }
    }
    for (size_t i = 0; i < copy->pair_count; i++) {
        const struct rule *rule = rule_set_get(a->set, rule_of[i]);
        const char *source = compare_rule_of(a->set, rule_of[i])->evaluation.column;
        copy->pairs[i] = (struct copy_pair){
            .rule = rule_of[i],
            .key = (uint32_t)field_of(options, stream_index(rule, stmt)),
            .source = (uint32_t)field_of(options, stream_find(rule, stmt, source)),
        };
    }
}

/*
 * judge_text() on arbitrary texts, in every mode, shape, encoding and protocol. Byte 0 chooses the
 * rule set (fuzz_rules.h); byte 1 the encoding (two bits), extended (4), backslash escapes (8) and
 * how many parameter types are declared (the upper four bits), a byte each behind it. The rest is
 * the text. With 64 in byte 0 the text is in three parts, with a NUL between them, and the middle
 * one is repeated: for bulk loads and for what is nested deeply.
 */
#include "tests/fuzz/fuzz_rules.h"

enum { TYPES_MAX = 15, CACHE_BYTES = 1 << 20, REPEATED_BYTES = 2400 };
enum { UNKNOWN_OID = 705 }; /* declares no more than 0 does */

static const uint32_t type_oids[] = {0,    16,   20,   23,   25,    UNKNOWN_OID,
                                     1043, 1700, 2950, 3802, 999999};

/* A verdict is borrowed until the next one: what is compared with a later one is copied. */
struct kept {
    struct verdict verdict;
    char *text, *masked_text;
};

static void check_text(const char *text)
{
    FUZZ_CHECK(text == NULL || strlen(text) < SIZE_MAX); /* reads it up to its NUL */
}

static void check_refusal(const struct verdict *v, const struct judge_input *input)
{
    FUZZ_CHECK(v->sqlstate != NULL && strlen(v->sqlstate) == 5);
    FUZZ_CHECK(v->message != NULL && v->message[0] != '\0');
    FUZZ_CHECK(v->position <= input->len + 1);
    check_text(v->detail);
    check_text(v->hint);
    /* Safe, but an edit that the judge made and could not stand by: asked for, it is a finding. */
    FUZZ_CHECK(strcmp(v->sqlstate, "XX000") != 0 || getenv("FUZZ_UNVERIFIED") == NULL);
}

/* Both texts have these pieces, in one order. */
static void check_kept(const struct verdict *v, const struct judge_input *input)
{
    size_t from = 0, at = 0;
    FUZZ_CHECK(v->kept_count > 0 && v->kept_count <= KEPT_MAX);
    FUZZ_CHECK(!v->is_kept_cut || v->kept_count == KEPT_MAX);
    for (size_t i = 0; i < v->kept_count; i++) {
        const struct kept_text *piece = &v->kept[i];
        FUZZ_CHECK(from <= piece->from && piece->from <= piece->to && piece->to <= input->len);
        const size_t len = piece->to - piece->from;
        FUZZ_CHECK(at <= piece->at && len <= v->text_len - piece->at);
        FUZZ_CHECK(memcmp(input->text + piece->from, v->text + piece->at, len) == 0);
        from = piece->to;
        at = piece->at + len;
    }
    FUZZ_CHECK(from == input->len && at == v->text_len);
}

static void check_edit(const struct verdict *v, const struct judge_input *input)
{
    FUZZ_CHECK(v->text != NULL && strlen(v->text) == v->text_len);
    FUZZ_CHECK(v->text_len != input->len || memcmp(v->text, input->text, input->len) != 0);
    check_kept(v, input);
    FUZZ_CHECK(v->param_type_count >= input->param_type_count);
    for (size_t i = 0; i < input->param_type_count; i++) {
        const uint32_t declared = input->param_types[i];
        FUZZ_CHECK(declared == 0 || declared == UNKNOWN_OID || v->param_types[i] == declared);
    }
}

static void check_alone(const struct verdict *v, const struct judge_input *input)
{
    FUZZ_CHECK(v->writes >> FUZZ_RULES == 0);
    FUZZ_CHECK((v->masked_text != NULL) == (v->supplied_count > 0));
    FUZZ_CHECK(v->supplied_count > 0 || v->fingerprint == 0);
    check_text(v->masked_text);
    for (size_t i = 0; i < v->supplied_count; i++) {
        FUZZ_CHECK(v->supplied[i].rule < FUZZ_RULES);
        FUZZ_CHECK(v->supplied[i].statement != NULL && v->supplied[i].statement[0] != '\0');
    }
    switch (v->action) {
    case VERDICT_PASS:
        break;
    case VERDICT_EDIT:
        check_edit(v, input);
        break;
    case VERDICT_REFUSE:
        check_refusal(v, input);
        break;
    }
}

static char *copy_of(const char *text)
{
    return text == NULL ? NULL : (char *)fuzz_copy((const uint8_t *)text, strlen(text) + 1);
}

static bool is_same(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/* The second verdict comes from the cache, when it fits. */
static void check_again(const struct kept *kept, const struct verdict *v)
{
    const struct verdict *first = &kept->verdict;
    FUZZ_CHECK(v->action == first->action && v->writes == first->writes);
    FUZZ_CHECK(v->prepares == first->prepares && v->schema_change == first->schema_change);
    FUZZ_CHECK(v->supplied_count == first->supplied_count && v->position == first->position);
    FUZZ_CHECK(v->fingerprint == first->fingerprint);
    FUZZ_CHECK(v->param_type_count == first->param_type_count);
    FUZZ_CHECK(is_same(kept->masked_text, v->masked_text));
    FUZZ_CHECK(is_same(kept->text, v->text));
    FUZZ_CHECK(v->kept_count == first->kept_count && v->is_kept_cut == first->is_kept_cut);
}

/* The cache knows texts by their shape: whatever it has seen, it says what a judge without one
 * says. */
static void check_uncached(const struct kept *kept, const struct rule_set *set,
                           const struct judge_input *input)
{
    static struct judge *judge;
    if (judge == NULL) {
        judge = judge_new(0);
        FUZZ_CHECK(judge != NULL);
    }
    const struct verdict *v = judge_text(judge, set, input);
    FUZZ_CHECK(v != NULL);
    check_again(kept, v);
}

/* What the proxy sends is judged as a client's text would be: nothing is left to be done to it. */
static void check_edited(struct judge *judge, const struct rule_set *set, const struct kept *kept,
                         const struct judge_input *input)
{
    const size_t count = kept->verdict.param_type_count;
    uint32_t *types = malloc((count + 1) * sizeof *types);
    FUZZ_CHECK(types != NULL);
    const struct verdict *v = judge_text(judge, set, input); /* its types are still alive */
    if (count > 0) {
        memcpy(types, v->param_types, count * sizeof *types);
    }
    struct judge_input edited = *input;
    edited.text = kept->text;
    edited.len = strlen(kept->text);
    edited.param_types = types;
    edited.param_type_count = count;
    v = judge_text(judge, set, &edited);
    FUZZ_CHECK(v != NULL);
    check_alone(v, &edited);
    FUZZ_CHECK(v->action == VERDICT_PASS);
    FUZZ_CHECK(v->writes == kept->verdict.writes);
    FUZZ_CHECK(v->prepares == kept->verdict.prepares);
    free(types);
}

static void check_text_of(struct judge *judge, const struct rule_set *set,
                          const struct judge_input *input)
{
    const struct verdict *v = judge_text(judge, set, input);
    FUZZ_CHECK(v != NULL);
    check_alone(v, input);
    const bool is_trivial = v->action == VERDICT_PASS && v->supplied_count == 0 && v->writes == 0;
    FUZZ_CHECK(is_trivial || rule_set_may_concern(set, input->text, input->len));
    struct kept kept = {*v, copy_of(v->text), copy_of(v->masked_text)};
    v = judge_text(judge, set, input);
    FUZZ_CHECK(v != NULL);
    check_alone(v, input);
    check_again(&kept, v);
    check_uncached(&kept, set, input);
    if (kept.verdict.action == VERDICT_EDIT) {
        check_edited(judge, set, &kept, input);
    }
    free(kept.text);
    free(kept.masked_text);
}

/* A text ends at its first NUL, as it does in a message. */
static struct fuzz_input read_part(struct fuzz_input *in)
{
    struct fuzz_input part = {in->at, in->len == 0 ? 0 : strnlen((const char *)in->at, in->len)};
    size_t taken;
    fuzz_bytes(in, part.len + 1, &taken);
    return part;
}

static void append(char *text, size_t *len, const struct fuzz_input *part)
{
    if (part->len > 0) {
        memcpy(text + *len, part->at, part->len);
        *len += part->len;
    }
}

static char *read_text(struct fuzz_input *in, bool repeats, size_t *len)
{
    const struct fuzz_input head = read_part(in);
    const struct fuzz_input row = repeats ? read_part(in) : (struct fuzz_input){in->at, 0};
    const struct fuzz_input tail = repeats ? read_part(in) : row;
    const size_t rows = row.len == 0 ? 0 : 1 + REPEATED_BYTES / row.len;
    char *text = malloc(head.len + rows * row.len + tail.len + 1);
    FUZZ_CHECK(text != NULL);
    *len = 0;
    append(text, len, &head);
    for (size_t i = 0; i < rows; i++) {
        append(text, len, &row);
    }
    append(text, len, &tail);
    text[*len] = '\0';
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct judge *judge;
    if (judge == NULL) {
        judge = judge_new(CACHE_BYTES);
        FUZZ_CHECK(judge != NULL);
    }
    struct fuzz_input in = {data, size};
    const uint8_t setting = fuzz_u8(&in);
    const struct rule_set *set = fuzz_rule_set(setting);
    const bool repeats = (setting & 64) != 0;
    const uint8_t bits = fuzz_u8(&in);
    static const enum text_encoding encodings[] = {TEXT_ENCODING_UTF8, TEXT_ENCODING_ASCII_SAFE,
                                                   TEXT_ENCODING_UNKNOWN, TEXT_ENCODING_UNSETTLED};
    uint32_t types[TYPES_MAX];
    const size_t type_count = (bits & 4) == 0 ? 0 : bits >> 4;
    for (size_t i = 0; i < type_count; i++) {
        types[i] = type_oids[fuzz_u8(&in) % (sizeof type_oids / sizeof type_oids[0])];
    }
    size_t len;
    char *text = read_text(&in, repeats, &len);
    check_text_of(judge, set,
                  &(struct judge_input){
                      .text = text,
                      .len = len,
                      .param_types = types,
                      .param_type_count = type_count,
                      .extended = (bits & 4) != 0,
                      .standard_conforming_strings = (bits & 8) == 0,
                      .encoding = encodings[bits & 3],
                  });
    free(text);
    return 0;
}

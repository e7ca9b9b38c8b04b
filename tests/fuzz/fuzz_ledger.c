/*
 * The ledger as a sequence of operations, against a model of it that is an array. Each operation is
 * a byte, with its operands behind it.
 */
#include "tests/fuzz/fuzz.h"

#include "proxy/session/ledger.h"

enum { NAMES = LEDGER_NAMES_MAX + 8, NOTES_MAX = 3, REFUSALS = 4096 };

/* What must be remembered; name 0 is the unnamed statement. */
struct model {
    struct {
        uint64_t writes;
        size_t notes;
        bool is_kept;
    } statements[NAMES];
    size_t kept_count;
    uint64_t overflow_writes;
    struct {
        uint64_t id, sync;
    } refusals[REFUSALS];
    size_t refusal_first, refusal_end;
    uint64_t sync;
    bool is_filled; /* with more names than fit; slow, so once is enough */
};

static const char nonce[] = "0123456789abcdef";
static const size_t rule_index[] = {5, 3, 9};

static struct span name_of(size_t number, char room[16])
{
    if (number == 0) {
        return (struct span){.ptr = "", .len = 0};
    }
    return (struct span){.ptr = room, .len = (size_t)snprintf(room, 16, "s%zu", number)};
}

static void check_statement(const struct ledger *ledger, const struct model *model, size_t number)
{
    char room[16];
    const struct ledger_statement found = ledger_find(ledger, name_of(number, room));
    FUZZ_CHECK(found.writes == (model->statements[number].writes | model->overflow_writes));
    FUZZ_CHECK((found.note != NULL) == (model->statements[number].notes > 0));
    if (found.note != NULL) {
        FUZZ_CHECK(found.note->count == model->statements[number].notes);
        FUZZ_CHECK(strcmp(found.note->text, "INSERT ...") == 0);
        for (size_t i = 0; i < found.note->count; i++) {
            FUZZ_CHECK(found.note->supplied[i].rule == rule_index[i]);
        }
    }
}

static void forget(struct model *model, size_t number)
{
    if (model->statements[number].is_kept) {
        model->kept_count--;
    }
    memset(&model->statements[number], 0, sizeof model->statements[number]);
}

static void parse(struct ledger *ledger, struct model *model, size_t number, uint64_t writes,
                  size_t notes)
{
    static const struct supplied supplied[NOTES_MAX] = {
        {0, "INSERT", 1, 0}, {1, "INSERT", 2, 1}, {2, "MERGE", 0, 0}};
    char room[16];
    const struct verdict verdict = {
        .action = VERDICT_EDIT,
        .supplied = supplied,
        .supplied_count = notes,
        .masked_text = notes > 0 ? "INSERT ..." : NULL,
    };
    forget(model, number);
    if (number > 0 && (writes != 0 || notes > 0) && model->kept_count >= LEDGER_NAMES_MAX) {
        model->overflow_writes |= writes;
    } else {
        model->statements[number].writes = writes;
        model->statements[number].notes = notes;
        model->statements[number].is_kept = number > 0 && (writes != 0 || notes > 0);
        model->kept_count += model->statements[number].is_kept;
    }
    FUZZ_CHECK(ledger_parsed(ledger, name_of(number, room), &verdict, writes, rule_index, NULL));
    check_statement(ledger, model, number);
}

static void close_statement(struct ledger *ledger, struct model *model, size_t number)
{
    char room[16];
    forget(model, number);
    ledger_closed(ledger, name_of(number, room));
    check_statement(ledger, model, number);
}

static void refuse(struct ledger *ledger, struct model *model, uint8_t operand)
{
    const struct verdict verdict = {
        .action = VERDICT_REFUSE,
        .sqlstate = "428C9",
        .message = "no",
        .detail = (operand & 1) != 0 ? "why" : NULL,
        .hint = (operand & 2) != 0 ? "leave it out" : NULL,
        .position = operand >> 2,
    };
    const bool fits = model->refusal_end - model->refusal_first < LEDGER_REFUSALS_MAX;
    const bool is_noted = model->refusal_end > model->refusal_first &&
                          model->refusals[model->refusal_end - 1].sync == model->sync;
    if (model->refusal_end == REFUSALS) {
        return;
    }
    FUZZ_CHECK(ledger_is_full(ledger, model->sync) == !(fits || is_noted));
    const struct ledger_refusal *refusal = ledger_refuse(ledger, &verdict, model->sync);
    FUZZ_CHECK((refusal != NULL) == (fits || is_noted));
    if (refusal == NULL) {
        return;
    }
    if (is_noted) {
        FUZZ_CHECK(refusal->id == model->refusals[model->refusal_end - 1].id);
        return;
    }
    FUZZ_CHECK(refusal->sync == model->sync && strcmp(refusal->sqlstate, "428C9") == 0);
    FUZZ_CHECK((refusal->detail != NULL) == (verdict.detail != NULL));
    FUZZ_CHECK((refusal->position[0] != '\0') == (verdict.position > 0));
    model->refusals[model->refusal_end].id = refusal->id;
    model->refusals[model->refusal_end++].sync = model->sync;
}

/* A mark is known in its own batch only, until that is over. */
static void answer(const struct ledger *ledger, const struct model *model, size_t which,
                   uint64_t sync)
{
    char text[LEDGER_POISON_MAX], message[LEDGER_POISON_MAX + 32];
    if (which >= model->refusal_end) {
        return;
    }
    const uint64_t id = model->refusals[which].id;
    const size_t len = ledger_poison(text, nonce, id);
    FUZZ_CHECK(len == strlen(text) && len < LEDGER_POISON_MAX);
    snprintf(message, sizeof message, "invalid input: \"%s\"", text);
    const struct ledger_refusal *found = ledger_answers(ledger, nonce, message, sync);
    const bool is_due = which >= model->refusal_first && model->refusals[which].sync == sync;
    FUZZ_CHECK((found != NULL) == is_due);
    FUZZ_CHECK(found == NULL || found->id == id);
    FUZZ_CHECK(ledger_answers(ledger, "fedcba9876543210", message, sync) == NULL);
}

static void ready(struct ledger *ledger, struct model *model, uint64_t sync)
{
    while (model->refusal_first < model->refusal_end &&
           model->refusals[model->refusal_first].sync <= sync) {
        model->refusal_first++;
    }
    ledger_ready(ledger, sync);
}

static void step(struct ledger *ledger, struct model *model, struct fuzz_input *in)
{
    const uint8_t operation = fuzz_u8(in), operand = fuzz_u8(in);
    switch (operation & 7) {
    case 0:
    case 1:
        parse(ledger, model, operand, operation >> 3 & 3, (operation >> 5) % (NOTES_MAX + 1));
        break;
    case 2:
        close_statement(ledger, model, operand);
        break;
    case 3:
        refuse(ledger, model, operand);
        break;
    case 4:
        model->sync += operand & 3;
        break;
    case 5:
        answer(ledger, model, model->refusal_first + (operand & 15),
               model->sync - (operation >> 3 & 3));
        break;
    case 6:
        ready(ledger, model, model->sync - (operand & 3));
        break;
    default:
        if (operand == 255 && !model->is_filled) {
            model->is_filled = true;
            for (size_t i = 1; i < NAMES; i++) {
                parse(ledger, model, i, 2, 0);
            }
        }
        break;
    }
    FUZZ_CHECK(ledger->named_count == model->kept_count);
    FUZZ_CHECK(ledger->refusal_count == model->refusal_end - model->refusal_first);
    FUZZ_CHECK(ledger->overflow_writes == model->overflow_writes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct model model;
    memset(&model, 0, sizeof model);
    model.sync = 4; /* so that some before it exist */
    struct ledger ledger = {0};
    struct fuzz_input in = {data, size};
    while (in.len > 0) {
        step(&ledger, &model, &in);
    }
    ledger_fini(&ledger);
    FUZZ_CHECK(ledger_is_empty(&ledger));
    return 0;
}

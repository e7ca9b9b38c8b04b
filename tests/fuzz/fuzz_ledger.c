/*
 * The ledger as a sequence of operations, against a model of it that is an array. Each operation is
 * a byte, with its operands behind it.
 */
#include "tests/fuzz/fuzz.h"

#include "proxy/session/ledger.h"

enum { NAMES = LEDGER_NAMES_MAX + 8, NOTES_MAX = 3, REFUSALS = 4096 };

struct fact {
    uint64_t writes;
    size_t notes;
};

/* What must be remembered; name 0 is the unnamed statement. */
struct model {
    struct {
        struct fact known;
        size_t pending;
        bool is_kept;
    } statements[NAMES];
    size_t kept_count;
    struct {
        size_t number;
        struct ledger_spot spot;
        bool is_doubtful;
        struct fact fact;
    } changes[LEDGER_CHANGES_MAX];
    size_t change_count;
    uint64_t overflow_writes;
    struct {
        uint64_t id, sync;
    } refusals[REFUSALS];
    size_t refusal_first, refusal_end;
    uint64_t sync, failed;
    uint32_t message;
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

static bool is_notable(struct fact fact)
{
    return fact.writes != 0 || fact.notes > 0;
}

/* The newest change of the name; the number of changes when there is none. */
static size_t newest(const struct model *model, size_t number)
{
    for (size_t i = model->change_count; i > 0; i--) {
        if (model->changes[i - 1].number == number) {
            return i - 1;
        }
    }
    return model->change_count;
}

static void check_statement(const struct ledger *ledger, const struct model *model, size_t number)
{
    char room[16];
    const struct ledger_statement found = ledger_find(ledger, name_of(number, room));
    const size_t last = newest(model, number);
    const struct fact fact =
        last < model->change_count ? model->changes[last].fact : model->statements[number].known;
    const bool is_doubtful =
        last < model->change_count && model->changes[last].spot.sync < model->sync &&
        (model->statements[number].pending > 1 || is_notable(model->statements[number].known));
    FUZZ_CHECK(found.writes == (fact.writes | model->overflow_writes));
    FUZZ_CHECK((found.note != NULL) == (fact.notes > 0));
    FUZZ_CHECK(ledger_is_doubtful(ledger, name_of(number, room), model->sync) == is_doubtful);
    if (found.note != NULL) {
        FUZZ_CHECK(found.note->count == fact.notes);
        FUZZ_CHECK(strcmp(found.note->text, "INSERT ...") == 0);
        for (size_t i = 0; i < found.note->count; i++) {
            FUZZ_CHECK(found.note->supplied[i].rule == rule_index[i]);
        }
    }
}

static void keep(struct model *model, size_t number)
{
    const bool is_kept = number > 0 && (model->statements[number].pending > 0 ||
                                        is_notable(model->statements[number].known));
    model->kept_count += is_kept;
    model->kept_count -= model->statements[number].is_kept;
    model->statements[number].is_kept = is_kept;
}

static void note_change(struct model *model, size_t number, struct fact fact)
{
    const bool is_known =
        is_notable(model->statements[number].known) || model->statements[number].pending > 0;
    if ((!is_known && !is_notable(fact)) || model->failed == model->sync) {
        return;
    }
    if (number > 0 && !is_known && model->kept_count >= LEDGER_NAMES_MAX) {
        model->overflow_writes |= fact.writes;
        return;
    }
    if (model->change_count < LEDGER_CHANGES_MAX) {
        const size_t at = model->change_count++;
        model->changes[at].number = number;
        model->changes[at].spot = (struct ledger_spot){model->sync, model->message};
        model->changes[at].is_doubtful = false;
        model->changes[at].fact = fact;
        model->statements[number].pending++;
        keep(model, number);
        return;
    }
    const size_t last = newest(model, number);
    model->overflow_writes |= fact.writes;
    if (last < model->change_count && model->changes[last].spot.sync == model->sync) {
        model->overflow_writes |= model->changes[last].fact.writes;
        model->changes[last].fact = fact;
    }
}

/* The changes up to the message come true; those in the rest of its batch do not, if it failed. */
static void settle(struct model *model, uint64_t sync, uint32_t messages, bool has_failed)
{
    size_t count = 0;
    for (; count < model->change_count; count++) {
        const struct ledger_spot spot = model->changes[count].spot;
        const size_t number = model->changes[count].number;
        const struct fact fact = model->changes[count].fact;
        const bool is_before = spot.sync < sync || (spot.sync == sync && spot.message < messages);
        if (!is_before && !(has_failed && spot.sync == sync)) {
            break;
        }
        bool is_done = is_before;
        if (model->changes[count].is_doubtful) {
            is_done = is_notable(fact);
            model->overflow_writes |= is_done ? model->statements[number].known.writes : 0;
        }
        if (is_done) {
            model->statements[number].known = fact;
        }
        model->statements[number].pending--;
        keep(model, number);
    }
    model->change_count -= count;
    memmove(model->changes, model->changes + count, model->change_count * sizeof model->changes[0]);
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
    note_change(model, number, (struct fact){.writes = writes, .notes = notes});
    FUZZ_CHECK(ledger_parsed(ledger, (struct ledger_spot){model->sync, model->message},
                             name_of(number, room), &verdict, rule_index,
                             &(struct ledger_statement){.writes = writes}));
    model->message++;
    check_statement(ledger, model, number);
}

static void close_statement(struct ledger *ledger, struct model *model, size_t number)
{
    char room[16];
    note_change(model, number, (struct fact){0});
    FUZZ_CHECK(ledger_closed(ledger, (struct ledger_spot){model->sync, model->message},
                             name_of(number, room)));
    model->message++;
    check_statement(ledger, model, number);
}

static void deallocate(struct ledger *ledger, struct model *model)
{
    for (size_t i = 1; i < NAMES; i++) {
        model->statements[i].known = (struct fact){0};
        keep(model, i);
    }
    ledger_deallocated(ledger);
}

static void doubt(struct ledger *ledger, struct model *model, uint64_t sync)
{
    for (size_t i = 0; i < model->change_count; i++) {
        if (model->changes[i].spot.sync > sync) {
            model->changes[i].is_doubtful = true;
            model->changes[i].spot.sync = sync;
        }
    }
    ledger_doubt(ledger, sync, sync);
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
    settle(model, sync + 1, 0, false);
    ledger_ready(ledger, sync);
}

/* What is rarer. */
static void step_seldom(struct ledger *ledger, struct model *model, uint8_t operand)
{
    switch (operand >> 5) {
    case 0:
        settle(model, model->sync, operand & 7, true);
        model->failed = model->sync;
        ledger_failed(ledger, model->sync, operand & 7);
        break;
    case 1:
        settle(model, model->sync, operand & 15, false);
        ledger_answered(ledger, model->sync, operand & 15);
        break;
    case 2:
        deallocate(ledger, model);
        break;
    case 3:
        doubt(ledger, model, model->sync - (operand & 1));
        break;
    case 4:
        for (size_t i = 0; i < LEDGER_CHANGES_MAX && !model->is_filled; i++) {
            parse(ledger, model, operand & 3, i & 1, 0);
        }
        model->is_filled = true;
        break;
    default:
        if (operand == 255 && !model->is_filled) {
            model->is_filled = true;
            for (size_t i = 1; i < NAMES; i++) {
                parse(ledger, model, i, 2, 0);
                ready(ledger, model, model->sync);
            }
        }
        break;
    }
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
        model->message = (operand & 3) > 0 ? 0 : model->message;
        break;
    case 5:
        answer(ledger, model, model->refusal_first + (operand & 15),
               model->sync - (operation >> 3 & 3));
        break;
    case 6:
        ready(ledger, model, model->sync - (operand & 3));
        break;
    default:
        step_seldom(ledger, model, operand);
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
    FUZZ_CHECK(ledger_is_empty(&ledger) && ledger.edited_count == 0);
    return 0;
}

/* Looks into Bind messages; see comparing.h. */
#include "proxy/session/comparing.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/frame.h"
#include "protocol/message.h"

/* Messages with more values take their room from the heap. */
#define VALUES_ON_STACK 64

const struct compare_rule *comparing_rule(const struct session *s, size_t index,
                                          const struct rule **rule)
{
    for (size_t i = 0; s->rules != NULL && i < s->rules->rule_count; i++) {
        if (s->rules->rule_index[i] == index) {
            *rule = rule_set_get(s->rules->set, i);
            return compare_rule_of(s->rules->set, i);
        }
    }
    *rule = NULL;
    return NULL;
}

bool comparing_wants(const struct session *s, struct span statement)
{
    const struct ledger_note *note = ledger_find(&s->ledger, statement).note;
    return note != NULL && note->pair_count > 0;
}

static void compare_all(struct session *s, struct ledger_note *note,
                        const struct compare_input *input, struct compare_words *room,
                        struct verdict *verdict)
{
    for (size_t i = 0; i < note->count; i++) {
        const struct rule *rule;
        const struct compare_rule *compares = comparing_rule(s, note->supplied[i].rule, &rule);
        note->compared[i] = note->supplied[i].compared;
        if (compares == NULL) {
            continue;
        }
        compare_pairs(compares, note->pairs, note->pair_count, i, input, &note->compared[i]);
        if (verdict->action != VERDICT_REFUSE && note->edited &&
            compare_refuses(rule, &note->compared[i])) {
            compare_refuse(rule, &note->compared[i], room, verdict);
        }
    }
}

static size_t read_values(const uint8_t *message, size_t size, struct compare_bound *values)
{
    struct message_values read;
    struct message_value value;
    size_t count = 0;
    if (message_read_values(message, size, &read)) {
        while (message_next_value(&read, &value)) {
            values[count++] = (struct compare_bound){.bytes = value.bytes.ptr,
                                                     .len = value.bytes.len,
                                                     .is_null = value.is_null,
                                                     .is_binary = value.is_binary};
        }
    }
    return count;
}

bool comparing_bind(struct session *s, struct ledger_note *note, const uint8_t *message,
                    size_t size, struct compare_words *room, struct verdict *verdict)
{
    struct compare_bound on_stack[VALUES_ON_STACK], *values = on_stack;
    struct message_values counted;
    *verdict = (struct verdict){.action = VERDICT_PASS};
    const bool is_whole = size == 1 + (size_t)load_u32(message + 1) && size <= COMPARED_BIND &&
                          message_read_values(message, size, &counted);
    if (is_whole && counted.count > VALUES_ON_STACK) {
        values = malloc(counted.count * sizeof *values);
    }
    /* What is not answered yet may have changed client_encoding. */
    const bool is_settled = !s->settings_touched || s->syncs_sent == s->syncs_done;
    const struct compare_input input = {
        .text = note->literals,
        .standard_conforming_strings = note->conforming,
        .is_in_encoding = note->in_encoding && is_settled && settings_are_servers(s),
        .params = values,
        .param_count = is_whole && values != NULL ? read_values(message, size, values) : 0,
    };
    compare_all(s, note, &input, room, verdict);
    if (values != on_stack) {
        free(values);
    }
    return verdict->action == VERDICT_REFUSE;
}

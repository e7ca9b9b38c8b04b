/* A session's bookkeeping and the gate: what needs no socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "proxy/gate.h"
#include "proxy/session/deallocate.h"
#include "proxy/session/ledger.h"
#include "proxy/session/mentions.h"
#include "proxy/session/registry.h"

static const size_t identity[] = {0, 1, 2, 3};
static const struct ledger_spot first = {.sync = 1};

static struct span span_of(const char *text)
{
    return (struct span){.ptr = text, .len = strlen(text)};
}

static const struct verdict refusal = {
    .action = VERDICT_REFUSE, .sqlstate = "428C9", .message = "no", .hint = "leave it out"};

static void an_error_is_the_answer_only_by_its_mark_and_its_batch(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    const char *nonce = "0123456789abcdef";
    const struct ledger_refusal *r = ledger_refuse(&ledger, &refusal, 3);
    assert_non_null(r);
    uint64_t id = r->id;
    char text[LEDGER_POISON_MAX];
    char message[LEDGER_POISON_MAX * 2];
    size_t len = ledger_poison(text, nonce, id);
    assert_int_equal(len, strlen(text));
    snprintf(message, sizeof message, "invalid input syntax for type integer: \"%s\"", text);

    assert_null(ledger_answers(&ledger, nonce, message, 2));
    assert_null(ledger_answers(&ledger, "fedcba9876543210", message, 3));
    assert_null(ledger_answers(&ledger, nonce, "duplicate key", 3));
    assert_non_null(ledger_answers(&ledger, nonce, message, 3));
    ledger_ready(&ledger, 2);
    assert_int_equal(ledger.refusal_count, 1);
    ledger_ready(&ledger, 3);
    assert_int_equal(ledger.refusal_count, 0);
    assert_null(ledger_answers(&ledger, nonce, message, 3));
    ledger_fini(&ledger);
}

static void ids_that_begin_alike_are_told_apart(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    char text[LEDGER_POISON_MAX];
    for (uint64_t sync = 1; sync <= 12; sync++) {
        assert_non_null(ledger_refuse(&ledger, &refusal, sync));
    }
    ledger_poison(text, "n", 11);
    assert_int_equal(ledger_answers(&ledger, "n", text, 11)->id, 11);
    assert_null(ledger_answers(&ledger, "n", text, 1));
    ledger_fini(&ledger);
}

static void refusals_are_bounded(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    for (uint64_t sync = 1; sync <= LEDGER_REFUSALS_MAX; sync++) {
        assert_false(ledger_is_full(&ledger, sync));
        assert_non_null(ledger_refuse(&ledger, &refusal, sync));
    }
    assert_true(ledger_is_full(&ledger, LEDGER_REFUSALS_MAX + 1));
    assert_null(ledger_refuse(&ledger, &refusal, LEDGER_REFUSALS_MAX + 1));
    assert_non_null(ledger_refuse(&ledger, &refusal, LEDGER_REFUSALS_MAX));
    ledger_ready(&ledger, 1);
    assert_non_null(ledger_refuse(&ledger, &refusal, LEDGER_REFUSALS_MAX + 1));
    ledger_fini(&ledger);
}

static void a_batch_has_one_refusal(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    uint64_t id = ledger_refuse(&ledger, &refusal, 1)->id;
    assert_int_equal(ledger_refuse(&ledger, &refusal, 1)->id, id);
    assert_int_equal(ledger.refusal_count, 1);
    assert_int_not_equal(ledger_refuse(&ledger, &refusal, 2)->id, id);
    ledger_fini(&ledger);
}

static void names_are_told_apart_by_their_first_63_bytes(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    struct verdict writes = {0};
    char name[101];
    memset(name, 's', 100);
    name[100] = '\0';
    assert_true(ledger_parsed(&ledger, first, span_of(name), &writes, identity,
                              &(struct ledger_statement){.writes = 2}));
    name[70] = 'x';
    assert_int_equal(ledger_find(&ledger, span_of(name)).writes, 2);
    name[62] = 'x';
    assert_int_equal(ledger_find(&ledger, span_of(name)).writes, 0);
    name[62] = 's';
    name[63] = '\0';
    assert_true(ledger_closed(&ledger, first, span_of(name)));
    ledger_ready(&ledger, 1);
    assert_true(ledger_is_empty(&ledger));
    ledger_fini(&ledger);
}

static void statements_are_found_by_name_until_closed(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    struct supplied supplied = {.rule = 2, .statement = "INSERT", .rows = 1, .params = 1};
    struct verdict strip = {.action = VERDICT_EDIT,
                            .supplied = &supplied,
                            .supplied_count = 1,
                            .masked_text = "INSERT ..."};
    const size_t map[] = {9, 9, 5};
    struct verdict none = {0};
    assert_true(ledger_parsed(&ledger, first, span_of("a"), &strip, map,
                              &(struct ledger_statement){.writes = 1}));
    assert_true(ledger_parsed(&ledger, first, span_of("b"), &none, identity,
                              &(struct ledger_statement){0}));
    ledger_ready(&ledger, 1);
    assert_int_equal(ledger.named_count, 1);
    struct ledger_statement found = ledger_find(&ledger, span_of("a"));
    assert_int_equal(found.writes, 1);
    assert_int_equal(found.note->supplied[0].rule, 5);
    assert_true(found.note->edited);
    assert_int_equal(ledger_find(&ledger, span_of("b")).writes, 0);
    assert_int_equal(ledger_find(&ledger, span_of("")).writes, 0);

    assert_true(ledger_parsed(&ledger, first, span_of(""), &none, identity,
                              &(struct ledger_statement){.writes = 4}));
    assert_int_equal(ledger_find(&ledger, span_of("")).writes, 4);
    assert_true(ledger_parsed(&ledger, first, span_of("a"), &none, identity,
                              &(struct ledger_statement){0}));
    assert_int_equal(ledger_find(&ledger, span_of("a")).writes, 0);
    assert_true(ledger_closed(&ledger, first, span_of("")));
    ledger_ready(&ledger, 1);
    assert_true(ledger_is_empty(&ledger));
    ledger_fini(&ledger);
}

static void more_statements_than_the_bound_count_as_writes(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    struct verdict writes = {0};
    char name[16];
    for (int i = 0; i <= LEDGER_NAMES_MAX; i++) {
        snprintf(name, sizeof name, "s%d", i);
        assert_true(ledger_parsed(&ledger, first, span_of(name), &writes, identity,
                                  &(struct ledger_statement){.writes = 2}));
        ledger_ready(&ledger, 1);
    }
    assert_int_equal(ledger.named_count, LEDGER_NAMES_MAX);
    assert_int_equal(ledger_find(&ledger, span_of("never seen")).writes, 2);
    ledger_fini(&ledger);
}

/* --- changes that the server has not carried out --- */

static const struct verdict plain;

static struct ledger_spot spot(uint64_t sync, uint32_t message)
{
    return (struct ledger_spot){.sync = sync, .message = message};
}

static void parse(struct ledger *ledger, struct ledger_spot at, const char *name, uint64_t writes)
{
    assert_true(ledger_parsed(ledger, at, span_of(name), &plain, identity,
                              &(struct ledger_statement){.writes = writes}));
}

static uint64_t writes_of(const struct ledger *ledger, const char *name)
{
    return ledger_find(ledger, span_of(name)).writes;
}

static void a_failed_parse_leaves_the_statement_that_is_there(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    parse(&ledger, spot(1, 0), "s", 1);
    ledger_ready(&ledger, 1);
    parse(&ledger, spot(2, 0), "s", 0); /* a duplicate */
    assert_int_equal(writes_of(&ledger, "s"), 0);
    ledger_failed(&ledger, 2, 0);
    assert_int_equal(writes_of(&ledger, "s"), 1);
    ledger_ready(&ledger, 2);
    assert_int_equal(writes_of(&ledger, "s"), 1);
    ledger_fini(&ledger);
}

static void what_is_skipped_behind_an_error_changes_nothing(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    parse(&ledger, spot(1, 0), "s", 1);
    parse(&ledger, spot(1, 1), "t", 2);
    assert_true(ledger_closed(&ledger, spot(1, 2), span_of("s")));
    parse(&ledger, spot(1, 3), "t", 0);
    parse(&ledger, spot(1, 4), "", 4);
    ledger_failed(&ledger, 1, 2); /* the Close */
    assert_int_equal(writes_of(&ledger, "s"), 1);
    assert_int_equal(writes_of(&ledger, "t"), 2);
    assert_int_equal(writes_of(&ledger, ""), 0);
    parse(&ledger, spot(1, 5), "s", 0); /* sent before the error was seen */
    ledger_ready(&ledger, 1);
    assert_int_equal(writes_of(&ledger, "s"), 1);
    parse(&ledger, spot(2, 0), "s", 0);
    ledger_ready(&ledger, 2);
    assert_int_equal(writes_of(&ledger, "s"), 0);
    ledger_fini(&ledger);
}

static void a_batch_behind_an_unanswered_change_is_in_doubt(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    parse(&ledger, spot(1, 0), "s", 1);
    assert_false(ledger_is_doubtful(&ledger, span_of("s"), 2)); /* this one, or none at all */
    ledger_ready(&ledger, 1);
    parse(&ledger, spot(2, 0), "s", 0);
    assert_false(ledger_is_doubtful(&ledger, span_of("s"), 2)); /* its own batch fails with it */
    assert_true(ledger_is_doubtful(&ledger, span_of("s"), 3));
    assert_false(ledger_is_doubtful(&ledger, span_of("t"), 3));
    parse(&ledger, spot(3, 0), "s", 1);
    assert_false(ledger_is_doubtful(&ledger, span_of("s"), 3));
    ledger_ready(&ledger, 2);
    ledger_ready(&ledger, 3);
    assert_false(ledger_is_doubtful(&ledger, span_of("s"), 4));
    assert_int_equal(writes_of(&ledger, "s"), 1);
    ledger_fini(&ledger);
}

/* --- statements that the server is given anew --- */

/* "s", which writes rule 0's table, judged while rule 0's key was computed. */
static void parse_kept(struct ledger *ledger, struct ledger_spot at)
{
    const uint32_t types[] = {23};
    struct ledger_source *source = ledger_source_new(ledger, span_of("INSERT"), types, 1);
    assert_non_null(source);
    assert_true(
        ledger_parsed(ledger, at, span_of("s"), &plain, identity,
                      &(struct ledger_statement){.writes = 1, .source = source, .computed = 1}));
    ledger_source_unref(ledger, source);
}

static void remake(struct ledger *ledger, struct ledger_spot at)
{
    const struct ledger_statement was = ledger_find(ledger, span_of("s"));
    assert_true(ledger_remade(ledger, at, span_of("s"), &was, &plain, identity,
                              &(struct ledger_statement){.writes = 1, .source = was.source}));
}

static void the_answers_to_a_remade_statement_are_known(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    parse_kept(&ledger, spot(1, 0));
    assert_string_equal(ledger_find(&ledger, span_of("s")).source->text, "INSERT");
    assert_int_equal(ledger_find(&ledger, span_of("s")).source->types[0], 23);
    ledger_ready(&ledger, 1);
    assert_false(ledger_has_own(&ledger));
    remake(&ledger, spot(2, 1));
    assert_true(ledger_has_own(&ledger));
    assert_false(ledger_find(&ledger, span_of("s")).is_gone);
    assert_int_equal(ledger_find(&ledger, span_of("s")).computed, 0);
    assert_false(ledger_is_own(&ledger, 2, 0));
    assert_true(ledger_is_own(&ledger, 2, 1));
    assert_true(ledger_is_own(&ledger, 2, 2));
    assert_false(ledger_is_own(&ledger, 2, 3));
    assert_false(ledger_has_own(&ledger));
    assert_string_equal(ledger_find(&ledger, span_of("s")).source->text, "INSERT");
    assert_true(ledger_closed(&ledger, spot(3, 0), span_of("s")));
    ledger_ready(&ledger, 3);
    assert_int_equal(ledger.source_bytes, 0);
    assert_true(ledger_is_empty(&ledger));
    ledger_fini(&ledger);
}

static void a_statement_that_could_not_be_remade_is_gone(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    parse_kept(&ledger, spot(1, 0));
    ledger_ready(&ledger, 1);
    remake(&ledger, spot(2, 0));
    assert_true(ledger_is_own(&ledger, 2, 0));
    ledger_failed(&ledger, 2, 1); /* the Parse */
    ledger_ready(&ledger, 2);
    assert_true(ledger_find(&ledger, span_of("s")).is_gone);
    assert_false(ledger_has_own(&ledger));
    remake(&ledger, spot(3, 0));
    ledger_ready(&ledger, 3);
    assert_false(ledger_find(&ledger, span_of("s")).is_gone);
    ledger_fini(&ledger);
    assert_int_equal(ledger.source_bytes, 0);
}

static void a_remaking_that_is_skipped_leaves_the_statement_as_it_was(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    parse_kept(&ledger, spot(1, 0));
    ledger_ready(&ledger, 1);
    remake(&ledger, spot(2, 1));
    ledger_failed(&ledger, 2, 0); /* what is ahead of it */
    assert_false(ledger_has_own(&ledger));
    remake(&ledger, spot(2, 4)); /* sent though the batch has failed */
    assert_false(ledger_has_own(&ledger));
    ledger_ready(&ledger, 2);
    assert_false(ledger_find(&ledger, span_of("s")).is_gone);
    assert_int_equal(ledger_find(&ledger, span_of("s")).computed, 1);
    ledger_fini(&ledger);
}

static void whether_it_was_remade_is_not_known_where_answers_are_not_counted(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    parse_kept(&ledger, spot(1, 0));
    ledger_ready(&ledger, 1);
    remake(&ledger, spot(3, 0));
    ledger_doubt(&ledger, 2, 2);
    ledger_ready(&ledger, 2);
    assert_true(ledger_find(&ledger, span_of("s")).is_gone);
    ledger_fini(&ledger);
}

static void the_texts_that_a_session_keeps_are_bounded(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    static char text[LEDGER_SOURCE_MAX];
    memset(text, 'x', sizeof text);
    assert_null(ledger_source_new(&ledger, (struct span){text, sizeof text}, NULL, 0));
    struct ledger_source *kept[LEDGER_SOURCES_MAX / (LEDGER_SOURCE_MAX / 2) + 1];
    size_t count = 0;
    while ((kept[count] = ledger_source_new(&ledger, (struct span){text, LEDGER_SOURCE_MAX / 2},
                                            NULL, 0)) != NULL) {
        count++;
        assert_in_range(count, 1, LEDGER_SOURCES_MAX / (LEDGER_SOURCE_MAX / 2));
    }
    assert_in_range(ledger.source_bytes, LEDGER_SOURCES_MAX / 2, LEDGER_SOURCES_MAX);
    while (count > 0) {
        ledger_source_unref(&ledger, kept[--count]);
    }
    assert_int_equal(ledger.source_bytes, 0);
}

static void statements_are_forgotten_when_the_server_deallocates_all(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    parse(&ledger, spot(1, 0), "s", 1);
    parse(&ledger, spot(1, 1), "t", 1);
    ledger_ready(&ledger, 1);
    parse(&ledger, spot(3, 0), "t", 2); /* sent behind it */
    ledger_deallocated(&ledger);
    assert_int_equal(writes_of(&ledger, "s"), 0);
    assert_int_equal(writes_of(&ledger, "t"), 2);
    ledger_failed(&ledger, 3, 0);
    assert_true(ledger_is_empty(&ledger));
    ledger_fini(&ledger);
}

static void what_may_stay_without_an_answer_is_not_missed(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    parse(&ledger, spot(1, 0), "s", 1);
    parse(&ledger, spot(1, 1), "t", 1);
    ledger_ready(&ledger, 1);
    parse(&ledger, spot(3, 0), "s", 0);
    parse(&ledger, spot(4, 0), "t", 2);
    ledger_recount(&ledger, 2);
    ledger_failed(&ledger, 2, 0);
    assert_int_equal(writes_of(&ledger, "s") & 1, 1);
    assert_int_equal(writes_of(&ledger, "t") & 3, 3);
    ledger_fini(&ledger);
}

static void more_changes_than_the_bound_miss_no_write(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    for (uint32_t i = 0; i < 3 * LEDGER_CHANGES_MAX; i++) {
        parse(&ledger, spot(1, i), "", i % 2);
    }
    assert_true(ledger_is_behind(&ledger));
    assert_true(ledger.change_room <= LEDGER_CHANGES_MAX);
    assert_int_equal(writes_of(&ledger, ""), 1);
    parse(&ledger, spot(2, 0), "s", 2);
    assert_int_equal(writes_of(&ledger, "s"), 3);
    ledger_answered(&ledger, 1, LEDGER_CHANGES_MAX / 2);
    assert_false(ledger_is_behind(&ledger));
    ledger_ready(&ledger, 2);
    assert_int_equal(ledger.change_room, 0);
    ledger_fini(&ledger);
}

static void a_deallocate_names_its_statement_as_the_server_reads_it(void **state)
{
    (void)state;
    static const struct {
        const char *text, *name;
    } cases[] = {
        {"DEALLOCATE s", "s"},
        {" deallocate\n\tPrepare  Stmt_1 ; ", "stmt_1"},
        {"DEALLOCATE \"_pg3_12\"", "_pg3_12"},
        {"DEALLOCATE PREPARE \"A\"\"b c\";", "A\"b c"},
        {"DEALLOCATE ALL", NULL},
        {"DEALLOCATE \"all\"", "all"},
        {"DEALLOCATE s; SELECT 1", NULL},
        {"DEALLOCATE", NULL},
        {"DEALLOCATE \"s", NULL},
        {"DEALLOCATE U&\"s\"", NULL},
        {"DEALLOCATE /* s */ t", NULL},
        {"SELECT 1", NULL},
        {"", NULL},
    };
    char room[DEALLOCATE_NAME_MAX];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct span name;
        const bool is_read = deallocate_read(span_of(cases[i].text), room, &name);
        assert_int_equal(is_read, cases[i].name != NULL);
        if (is_read) {
            assert_int_equal(name.len, strlen(cases[i].name));
            assert_memory_equal(name.ptr, cases[i].name, name.len);
        }
    }
}

/* --- places --- */

static struct position_map *new_map(void)
{
    static const struct kept_text kept[] = {{1, 3, 0}};
    const struct verdict edit = {
        .action = VERDICT_EDIT, .text = "bc", .text_len = 2, .kept = kept, .kept_count = 1};
    struct position_map *map = position_map_new(&edit, "abc", 3, CHARACTERS_BYTES);
    assert_ptr_not_equal(map, &position_map_unknown);
    return map;
}

static void an_error_is_about_the_text_of_its_message(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    struct position_map *a = new_map(), *b = new_map();
    ledger_place(&ledger, 2, 0, NULL); /* nothing to remember */
    assert_false(ledger_has_places(&ledger, 2));
    ledger_place(&ledger, 2, 1, a);
    ledger_place(&ledger, 2, 2, a);
    ledger_place(&ledger, 2, 4, NULL);
    ledger_place(&ledger, 2, 6, b);
    ledger_place(&ledger, 3, 0, NULL);
    ledger_place(&ledger, 4, 0, b);
    assert_int_equal(ledger.place_count, 4);
    position_map_unref(a);
    position_map_unref(b);
    const struct position_map *const expected[] = {NULL, a, a, a, NULL, NULL, b, b};
    for (uint32_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        assert_ptr_equal(ledger_placed(&ledger, 2, i), expected[i]);
        assert_null(ledger_placed(&ledger, 3, i));
        assert_ptr_equal(ledger_placed(&ledger, 4, i), b);
    }
    ledger_ready(&ledger, 2);
    assert_null(ledger_placed(&ledger, 2, 1));
    assert_ptr_equal(ledger_placed(&ledger, 4, 0), b);
    ledger_ready(&ledger, 4);
    assert_false(ledger_has_places(&ledger, 5));
    ledger_fini(&ledger);
}

static void places_are_bounded_and_then_unknown(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    struct position_map *map = new_map();
    const uint64_t last = LEDGER_PLACES_MAX + 10;
    for (uint64_t sync = 1; sync <= last; sync++) {
        ledger_place(&ledger, sync, 0, map);
    }
    assert_true(ledger.place_count <= LEDGER_PLACES_MAX);
    assert_ptr_equal(ledger_placed(&ledger, last, 0), &position_map_unknown);
    ledger_ready(&ledger, last - 1);
    assert_ptr_equal(ledger_placed(&ledger, last, 0), &position_map_unknown);
    assert_null(ledger_placed(&ledger, last + 1, 0));
    ledger_ready(&ledger, last);
    ledger_place(&ledger, last + 1, 0, map);
    assert_ptr_equal(ledger_placed(&ledger, last + 1, 0), map);
    position_map_unref(map);
    ledger_fini(&ledger);
}

static void a_batch_that_is_counted_again_has_no_places(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    struct position_map *map = new_map();
    const struct verdict verdict = {.action = VERDICT_EDIT};
    ledger_recount(&ledger, 1);
    assert_null(ledger_placed(&ledger, 2, 0)); /* no text was ever edited */
    assert_true(ledger_parsed(&ledger, first, span_of("s"), &verdict, identity,
                              &(struct ledger_statement){.map = map}));
    ledger_place(&ledger, 1, 0, map);
    ledger_place(&ledger, 2, 0, map);
    ledger_recount(&ledger, 1);
    assert_int_equal(ledger.place_count, 1);
    assert_ptr_equal(ledger_placed(&ledger, 2, 0), &position_map_unknown);
    assert_null(ledger_placed(&ledger, 3, 0));
    ledger_place(&ledger, 3, 0, map);
    ledger_skip(&ledger, 3, 3);
    assert_null(ledger_placed(&ledger, 4, 0));
    ledger_skip(&ledger, 2, 3); /* the answers for 3 may come, and look like those for 4 */
    assert_ptr_equal(ledger_placed(&ledger, 4, 0), &position_map_unknown);
    position_map_unref(map);
    ledger_fini(&ledger);
}

static void a_map_is_found_with_its_statement(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    struct position_map *map = new_map();
    const struct verdict edit = {.action = VERDICT_EDIT};
    assert_true(ledger_parsed(&ledger, first, span_of("s"), &edit, identity,
                              &(struct ledger_statement){.map = map}));
    assert_true(ledger_parsed(&ledger, first, span_of(""), &edit, identity,
                              &(struct ledger_statement){.map = map}));
    assert_ptr_equal(ledger_find(&ledger, span_of("s")).map, map);
    assert_ptr_equal(ledger_find(&ledger, span_of("")).map, map);
    assert_null(ledger_find(&ledger, span_of("other")).map);
    ledger_bound(&ledger, map);
    assert_true(ledger_closed(&ledger, first, span_of("s")));
    assert_true(ledger_closed(&ledger, first, span_of("")));
    ledger_ready(&ledger, 1);
    assert_true(ledger_has_edited(&ledger)); /* the portal */
    ledger_bound(&ledger, NULL);
    assert_true(ledger_is_empty(&ledger));
    char name[16];
    for (int i = 0; i <= LEDGER_NAMES_MAX; i++) {
        snprintf(name, sizeof name, "s%d", i);
        assert_true(ledger_parsed(&ledger, first, span_of(name), &edit, identity,
                                  &(struct ledger_statement){.map = map}));
        ledger_ready(&ledger, 1);
    }
    assert_ptr_equal(ledger_find(&ledger, span_of(name)).map, &position_map_unknown);
    assert_ptr_equal(ledger_find(&ledger, span_of("s1")).map, map);
    position_map_unref(map);
    ledger_fini(&ledger);
}

static void registry_forgets_what_was_removed(void **state)
{
    (void)state;
    struct registry *registry = registry_new();
    struct registry_key key = {.len = 8, .bytes = "pid1key1"};
    struct registry_entry entry = {.worker = 1, .session = 7};
    struct registry_entry found;
    assert_true(registry_put(registry, &key, &entry));
    assert_true(registry_find(registry, &key, &found));
    assert_int_equal(found.session, 7);
    assert_false(found.held);
    registry_set_held(registry, &key, true);
    assert_true(registry_find(registry, &key, &found));
    assert_true(found.held);
    key.bytes[0] = 'x';
    assert_false(registry_find(registry, &key, &found));
    key.bytes[0] = 'p';
    registry_remove(registry, &key);
    assert_false(registry_find(registry, &key, &found));
    registry_free(registry);
}

static void count_wakes(void *arg)
{
    (*(int *)arg)++;
}

static void a_hold_ends_with_its_time_to_live(void **state)
{
    (void)state;
    int wakes = 0;
    struct gate *gate = gate_new("chunks");
    gate_on_change(gate, count_wakes, &wakes);
    assert_false(gate_is_holding(gate, gate_now()));
    gate_arm(gate);
    assert_false(gate_is_holding(gate, gate_now()));
    gate_hold(gate, 1000000000);
    uint64_t now = gate_now();
    assert_true(gate_is_holding(gate, now));
    assert_false(gate_is_holding(gate, now + 1000000001));
    gate_open(gate);
    assert_false(gate_is_holding(gate, now));
    assert_int_equal(wakes, 3);
    gate_free(gate);
}

static void counts_are_summed_over_workers(void **state)
{
    (void)state;
    struct gate *gate = gate_new("chunks");
    struct gate_counts counts;
    gate_add(gate, 0, GATE_COUNT_INFLIGHT, 2);
    gate_add(gate, 63, GATE_COUNT_INFLIGHT, 1);
    gate_add(gate, 0, GATE_COUNT_INFLIGHT, -1);
    gate_note_wait(gate, 3, 50);
    gate_note_wait(gate, 4, 20);
    gate_count(gate, &counts);
    assert_int_equal(counts.inflight_writes, 2);
    assert_int_equal(counts.held, 0);
    assert_int_equal(counts.max_held_ns, 50);
    gate_free(gate);
}

/* The straightforward search that mentions() must agree with. */
static bool stands_in(const char *text, size_t len, const char *word)
{
    for (size_t at = 0; at + strlen(word) <= len; at++) {
        if (strncasecmp(text + at, word, strlen(word)) == 0) {
            return true;
        }
    }
    return false;
}

static void a_word_is_found_wherever_it_stands(void **state)
{
    (void)state;
    char text[100];
    for (size_t len = 0; len <= sizeof text; len++) {
        for (size_t at = 0; at + 9 <= len; at++) {
            memset(text, 'i', sizeof text);
            memcpy(text + at, at % 2 == 0 ? "isolation" : "ISOLation", 9);
            assert_true(mentions(text, len, "isolation"));
            assert_int_equal(mentions(text, len - 1, "isolation"), at + 9 <= len - 1);
            text[at + 5] = 'x';
            assert_false(mentions(text, len, "isolation"));
        }
    }
    assert_false(mentions("", 0, "isolation"));
    assert_false(mentions("isolatio", 8, "isolation"));
}

static void what_only_looks_like_a_letter_does_not_match(void **state)
{
    (void)state;
    /* bytes that differ from the letters by 0x20 only where that changes no letter's case */
    char text[] = "xxxxxxxxISOLATION\x0exxxxxxxxxxxxxxxxxxx";
    for (int byte = 1; byte < 256; byte++) {
        text[12] = (char)byte;
        assert_int_equal(mentions(text, sizeof text - 1, "isolation"),
                         stands_in(text, sizeof text - 1, "isolation"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_error_is_the_answer_only_by_its_mark_and_its_batch),
        cmocka_unit_test(ids_that_begin_alike_are_told_apart),
        cmocka_unit_test(refusals_are_bounded),
        cmocka_unit_test(a_batch_has_one_refusal),
        cmocka_unit_test(names_are_told_apart_by_their_first_63_bytes),
        cmocka_unit_test(statements_are_found_by_name_until_closed),
        cmocka_unit_test(more_statements_than_the_bound_count_as_writes),
        cmocka_unit_test(a_failed_parse_leaves_the_statement_that_is_there),
        cmocka_unit_test(what_is_skipped_behind_an_error_changes_nothing),
        cmocka_unit_test(a_batch_behind_an_unanswered_change_is_in_doubt),
        cmocka_unit_test(the_answers_to_a_remade_statement_are_known),
        cmocka_unit_test(a_statement_that_could_not_be_remade_is_gone),
        cmocka_unit_test(a_remaking_that_is_skipped_leaves_the_statement_as_it_was),
        cmocka_unit_test(whether_it_was_remade_is_not_known_where_answers_are_not_counted),
        cmocka_unit_test(the_texts_that_a_session_keeps_are_bounded),
        cmocka_unit_test(statements_are_forgotten_when_the_server_deallocates_all),
        cmocka_unit_test(what_may_stay_without_an_answer_is_not_missed),
        cmocka_unit_test(more_changes_than_the_bound_miss_no_write),
        cmocka_unit_test(a_deallocate_names_its_statement_as_the_server_reads_it),
        cmocka_unit_test(an_error_is_about_the_text_of_its_message),
        cmocka_unit_test(places_are_bounded_and_then_unknown),
        cmocka_unit_test(a_batch_that_is_counted_again_has_no_places),
        cmocka_unit_test(a_map_is_found_with_its_statement),
        cmocka_unit_test(registry_forgets_what_was_removed),
        cmocka_unit_test(a_word_is_found_wherever_it_stands),
        cmocka_unit_test(what_only_looks_like_a_letter_does_not_match),
        cmocka_unit_test(a_hold_ends_with_its_time_to_live),
        cmocka_unit_test(counts_are_summed_over_workers),
    };
    return cmocka_run_group_tests_name("session", tests, NULL, NULL);
}

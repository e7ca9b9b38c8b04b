/* The protocol room: framing, the reading cursor, the writer, startup packets, single messages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "protocol/bytes.h"
#include "protocol/frame.h"
#include "protocol/message.h"
#include "protocol/startup.h"

#define BYTES(literal) ((const uint8_t *)(literal)), sizeof(literal) - 1

static void assert_span(struct span s, const char *text)
{
    assert_int_equal(s.len, strlen(text));
    assert_memory_equal(s.ptr, text, s.len);
}

static void reader_fails_sticky(void **state)
{
    (void)state;
    struct reader r = reader_of(BYTES("\x01\x02\x03"));
    assert_int_equal(reader_u16(&r), 0x0102);
    assert_int_equal(reader_u32(&r), 0);
    assert_false(r.ok);
    assert_int_equal(reader_u8(&r), 0);
    assert_int_equal(reader_cstr(&r).len, 0);
    assert_false(reader_done(&r));
}

static void reader_takes_strings_up_to_their_nul(void **state)
{
    (void)state;
    struct reader r = reader_of(BYTES("ab\0\0c"));
    assert_span(reader_cstr(&r), "ab");
    assert_span(reader_cstr(&r), "");
    reader_cstr(&r); /* "c" has no NUL */
    assert_false(r.ok);
}

static void writer_stops_at_its_cap(void **state)
{
    (void)state;
    struct writer w;
    writer_init(&w, 8);
    writer_begin(&w, 'Q');
    writer_bytes(&w, "abc", 3);
    writer_end(&w);
    assert_true(w.ok);
    assert_int_equal(w.len, 8);
    assert_memory_equal(w.bytes,
                        "Q\0\0\0\x07"
                        "abc",
                        8);
    writer_u8(&w, 1);
    assert_false(w.ok);
    writer_fini(&w);
}

static void lengths_outside_the_bounds_are_invalid(void **state)
{
    (void)state;
    assert_false(frame_length_valid(0));
    assert_false(frame_length_valid(3));
    assert_true(frame_length_valid(4));
    assert_true(frame_length_valid(FRAME_LENGTH_MAX));
    assert_false(frame_length_valid(FRAME_LENGTH_MAX + 1));
    assert_false(frame_length_valid(0x80000000u));
    assert_false(frame_length_valid(UINT32_MAX));
}

static void message_types_belong_to_a_side(void **state)
{
    (void)state;
    assert_true(frame_type_known(FRAME_FRONTEND, 'Q'));
    assert_true(frame_type_known(FRAME_FRONTEND, 'p'));
    assert_false(frame_type_known(FRAME_FRONTEND, 'Z'));
    assert_false(frame_type_known(FRAME_FRONTEND, 0));
    assert_true(frame_type_known(FRAME_BACKEND, 'Z'));
    assert_false(frame_type_known(FRAME_BACKEND, 'Q'));
}

static void startup_waits_for_the_whole_packet(void **state)
{
    (void)state;
    const uint8_t packet[] = "\0\0\0\x13\0\x03\0\0user\0bob\0\0";
    for (size_t len = 0; len < 19 - 1; len++) {
        assert_int_equal(startup_read(packet, len).kind, STARTUP_INCOMPLETE);
    }
}

static void startup_reads_its_parameters(void **state)
{
    (void)state;
    uint8_t packet[128] = {0};
    const char body[] = "user\0bob\0database\0app\0application_name\0x\0options\0-c a=b\0";
    store_u32(packet, (uint32_t)(8 + sizeof body));
    store_u32(packet + 4, 3u << 16);
    memcpy(packet + 8, body, sizeof body);
    struct startup s = startup_read(packet, 8 + sizeof body);
    assert_int_equal(s.kind, STARTUP_PROTOCOL_3);
    assert_int_equal(s.size, 8 + sizeof body);
    assert_span(s.user, "bob");
    assert_span(s.database, "app");
    assert_span(s.application_name, "x");
    assert_span(s.options, "-c a=b");
    assert_int_equal(s.replication.len, 0);
}

static void startup_survives_parameters_without_an_end(void **state)
{
    (void)state;
    struct startup s = startup_read(BYTES("\0\0\0\x0f\0\x03\0\0user\0ab"));
    assert_int_equal(s.kind, STARTUP_PROTOCOL_3);
    assert_int_equal(s.user.len, 0);
}

static void startup_refuses_impossible_lengths(void **state)
{
    (void)state;
    assert_int_equal(startup_read(BYTES("\0\0\0\x07\0\x03\0\0")).kind, STARTUP_INVALID);
    assert_int_equal(startup_read(BYTES("\0\0\0\0\0\0\0\0")).kind, STARTUP_INVALID);
    assert_int_equal(startup_read(BYTES("\0\0\x27\x11\0\x03\0\0")).kind, STARTUP_INVALID);
    assert_int_equal(startup_read(BYTES("\xff\xff\xff\xff\0\x03\0\0")).kind, STARTUP_INVALID);
    assert_int_equal(startup_read(BYTES("GET / HTTP/1.1")).kind, STARTUP_INVALID);
}

static void startup_tells_the_requests_apart(void **state)
{
    (void)state;
    assert_int_equal(startup_read(BYTES("\0\0\0\x08\x04\xd2\x16\x2f")).kind, STARTUP_SSL);
    assert_int_equal(startup_read(BYTES("\0\0\0\x08\x04\xd2\x16\x30")).kind, STARTUP_GSSENC);
    assert_int_equal(startup_read(BYTES("\0\0\0\x09\x04\xd2\x16\x2f\0")).kind, STARTUP_INVALID);
    assert_int_equal(startup_read(BYTES("\0\0\0\x09\0\x02\0\0\0")).kind, STARTUP_PROTOCOL_OTHER);
}

static void cancel_keys_of_any_permitted_length_are_read(void **state)
{
    (void)state;
    uint8_t packet[4 + 4 + 4 + CANCEL_KEY_MAX + 1] = {0};
    for (size_t key = 0; key <= CANCEL_KEY_MAX + 1; key++) {
        store_u32(packet, (uint32_t)(12 + key));
        store_u32(packet + 4, 1234u << 16 | 5678u);
        store_u32(packet + 8, 77);
        struct startup s = startup_read(packet, 12 + key);
        if (key >= 4 && key <= CANCEL_KEY_MAX) {
            assert_int_equal(s.kind, STARTUP_CANCEL);
            assert_int_equal(s.cancel_pid, 77);
            assert_int_equal(s.cancel_key.len, key);
        } else {
            assert_int_equal(s.kind, STARTUP_CANCEL_INVALID);
        }
    }
}

#define NAMED_AHEAD "user\0me\0application_name\0"
#define NAMED_BEHIND "\0options\0-c a=b\0\0"

static void check_named(const uint8_t *packet, size_t size, const uint8_t *expected, size_t len)
{
    struct writer w;
    writer_init(&w, STARTUP_LENGTH_MAX);
    assert_true(startup_write_application_name(&w, packet, size, "psql - 192.0.2.7:1"));
    assert_int_equal(w.len, len);
    assert_memory_equal(w.bytes, expected, len);
    writer_fini(&w);
}

static void startup_is_given_another_application_name(void **state)
{
    (void)state;
    check_named(BYTES("\0\0\0\x36\0\3\0\0" NAMED_AHEAD "psql" NAMED_BEHIND),
                BYTES("\0\0\0\x44\0\3\0\0" NAMED_AHEAD "psql - 192.0.2.7:1" NAMED_BEHIND));
    /* an empty one is one */
    check_named(BYTES("\0\0\0\x32\0\3\0\0" NAMED_AHEAD "" NAMED_BEHIND),
                BYTES("\0\0\0\x44\0\3\0\0" NAMED_AHEAD "psql - 192.0.2.7:1" NAMED_BEHIND));
    /* of two the server takes the last */
    check_named(BYTES("\0\0\0\x49\0\3\0\0application_name\0first\0" NAMED_AHEAD "" NAMED_BEHIND),
                BYTES("\0\0\0\x5b\0\3\0\0application_name\0first\0" NAMED_AHEAD
                      "psql - 192.0.2.7:1" NAMED_BEHIND));
}

static void startup_without_a_name_is_given_one(void **state)
{
    (void)state;
    check_named(BYTES("\0\0\0\x11\0\3\0\2user\0me\0\0"),
                BYTES("\0\0\0\x35\0\3\0\2user\0me\0application_name\0psql - 192.0.2.7:1\0\0"));
}

static void check_not_named(const uint8_t *packet, size_t size, const char *name)
{
    struct writer w;
    writer_init(&w, STARTUP_LENGTH_MAX);
    assert_false(startup_write_application_name(&w, packet, size, name));
    writer_fini(&w);
}

static void startup_that_is_malformed_or_would_be_too_long_stays(void **state)
{
    (void)state;
    check_not_named(BYTES("\0\0\0\x10\0\3\0\0user\0me\0"), "x");     /* no end */
    check_not_named(BYTES("\0\0\0\x12\0\3\0\0user\0me\0\0\0"), "x"); /* something behind it */
    check_not_named(BYTES("\0\0\0\x10\0\3\0\0user\0me\0\0"), "x");   /* more than the packet */
    check_not_named(BYTES("\0\0\0\x08\x04\xd2\x16\x2f"), "x");       /* an SSLRequest */
    char name[STARTUP_LENGTH_MAX] = "";
    memset(name, 'x', STARTUP_LENGTH_MAX - 34);
    check_not_named(BYTES("\0\0\0\x11\0\3\0\0user\0me\0\0"), name);
    name[STARTUP_LENGTH_MAX - 35] = '\0'; /* one byte less, and it just fits */
    struct writer w;
    writer_init(&w, STARTUP_LENGTH_MAX);
    assert_true(startup_write_application_name(&w, BYTES("\0\0\0\x11\0\3\0\0user\0me\0\0"), name));
    assert_int_equal(w.len, STARTUP_LENGTH_MAX);
    writer_fini(&w);
}

static void query_with_a_nul_inside_is_malformed(void **state)
{
    (void)state;
    struct span query;
    assert_true(message_read_query(BYTES("Q\0\0\0\x07"
                                         "ab\0"),
                                   &query));
    assert_span(query, "ab");
    assert_false(message_read_query(BYTES("Q\0\0\0\x08"
                                          "a\0b\0"),
                                    &query));
    assert_false(message_read_query(BYTES("Q\0\0\0\x06"
                                          "ab"),
                                    &query));
}

static void parse_reads_back_what_was_written(void **state)
{
    (void)state;
    const uint32_t types[] = {0, 23, 0xfffffffe};
    struct writer w;
    writer_init(&w, 1024);
    message_write_parse(&w, (struct span){"s1", 2}, "SELECT 1", 8, types, 3);
    assert_true(w.ok);
    struct message_parse p;
    assert_true(message_read_parse(w.bytes, w.len, &p));
    assert_span(p.name, "s1");
    assert_span(p.query, "SELECT 1");
    assert_int_equal(p.type_count, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(load_u32(p.types + 4 * i), types[i]);
    }
    for (size_t len = FRAME_HEADER; len < w.len; len++) {
        assert_false(message_read_parse(w.bytes, len, &p));
    }
    writer_fini(&w);
}

static void a_query_begun_goes_on_as_one_that_is_written(void **state)
{
    (void)state;
    struct writer whole, begun;
    writer_init(&whole, 100);
    writer_init(&begun, 100);
    message_write_query(&whole, "SELECT 1", 8);
    message_begin_query(&begun, 8);
    assert_true(begun.ok && begun.len == 5);
    assert_memory_equal(begun.bytes, whole.bytes, begun.len);
    assert_string_equal((const char *)whole.bytes + begun.len, "SELECT 1");
    writer_fini(&whole);
    writer_fini(&begun);
}

static void error_reads_back_what_was_written(void **state)
{
    (void)state;
    struct writer w;
    writer_init(&w, 1024);
    message_write_error(&w, &(struct message_error){.severity = "ERROR",
                                                    .severity_code = "ERROR",
                                                    .sqlstate = "428C9",
                                                    .message = "no",
                                                    .hint = "do"});
    struct message_error e;
    assert_true(message_read_error(w.bytes, w.len, &e));
    assert_string_equal(e.sqlstate, "428C9");
    assert_string_equal(e.message, "no");
    assert_null(e.detail);
    assert_string_equal(e.hint, "do");
    assert_false(message_read_error(w.bytes, w.len - 1, &e));
    writer_fini(&w);
}

static void an_error_is_given_another_position_and_keeps_all_else(void **state)
{
    (void)state;
    static const char error[] = "E\0\0\0\x20SERROR\0VERROR\0C42703\0P17\0q\0\0";
    static const char moved[] = "E\0\0\0\x22SERROR\0VERROR\0C42703\0P4711\0q\0\0";
    static const char without[] = "E\0\0\0\x1cSERROR\0VERROR\0C42703\0q\0\0";
    struct writer w;
    writer_init(&w, 1024);
    message_write_moved(&w, BYTES(error), "4711");
    assert_int_equal(w.len, sizeof moved - 1);
    assert_memory_equal(w.bytes, moved, w.len);
    w.len = 0;
    message_write_moved(&w, BYTES(error), NULL);
    assert_int_equal(w.len, sizeof without - 1);
    assert_memory_equal(w.bytes, without, w.len);
    writer_fini(&w);
}

static void the_portal_of_bind_and_execute_is_read(void **state)
{
    (void)state;
    struct span name;
    assert_true(message_read_portal(BYTES("B\0\0\0\x0ep1\0s1\0\0\0\0"), &name));
    assert_span(name, "p1");
    assert_true(message_read_portal(BYTES("E\0\0\0\x09\0\0\0\0\0"), &name));
    assert_span(name, "");
    assert_false(message_read_portal(BYTES("E\0\0\0\x06p1"), &name));
}

static void close_of_a_portal_names_no_statement(void **state)
{
    (void)state;
    struct span name;
    assert_true(message_read_close(BYTES("C\0\0\0\x08Ss1\0"), &name));
    assert_span(name, "s1");
    assert_false(message_read_close(BYTES("C\0\0\0\x08Ps1\0"), &name));
}

static void a_row_has_the_values_that_it_says(void **state)
{
    (void)state;
    struct message_values row;
    struct message_value value;
    assert_true(message_read_row(BYTES("D\0\0\0\x12\0\x02\0\0\0\x04"
                                       "1min\xff\xff\xff\xff"),
                                 &row));
    assert_true(message_next_value(&row, &value));
    assert_span(value.bytes, "1min");
    assert_true(message_next_value(&row, &value));
    assert_true(value.is_null);
    assert_false(message_next_value(&row, &value));
    assert_false(message_read_row(BYTES("D\0\0\0\x0c\0\x02\0\0\0\x02xx"), &row));
    assert_false(message_read_row(BYTES("D\0\0\0\x07\0\0x"), &row));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reader_fails_sticky),
        cmocka_unit_test(reader_takes_strings_up_to_their_nul),
        cmocka_unit_test(writer_stops_at_its_cap),
        cmocka_unit_test(lengths_outside_the_bounds_are_invalid),
        cmocka_unit_test(message_types_belong_to_a_side),
        cmocka_unit_test(startup_waits_for_the_whole_packet),
        cmocka_unit_test(startup_reads_its_parameters),
        cmocka_unit_test(startup_survives_parameters_without_an_end),
        cmocka_unit_test(startup_refuses_impossible_lengths),
        cmocka_unit_test(startup_tells_the_requests_apart),
        cmocka_unit_test(cancel_keys_of_any_permitted_length_are_read),
        cmocka_unit_test(startup_is_given_another_application_name),
        cmocka_unit_test(startup_without_a_name_is_given_one),
        cmocka_unit_test(startup_that_is_malformed_or_would_be_too_long_stays),
        cmocka_unit_test(query_with_a_nul_inside_is_malformed),
        cmocka_unit_test(parse_reads_back_what_was_written),
        cmocka_unit_test(a_query_begun_goes_on_as_one_that_is_written),
        cmocka_unit_test(error_reads_back_what_was_written),
        cmocka_unit_test(an_error_is_given_another_position_and_keeps_all_else),
        cmocka_unit_test(a_row_has_the_values_that_it_says),
        cmocka_unit_test(the_portal_of_bind_and_execute_is_read),
        cmocka_unit_test(close_of_a_portal_names_no_statement),
    };
    return cmocka_run_group_tests_name("protocol", tests, NULL, NULL);
}

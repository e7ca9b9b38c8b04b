/* PROXY protocol headers: what they name, what is refused, and that no byte too many is asked for.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "protocol/proxy_header.h"

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define HEADER(rest) ((const uint8_t *)(SIGNATURE rest)), (sizeof(SIGNATURE rest) - 1)
#define BYTES(literal) ((const uint8_t *)(literal)), sizeof(literal) - 1

#define TCP4 "\x21\x11\x00\x0c\xc0\x00\x02\x07\x0a\x00\x00\x01\xd4\x31\x15\x38"

static void a_tcp4_header_names_its_source(void **state)
{
    (void)state;
    struct proxy_header h = proxy_header_read(HEADER(TCP4 "\0\0\0\x08"));
    assert_int_equal(h.kind, PROXY_HEADER_TCP4);
    assert_int_equal(h.size, 28); /* what comes behind is not the header's */
    assert_memory_equal(h.address, "\xc0\x00\x02\x07", 4);
    assert_int_equal(h.port, 54321);
}

static void a_tcp6_header_names_its_source(void **state)
{
    (void)state;
    struct proxy_header h = proxy_header_read(HEADER("\x21\x21\x00\x24"
                                                     "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07"
                                                     "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"
                                                     "\x15\x38\x00\x50"));
    assert_int_equal(h.kind, PROXY_HEADER_TCP6);
    assert_int_equal(h.size, 52);
    assert_memory_equal(h.address, "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07", 16);
    assert_int_equal(h.port, 5432);
}

static void a_unix_header_is_read_over(void **state)
{
    (void)state;
    uint8_t header[16 + 216] = SIGNATURE "\x21\x31\x00\xd8/run/client";
    struct proxy_header h = proxy_header_read(header, sizeof header);
    assert_int_equal(h.kind, PROXY_HEADER_UNIX);
    assert_int_equal(h.size, sizeof header);
}

static void local_and_unspecified_headers_name_nobody(void **state)
{
    (void)state;
    /* a health check of HAProxy's */
    struct proxy_header h = proxy_header_read(HEADER("\x20\x00\x00\x00"));
    assert_int_equal(h.kind, PROXY_HEADER_LOCAL);
    assert_int_equal(h.size, 16);
    /* with whatever it says besides, a family that does not exist and half a field included */
    h = proxy_header_read(HEADER("\x20\x7f\x00\x02\xff\xff"));
    assert_int_equal(h.kind, PROXY_HEADER_LOCAL);
    assert_int_equal(h.size, 18);
    h = proxy_header_read(HEADER("\x21\x00\x00\x03"
                                 "abc"));
    assert_int_equal(h.kind, PROXY_HEADER_LOCAL);
    assert_int_equal(h.size, 19);
}

static void fields_are_read_over_within_the_header(void **state)
{
    (void)state;
    /* an authority "db" and four bytes of nothing */
    struct proxy_header h =
        proxy_header_read(HEADER("\x21\x11\x00\x18\xc0\x00\x02\x07\x0a\x00\x00\x01\xd4\x31\x15\x38"
                                 "\x02\x00\x02"
                                 "db"
                                 "\x04\x00\x04\0\0\0\0"));
    assert_int_equal(h.kind, PROXY_HEADER_TCP4);
    assert_int_equal(h.size, 40);
    h = proxy_header_read(HEADER("\x21\x11\x00\x10\xc0\x00\x02\x07\x0a\x00\x00\x01\xd4\x31\x15\x38"
                                 "\x02\x00\x02"
                                 "d"
                                 "bcd"));
    assert_int_equal(h.kind, PROXY_HEADER_INVALID);
    assert_string_equal(h.why, "a field ends outside of it");
    h = proxy_header_read(HEADER("\x21\x11\x00\x0e\xc0\x00\x02\x07\x0a\x00\x00\x01\xd4\x31\x15\x38"
                                 "\x02\x00"));
    assert_int_equal(h.kind, PROXY_HEADER_INVALID);
    assert_string_equal(h.why, "a field is cut");
}

/* The checksum of the test's own header, from another implementation of CRC32c. */
#define CHECKED(crc)                                                                               \
    "\x21\x11\x00\x13\xc0\x00\x02\x07\x0a\x00\x00\x01\xd4\x31\x15\x38\x03\x00\x04" crc

static void a_checksum_must_be_right(void **state)
{
    (void)state;
    struct proxy_header h = proxy_header_read(HEADER(CHECKED("\x10\x12\xe0\x6a")));
    assert_int_equal(h.kind, PROXY_HEADER_TCP4);
    h = proxy_header_read(HEADER(CHECKED("\x00\x00\x00\x00")));
    assert_int_equal(h.kind, PROXY_HEADER_INVALID);
    assert_string_equal(h.why, "the checksum does not fit");
    h = proxy_header_read(HEADER("\x21\x11\x00\x10\xc0\x00\x02\x07\x0a\x00\x00\x01\xd4\x31\x15\x38"
                                 "\x03\x00\x01\x00"));
    assert_int_equal(h.kind, PROXY_HEADER_INVALID);
}

static void what_the_specification_does_not_know_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *head;
        const char *why;
    } cases[] = {
        {"\x31\x11\x00\x0c", "its version is unknown"},
        {"\x11\x11\x00\x0c", "its version is unknown"},
        {"\x22\x11\x00\x0c", "its command is unknown"},
        {"\x21\x12\x00\x0c", "its family is unknown, or not that of a stream"}, /* UDP */
        {"\x21\x41\x00\x0c", "its family is unknown, or not that of a stream"},
        {"\x21\x10\x00\x0c", "its family is unknown, or not that of a stream"},
        {"\x21\x21\x00\x0c", "it is too short for its addresses"},
        {"\x21\x31\x00\x0c", "it is too short for its addresses"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t header[28] = SIGNATURE;
        memcpy(header + 12, cases[i].head, 4);
        struct proxy_header h = proxy_header_read(header, sizeof header);
        assert_int_equal(h.kind, PROXY_HEADER_INVALID);
        assert_string_equal(h.why, cases[i].why);
    }
    struct proxy_header h = proxy_header_read(HEADER("\x21\x11\x00\x0b\xc0\0\0\1\0\0\0\0\0\0\0"));
    assert_int_equal(h.kind, PROXY_HEADER_INVALID);
}

static void too_long_a_header_is_refused_before_it_is_read(void **state)
{
    (void)state;
    struct proxy_header h = proxy_header_read(HEADER("\x21\x11\x1f\xf0"));
    assert_int_equal(h.kind, PROXY_HEADER_INCOMPLETE);
    assert_int_equal(h.size, PROXY_HEADER_MAX);
    h = proxy_header_read(HEADER("\x21\x11\x1f\xf1"));
    assert_int_equal(h.kind, PROXY_HEADER_INVALID);
    assert_string_equal(h.why, "it is too long");
}

static void a_header_may_come_byte_by_byte(void **state)
{
    (void)state;
    static const uint8_t header[] = SIGNATURE TCP4;
    size_t size = sizeof header - 1;
    for (size_t len = 0; len < size; len++) {
        struct proxy_header h = proxy_header_read(header, len);
        assert_int_equal(h.kind, PROXY_HEADER_INCOMPLETE);
        assert_int_equal(h.size, len < 16 ? 16 : 28);
    }
    assert_int_equal(proxy_header_read(header, size).kind, PROXY_HEADER_TCP4);
}

static void another_beginning_is_told_at_its_first_byte(void **state)
{
    (void)state;
    assert_int_equal(proxy_header_read(BYTES("\0")).kind, PROXY_HEADER_MISSING);
    assert_int_equal(proxy_header_read(BYTES("\x16")).kind, PROXY_HEADER_MISSING); /* TLS */
    assert_int_equal(proxy_header_read(BYTES("\r\n\r\n\0\r\nQUIT\r")).kind, PROXY_HEADER_MISSING);
    assert_int_equal(proxy_header_read(BYTES("PROX")).kind, PROXY_HEADER_INCOMPLETE);
    assert_int_equal(proxy_header_read(BYTES("PROXIMA")).kind, PROXY_HEADER_MISSING);
    assert_int_equal(proxy_header_read(BYTES("PROXY TCP4 192.0.2.7")).kind, PROXY_HEADER_VERSION_1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tcp4_header_names_its_source),
        cmocka_unit_test(a_tcp6_header_names_its_source),
        cmocka_unit_test(a_unix_header_is_read_over),
        cmocka_unit_test(local_and_unspecified_headers_name_nobody),
        cmocka_unit_test(fields_are_read_over_within_the_header),
        cmocka_unit_test(a_checksum_must_be_right),
        cmocka_unit_test(what_the_specification_does_not_know_is_refused),
        cmocka_unit_test(too_long_a_header_is_refused_before_it_is_read),
        cmocka_unit_test(a_header_may_come_byte_by_byte),
        cmocka_unit_test(another_beginning_is_told_at_its_first_byte),
    };
    return cmocka_run_group_tests_name("proxy_header", tests, NULL, NULL);
}

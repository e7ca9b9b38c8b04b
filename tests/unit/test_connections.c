/* What is counted of connections, how their sockets are tuned, and how their peers are named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

#include "proxy/config_values.h"
#include "proxy/net/address.h"
#include "proxy/net/stream.h"
#include "proxy/session/limits.h"

/* behind the project's headers: cmocka has a macro fail() */
#include <cmocka.h>

static void each_user_and_each_database_has_its_limit(void **state)
{
    (void)state;
    struct limits *limits = limits_new();
    assert_int_equal(limits_enter(limits, "ann", "app", 2, 3), LIMITS_ENTERED);
    assert_int_equal(limits_enter(limits, "ann", "app", 2, 3), LIMITS_ENTERED);
    assert_int_equal(limits_enter(limits, "ann", "other", 2, 3), LIMITS_USER_FULL);
    assert_int_equal(limits_enter(limits, "bob", "app", 2, 3), LIMITS_ENTERED);
    assert_int_equal(limits_enter(limits, "eve", "app", 2, 3), LIMITS_DATABASE_FULL);
    /* a refusal counts nothing */
    assert_int_equal(limits_enter(limits, "eve", "other", 1, 3), LIMITS_ENTERED);
    limits_leave(limits, "ann", "app");
    assert_int_equal(limits_enter(limits, "ann", "other", 2, 3), LIMITS_ENTERED);
    limits_free(limits);
}

static void without_a_limit_connections_are_counted_all_the_same(void **state)
{
    (void)state;
    struct limits *limits = limits_new();
    for (int i = 0; i < 100; i++) {
        assert_int_equal(limits_enter(limits, "", "app", 0, 0), LIMITS_ENTERED);
    }
    assert_int_equal(limits_enter(limits, "", "app", 100, 0), LIMITS_USER_FULL);
    for (int i = 0; i < 100; i++) {
        limits_leave(limits, "", "app");
    }
    assert_int_equal(limits_enter(limits, "", "app", 1, 1), LIMITS_ENTERED);
    limits_free(limits);
}

static void what_the_server_cuts_from_a_name_makes_no_other_name(void **state)
{
    (void)state;
    char longer[65], other[65];
    memset(longer, 'a', sizeof longer);
    memset(other, 'a', sizeof other);
    longer[64] = other[64] = '\0';
    other[63] = 'b';
    struct limits *limits = limits_new();
    assert_int_equal(limits_enter(limits, longer, "app", 1, 0), LIMITS_ENTERED);
    assert_int_equal(limits_enter(limits, other, "app", 1, 0), LIMITS_USER_FULL);
    longer[62] = 'b';
    assert_int_equal(limits_enter(limits, longer, "app", 1, 0), LIMITS_ENTERED);
    limits_free(limits);
}

static int option(int fd, int level, int name)
{
    int value = -1;
    socklen_t len = sizeof value;
    assert_int_equal(getsockopt(fd, level, name, &value, &len), 0);
    return value;
}

struct tuned {
    int keepalive, idle, interval, count, user_timeout;
};

static struct tuned tune(const struct config_tcp *tcp)
{
    uv_loop_t loop;
    struct stream stream = {0};
    assert_int_equal(uv_loop_init(&loop), 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(stream_open(&stream, &loop, fd, tcp, NULL));
    struct tuned tuned = {
        .keepalive = option(fd, SOL_SOCKET, SO_KEEPALIVE),
        .idle = option(fd, IPPROTO_TCP, TCP_KEEPIDLE),
        .interval = option(fd, IPPROTO_TCP, TCP_KEEPINTVL),
        .count = option(fd, IPPROTO_TCP, TCP_KEEPCNT),
        .user_timeout = option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT),
    };
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_NODELAY), 1);
    stream_close(&stream, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    return tuned;
}

static void sockets_are_tuned_as_configured(void **state)
{
    (void)state;
    struct tuned t = tune(&(struct config_tcp){.keepalive = true,
                                               .keepidle_s = 31,
                                               .keepintvl_s = 7,
                                               .keepcnt = 5,
                                               .user_timeout_ms = 12345});
    assert_int_equal(t.keepalive, 1);
    assert_int_equal(t.idle, 31);
    assert_int_equal(t.interval, 7);
    assert_int_equal(t.count, 5);
    assert_int_equal(t.user_timeout, 12345);
}

static void what_is_not_configured_is_the_systems(void **state)
{
    (void)state;
    struct tuned on = tune(&(struct config_tcp){.keepalive = true});
    struct tuned off = tune(&(struct config_tcp){.keepidle_s = 31, .keepcnt = 5});
    assert_int_equal(on.keepalive, 1);
    assert_int_equal(off.keepalive, 0);
    assert_int_equal(on.idle, off.idle);
    assert_int_equal(on.count, off.count);
    assert_int_not_equal(on.idle, 31);
    assert_int_equal(on.user_timeout, 0);
}

static struct config_network network(const char *text)
{
    struct config_network n;
    struct value_why why;
    assert_true(value_network(text, &n, &why));
    return n;
}

static struct sockaddr_storage address(const char *text)
{
    uint8_t bytes[16];
    bool v6 = strchr(text, ':') != NULL;
    assert_int_equal(inet_pton(v6 ? AF_INET6 : AF_INET, text, bytes), 1);
    return address_of_bytes(bytes, v6 ? 16 : 4, 5432);
}

static bool is_within(const char *peer, const char *text)
{
    struct config_network n = network(text);
    struct sockaddr_storage a = address(peer);
    return address_is_within(&a, &n, 1);
}

static void addresses_lie_within_networks(void **state)
{
    (void)state;
    assert_true(is_within("10.1.2.3", "10.0.0.0/8"));
    assert_false(is_within("11.1.2.3", "10.0.0.0/8"));
    assert_true(is_within("172.31.255.255", "172.16.0.0/12"));
    assert_false(is_within("172.32.0.0", "172.16.0.0/12"));
    assert_true(is_within("192.0.2.7", "192.0.2.7"));
    assert_false(is_within("192.0.2.6", "192.0.2.7"));
    assert_true(is_within("203.0.113.1", "0.0.0.0/0"));
    assert_true(is_within("fd00::1", "fd00::/8"));
    assert_false(is_within("fe00::1", "fd00::/8"));
    assert_true(is_within("::1", "::1"));
    /* IPv4 on a socket of IPv6 */
    assert_true(is_within("::ffff:10.1.2.3", "10.0.0.0/8"));
    assert_false(is_within("::ffff:10.1.2.3", "::/0"));
    assert_false(is_within("10.1.2.3", "unix"));
}

static void a_unix_peer_is_where_it_is_named(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    struct sockaddr_storage peer = address_of_peer(fds[0]);
    struct config_network networks[] = {network("0.0.0.0/0"), network("::/0"), network("unix")};
    assert_false(address_is_within(&peer, networks, 2));
    assert_true(address_is_within(&peer, networks, 3));
    close(fds[0]);
    close(fds[1]);
}

static void peers_are_named_as_postgresql_does(void **state)
{
    (void)state;
    char name[ADDRESS_NAME_MAX];
    struct sockaddr_storage a = address("192.0.2.7");
    address_name(&a, name, sizeof name);
    assert_string_equal(name, "192.0.2.7:5432");
    a = address("2001:db8::7");
    address_name(&a, name, sizeof name);
    assert_string_equal(name, "[2001:db8::7]:5432");
    a = address("::ffff:192.0.2.7");
    address_name(&a, name, sizeof name);
    assert_string_equal(name, "192.0.2.7:5432");
}

static void what_is_no_network_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"10.0.0.0/33", "10.0.0.0/",  "10.0.0.1/8", "10.0.0",
                                      "fd00::/129",  "fd00::1/64", "localhost",  "10.0.0.0/8x",
                                      "Unix",        "/8",         "10.0.0.0/-1"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct config_network n;
        struct value_why why;
        assert_false(value_network(bad[i], &n, &why));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_user_and_each_database_has_its_limit),
        cmocka_unit_test(without_a_limit_connections_are_counted_all_the_same),
        cmocka_unit_test(what_the_server_cuts_from_a_name_makes_no_other_name),
        cmocka_unit_test(sockets_are_tuned_as_configured),
        cmocka_unit_test(what_is_not_configured_is_the_systems),
        cmocka_unit_test(addresses_lie_within_networks),
        cmocka_unit_test(a_unix_peer_is_where_it_is_named),
        cmocka_unit_test(peers_are_named_as_postgresql_does),
        cmocka_unit_test(what_is_no_network_is_refused),
    };
    return cmocka_run_group_tests_name("connections", tests, NULL, NULL);
}

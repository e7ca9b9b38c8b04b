/* The configuration file: what is taken, and the one line that says why something is not. */
#include "proxy/config.h"
#include "proxy/config_values.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* behind the project's headers: cmocka has a macro fail() */
#include <cmocka.h>

#define MAIN_SECTION "[pgsluice]\nlisten = 127.0.0.1:6432\nserver = host=db1 port=5432\n"
#define CONTROL "control = host=db1 user=pgsluice\n"
#define RULE                                                                                       \
    "[rule chunks]\ntable = public.chunks\ncolumn = partition_key\n"                               \
    "expression = mod(hashtext(collection_id::text), 100)\n"

/* Loads `text` as a file named pgsluice.ini in a directory of its own. */
static bool load(const char *text, size_t len, struct config **config, struct failure *f)
{
    char directory[] = "/tmp/test_config.XXXXXX";
    assert_non_null(mkdtemp(directory));
    assert_int_equal(chdir(directory), 0);
    FILE *file = fopen("pgsluice.ini", "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, len, file), len);
    fclose(file);
    bool ok = config_load("pgsluice.ini", config, f);
    unlink("pgsluice.ini");
    rmdir(directory);
    return ok;
}

static struct config *loaded(const char *text)
{
    struct config *config;
    struct failure f = {0};
    if (!load(text, strlen(text), &config, &f)) {
        fail_msg("refused: %s", f.msg);
    }
    return config;
}

static void check_main_section(const struct config *config)
{
    assert_int_equal(config->listen_count, 4);
    assert_string_equal(config->listen[1].host, "::1");
    assert_int_equal(config->listen[1].port, 6432);
    assert_string_equal(config->listen[2].host, "*");
    assert_true(config->listen[3].is_unix);
    assert_string_equal(config->listen[3].host, "/run/.s.PGSQL.6432");
    assert_string_equal(config->server, "host=db1 port=5432 sslmode=prefer");
    assert_string_equal(config->control, "host=db1 user=pgsluice dbname=app");
    assert_int_equal(config->workers, 3);
    assert_int_equal(config->admin_count, 1);
    assert_string_equal(config->audit, "/var/log/pgsluice/audit.jsonl");
    assert_int_equal(config->audit_fsync, AUDIT_FSYNC_EACH);
    assert_true(config->audit_failure_reject);
    assert_true(config->log_json);
    assert_int_equal(config->log_level, LOG_LEVEL_DEBUG);
    assert_int_equal(config->max_client_conn, 20);
    assert_int_equal(config->max_packet_size, 2 * 1024 * 1024);
    assert_int_equal(config->max_user_client_connections, 7);
    assert_int_equal(config->max_db_client_connections, 9);
    assert_int_equal(config->max_held_clients, 7);
    assert_int_equal(config->unix_socket_mode, 0770);
    assert_false(config->tcp.keepalive);
    assert_int_equal(config->tcp.keepidle_s, 30);
    assert_int_equal(config->tcp.keepintvl_s, 2);
    assert_int_equal(config->tcp.keepcnt, 4);
    assert_int_equal(config->tcp.user_timeout_ms, 30000);
    assert_true(config->proxy_protocol);
    assert_int_equal(config->proxy_from_count, 4);
    assert_int_equal(config->proxy_from[0].family, AF_INET);
    assert_int_equal(config->proxy_from[0].bits, 8);
    assert_int_equal(config->proxy_from[1].family, AF_INET6);
    assert_int_equal(config->proxy_from[2].bits, 32);
    assert_int_equal(config->proxy_from[3].family, AF_UNIX);
    assert_true(config->application_name_add_host);
    assert_int_equal(config->client_login_timeout_ms, 0);
    assert_int_equal(config->server_connect_timeout_ms, 1500);
    assert_int_equal(config->hold_ttl_ms, 750);
}

static void every_key_is_read(void **state)
{
    (void)state;
    struct config *config =
        loaded("# a comment\n"
               "[pgsluice]\n"
               "listen = 127.0.0.1:6432, [::1]:6432, *:6433, unix:/run/.s.PGSQL.6432\n"
               "server = host=db1 port=5432 sslmode=prefer   ; a comment\n"
               "control = host=db1 user=pgsluice dbname=app\n"
               "workers = 3\n"
               "admin = unix:/run/pgsluice/admin\n"
               "audit = /var/log/pgsluice/audit.jsonl\n"
               "audit_fsync = each\n"
               "audit_failure = reject\n"
               "audit_values = off\n"
               "log_format = json\n"
               "log_level = debug\n"
               "max_client_conn = 20\n"
               "max_packet_size = 2MB\n"
               "max_user_client_connections = 7\n"
               "max_db_client_connections = 9\n"
               "max_held_clients = 7\n"
               "unix_socket_mode = 0770\n"
               "tcp_keepalive = 0\n"
               "tcp_keepidle = 30\n"
               "tcp_keepintvl = 1500ms\n"
               "tcp_keepcnt = 4\n"
               "tcp_user_timeout = 30000\n"
               "proxy_protocol = require\n"
               "proxy_protocol_from = 10.0.0.0/8, fd00::/8, 192.0.2.7, unix\n"
               "application_name_add_host = 1\n"
               "client_login_timeout = 0\n"
               "server_connect_timeout = 1.5\n"
               "hold_ttl = 750ms\n"
               "client_tls = disable\n"
               "query_timeout = 0\n"
               "\n"
               "[rule chunks]\n"
               "database = App\n"
               "table = Docs.\"Chunks\"\n"
               "column = Partition_Key\n"
               "expression = mod(hashtext(collection_id::text),\n"
               "    100)\n"
               "mode = strip\n"
               "on_mismatch = strip\n"
               "unqualified = pass\n"
               "on_unparsed = pass\n"
               "[rule other]\n"
               "table = chunks\n"
               "column = k\n"
               "expression = 1");
    check_main_section(config);
    assert_int_equal(config->rule_count, 2);
    const struct config_rule *rule = &config->rules[0];
    assert_string_equal(rule->name, "chunks");
    assert_string_equal(rule->database, "App");
    assert_string_equal(rule->schema, "docs");
    assert_string_equal(rule->table, "Chunks");
    assert_string_equal(rule->column, "partition_key");
    assert_string_equal(rule->expression, "mod(hashtext(collection_id::text), 100)");
    assert_int_equal(rule->mode, RULE_MODE_STRIP);
    assert_false(rule->unqualified_guarded);
    assert_int_equal(rule->on_unparsed, RULE_UNPARSED_PASS);
    assert_int_equal(rule->line, 34);
    assert_string_equal(config->rules[1].schema, "public");
    assert_null(config->rules[1].database);
    config_free(config);
}

static void what_is_left_out_has_its_default(void **state)
{
    (void)state;
    struct config *config = loaded(MAIN_SECTION CONTROL RULE);
    assert_in_range(config->workers, 1, 64);
    assert_int_equal(config->max_client_conn, 5000);
    assert_int_equal(config->max_packet_size, 64 * 1024 * 1024);
    assert_int_equal(config->client_login_timeout_ms, 60000);
    assert_int_equal(config->server_connect_timeout_ms, 15000);
    assert_int_equal(config->hold_ttl_ms, 2000);
    assert_int_equal(config->audit_fsync, AUDIT_FSYNC_BATCH);
    assert_int_equal(config->max_user_client_connections, 0);
    assert_int_equal(config->max_db_client_connections, 0);
    assert_int_equal(config->max_held_clients, 1000);
    assert_int_equal(config->unix_socket_mode, 0777);
    assert_true(config->tcp.keepalive);
    assert_int_equal(config->tcp.keepidle_s, 0);
    assert_int_equal(config->tcp.user_timeout_ms, 0);
    assert_false(config->proxy_protocol);
    assert_int_equal(config->proxy_from_count, 2); /* this machine, over TCP */
    assert_int_equal(config->proxy_from[0].address[0], 127);
    assert_int_equal(config->proxy_from[1].family, AF_INET6);
    assert_int_equal(config->proxy_from[1].bits, 128);
    assert_false(config->application_name_add_host);
    assert_int_equal(config->log_level, LOG_LEVEL_INFO);
    assert_null(config->audit);
    assert_null(config->http);
    assert_int_equal(config->rules[0].mode, RULE_MODE_OBSERVE);
    assert_true(config->rules[0].unqualified_guarded);
    assert_int_equal(config->rules[0].on_unparsed, RULE_UNPARSED_BY_SHAPE);
    config_free(config);
}

static void a_relay_needs_neither_rule_nor_control(void **state)
{
    (void)state;
    struct config *config = loaded(MAIN_SECTION);
    assert_int_equal(config->rule_count, 0);
    assert_null(config->control);
    config_free(config);
}

static void a_long_line_is_read_whole(void **state)
{
    (void)state;
    char text[4096];
    char expression[2048] = "coalesce(";
    for (int i = 0; i < 60; i++) {
        size_t len = strlen(expression);
        snprintf(expression + len, sizeof expression - len, "hashtext(c%02d)  + 'a  b', ", i);
    }
    strcat(expression, "0)");
    snprintf(text, sizeof text,
             MAIN_SECTION CONTROL
             "[rule a]\ntable = t\ncolumn = c\nexpression = %s   ; a comment\nmode = strip\n",
             expression);
    struct config *config = loaded(text);
    assert_string_equal(config->rules[0].expression, expression);
    assert_int_equal(config->rules[0].mode, RULE_MODE_STRIP);
    config_free(config);
}

struct refusal {
    const char *text;
    const char *message;
};

static const struct refusal refusals[] = {
    {"", "pgsluice.ini: there is no [pgsluice] section"},
    {"[pgsluice]\nserver = host=a\n", "pgsluice.ini: listen: is missing from [pgsluice]"},
    {"[pgsluice]\nlisten = *:1\n", "pgsluice.ini: server: is missing from [pgsluice]"},
    {MAIN_SECTION RULE, "pgsluice.ini: control: is missing from [pgsluice]; rules need it"},
    {"workers = 1\n[pgsluice]\n",
     "pgsluice.ini:1: workers: stands before the first section, [pgsluice]"},
    {MAIN_SECTION "\n\nworkers = 0\n",
     "pgsluice.ini:6: workers: \"0\" is not a whole number from 1 to 64"},
    {MAIN_SECTION "workers = 2x\n",
     "pgsluice.ini:4: workers: \"2x\" is not a whole number from 1 to 64"},
    {MAIN_SECTION "workers = -1\n",
     "pgsluice.ini:4: workers: \"-1\" is not a whole number from 1 to 64"},
    {MAIN_SECTION "workers =\n", "pgsluice.ini:4: workers: has no value"},
    {MAIN_SECTION "worker = 1\n",
     "pgsluice.ini:4: worker: is not a key of [pgsluice]; did you mean \"workers\"?"},
    {MAIN_SECTION "max_client_con = 1\n", "pgsluice.ini:4: max_client_con: is not a key of "
                                          "[pgsluice]; did you mean \"max_client_conn\"?"},
    {MAIN_SECTION "pool_mode = session\n", "pgsluice.ini:4: pool_mode: is not a key of [pgsluice]"},
    {MAIN_SECTION "mode = strip\n", "pgsluice.ini:4: mode: belongs in a [rule NAME] section"},
    {MAIN_SECTION CONTROL RULE "workers = 2\n", "pgsluice.ini:9: workers: belongs in [pgsluice]"},
    {MAIN_SECTION "workers = 1\nworkers = 1\n",
     "pgsluice.ini:5: workers: is there twice in its section"},
    {MAIN_SECTION "nonsense\n", "pgsluice.ini:4: nonsense: not a line of the form key = value"},
    {MAIN_SECTION "nonsense", "pgsluice.ini:4: nonsense: not a line of the form key = value"},
    {MAIN_SECTION "  workers = 2\n",
     "pgsluice.ini:4: workers: is indented, which would make it part of server"},
    {MAIN_SECTION "[pgsluice]\n", "pgsluice.ini:4: [pgsluice]: this section is there twice"},
    {MAIN_SECTION "[rules]\n",
     "pgsluice.ini:4: [rules]: unknown section; there are [pgsluice] and [rule NAME]"},
    {MAIN_SECTION "[pgsluice\n",
     "pgsluice.ini:4: [pgsluice: not a section: [pgsluice] or [rule NAME]"},
    {MAIN_SECTION "[rule a b]\n",
     "pgsluice.ini:4: [rule a b]: a rule's name has 1 to 40 letters, digits, _ . or -"},
    {MAIN_SECTION CONTROL RULE "[rule chunks]\n",
     "pgsluice.ini:9: [rule chunks]: this rule is already on line 5"},
    {MAIN_SECTION CONTROL "[rule a]\ntable = t\ncolumn = c\nexpression = 1\n[rule b]\ntable = "
                          "public.t\ncolumn = C\nexpression = 1\n",
     "pgsluice.ini:9: [rule b]: guards the same column as [rule a] on line 5"},
    {MAIN_SECTION CONTROL "[rule a]\n", "pgsluice.ini:5: table: is missing from [rule a]"},
    {MAIN_SECTION CONTROL "[rule a]\ntable = t\n",
     "pgsluice.ini:5: column: is missing from [rule a]"},
    {MAIN_SECTION CONTROL "[rule a]\ntable = t\ncolumn = c\n",
     "pgsluice.ini:5: expression: is missing from [rule a]"},
    {MAIN_SECTION CONTROL RULE "mode = stripe\n",
     "pgsluice.ini:9: mode: \"stripe\" is not one of observe, strip, compute, reject"},
    {MAIN_SECTION CONTROL RULE "on_mismatch = refuse\n",
     "pgsluice.ini:9: on_mismatch: \"refuse\" is not one of strip, reject"},
    {MAIN_SECTION "audit_values = on\n",
     "pgsluice.ini:4: audit_values: \"on\" is not available in this version: only \"off\" is"},
    {MAIN_SECTION "client_tls = require\n",
     "pgsluice.ini: client_tls: needs client_tls_cert and client_tls_key"},
    {MAIN_SECTION "client_tls = verify-ca\nclient_tls_cert = /c\nclient_tls_key = /k\n",
     "pgsluice.ini: client_tls: needs client_tls_ca to verify certificates"},
    {MAIN_SECTION "client_tls_min_version = TLSv1\n",
     "pgsluice.ini:4: client_tls_min_version: \"TLSv1\" is not one of TLSv1.2, TLSv1.3"},
    {MAIN_SECTION "admin = 127.0.0.1:6433\n",
     "pgsluice.ini:4: admin: \"127.0.0.1:6433\" is not available in this version: admin listens on "
     "unix:/path only"},
    {"[pgsluice]\nlisten = 127.0.0.1\n",
     "pgsluice.ini:2: listen: \"127.0.0.1\" is not an address: host:port, [::1]:port, *:port or "
     "unix:/path"},
    {"[pgsluice]\nlisten = a:70000\n",
     "pgsluice.ini:2: listen: \"a:70000\" has no port from 1 to 65535"},
    {"[pgsluice]\nlisten = *:1,, *:2\n",
     "pgsluice.ini:2: listen: \"*:1,, *:2\" has an empty address"},
    {"[pgsluice]\nlisten = *:1, *:1\n", "pgsluice.ini:2: listen: \"*:1, *:1\" names *:1 twice"},
    {"[pgsluice]\nlisten = unix:run/s\n",
     "pgsluice.ini:2: listen: \"unix:run/s\" is neither an absolute path nor @name"},
    {"[pgsluice]\nlisten = unix:@\n",
     "pgsluice.ini:2: listen: \"unix:@\" is neither an absolute path nor @name"},
    {MAIN_SECTION "admin = unix:@pgsluice\n",
     "pgsluice.ini:4: admin: \"unix:@pgsluice\" has no file whose mode says who may use it: admin "
     "needs one"},
    {MAIN_SECTION "unix_socket_mode = 1777\n",
     "pgsluice.ini:4: unix_socket_mode: \"1777\" is not a file mode from 0000 to 0777"},
    {MAIN_SECTION "max_user_client_connections = -1\n",
     "pgsluice.ini:4: max_user_client_connections: \"-1\" is not a whole number from 0 to 1000000"},
    {MAIN_SECTION "max_db_client_connections = all\n",
     "pgsluice.ini:4: max_db_client_connections: \"all\" is not a whole number from 0 to 1000000"},
    {MAIN_SECTION "tcp_keepcnt = 128\n",
     "pgsluice.ini:4: tcp_keepcnt: \"128\" is not a whole number from 0 to 127"},
    {MAIN_SECTION "tcp_user_timeout = soon\n",
     "pgsluice.ini:4: tcp_user_timeout: \"soon\" is not a duration up to 1d (units: ms, s, min, h, "
     "d; plain: milliseconds)"},
    {MAIN_SECTION "proxy_protocol = v2\n",
     "pgsluice.ini:4: proxy_protocol: \"v2\" is not one of off, require"},
    {MAIN_SECTION "proxy_protocol_from = 10.0.0.0/8, example\n",
     "pgsluice.ini:4: proxy_protocol_from: \"10.0.0.0/8, example\" names example, which is no "
     "network: "
     "10.0.0.0/8, fd00::/8, an address, or unix"},
    {MAIN_SECTION "proxy_protocol_from = 10.0.0.1/8\n",
     "pgsluice.ini:4: proxy_protocol_from: \"10.0.0.1/8\" names 10.0.0.1/8, which has bits set "
     "behind the first 8"},
    {MAIN_SECTION "proxy_protocol_from = ::1/129\n",
     "pgsluice.ini:4: proxy_protocol_from: \"::1/129\" names ::1/129, which has no number of bits "
     "from 0 to 128 behind its /"},
    {MAIN_SECTION "application_name_add_host = yes\n",
     "pgsluice.ini:4: application_name_add_host: \"yes\" is not one of 0, 1"},
    {"[pgsluice]\nlisten = *:1\nserver = host\n", "pgsluice.ini:3: server: \"host\" is not a libpq "
                                                  "connection string: missing \"=\" after \"host\" "
                                                  "in connection info string"},
    {"[pgsluice]\nlisten = *:1\nserver = host=a user=x\n",
     "pgsluice.ini:3: server: \"host=a user=x\" has user, which server does not take: users, "
     "databases and session settings are the clients' own"},
    {"[pgsluice]\nlisten = *:1\nserver = host=a target_session_attrs=primary\n",
     "pgsluice.ini: control: is missing from [pgsluice]; target_session_attrs needs it, to ask the "
     "servers what they are"},
    {"[pgsluice]\nlisten = *:1\nserver = host=a target_session_attrs=writer\n",
     "pgsluice.ini:3: server: \"host=a target_session_attrs=writer\" has a target_session_attrs "
     "that is not one of any, read-write, read-only, primary, standby, prefer-standby"},
    {"[pgsluice]\nlisten = *:1\nserver = host=a sslnegotiation=tls\n",
     "pgsluice.ini:3: server: \"host=a sslnegotiation=tls\" has an sslnegotiation that is not one "
     "of postgres, direct"},
    {MAIN_SECTION "auth_query = SELECT 1\n",
     "pgsluice.ini: control: is missing from [pgsluice]; auth_query runs on it"},
    {MAIN_SECTION "auth_type = scram-sha-256\n",
     "pgsluice.ini: auth_type: scram-sha-256 needs auth_file or auth_query"},
    {MAIN_SECTION "auth_type = passthrough\nauth_file = /users\n",
     "pgsluice.ini: auth_type: with passthrough auth_file is never looked at: leave one out"},
    {"[pgsluice]\ncontrol = host=a password='secret\n",
     "pgsluice.ini:2: control: is not a libpq connection string: unterminated quoted string in "
     "connection info string"},
    {MAIN_SECTION "hold_ttl = soon\n", "pgsluice.ini:4: hold_ttl: \"soon\" is not a duration from "
                                       "1ms to 1min (units: ms, s, min, h, d; "
                                       "plain: seconds)"},
    {MAIN_SECTION "max_packet_size = 1kB\n", "pgsluice.ini:4: max_packet_size: \"1kB\" is not a "
                                             "size from 64kB to 1GB (units: B, kB, MB, GB; "
                                             "plain: bytes)"},
};

static void every_error_names_file_line_and_key(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        struct config *config;
        struct failure f = {0};
        if (load(refusals[i].text, strlen(refusals[i].text), &config, &f)) {
            fail_msg("taken, instead of: %s", refusals[i].message);
        }
        assert_null(config);
        assert_string_equal(f.msg, refusals[i].message);
        assert_int_equal(f.code, EXIT_USAGE);
    }
}

static void sslnegotiation_is_taken_out_of_the_server_keywords(void **state)
{
    (void)state;
    static const struct {
        const char *given, *left, *value;
    } cases[] = {
        {"host=a sslnegotiation=direct port=1", "host=a  port=1", "direct"},
        {"sslnegotiation = 'direct'", "", "direct"},
        {"host='a sslnegotiation=no' port=1", "host='a sslnegotiation=no' port=1", NULL},
        {"host=sslnegotiation", "host=sslnegotiation", NULL},
        {"host=a\\ b sslnegotiation='po\\'s'", "host=a\\ b ", "po's"},
        {"host", "host", NULL},
        {"", "", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char keywords[64];
        char value[16];
        snprintf(keywords, sizeof keywords, "%s", cases[i].given);
        bool found = value_take_keyword(keywords, "sslnegotiation", value, sizeof value);
        assert_string_equal(keywords, cases[i].left);
        assert_int_equal(found, cases[i].value != NULL);
        if (found) {
            assert_string_equal(value, cases[i].value);
        }
    }
}

static void a_file_that_is_none_is_refused(void **state)
{
    (void)state;
    static const char with_nul[] = MAIN_SECTION "workers = 1\0\n";
    struct config *config;
    struct failure f;
    assert_false(config_load("/nowhere/pgsluice.ini", &config, &f));
    assert_string_equal(f.msg, "/nowhere/pgsluice.ini: No such file or directory");
    assert_int_equal(f.code, EXIT_USAGE);
    assert_false(config_load("/tmp", &config, &f));
    assert_string_equal(f.msg, "/tmp: Is a directory");
    assert_false(load(with_nul, sizeof with_nul - 1, &config, &f));
    assert_string_equal(f.msg, "pgsluice.ini:4: has a NUL byte");
}

static void a_rule_is_found_by_table_or_name(void **state)
{
    (void)state;
    struct failure f;
    struct config *config =
        loaded(MAIN_SECTION CONTROL "[rule one]\ntable = a.chunks\ncolumn = c\nexpression = 1\n"
                                    "[rule two]\ntable = b.chunks\ncolumn = c\nexpression = 1\n"
                                    "[rule three]\ntable = \"Big\"\ncolumn = c\nexpression = 1\n");
    assert_ptr_equal(config_find_rule(config, "two", &f), &config->rules[1]);
    assert_ptr_equal(config_find_rule(config, "B.Chunks", &f), &config->rules[1]);
    assert_ptr_equal(config_find_rule(config, "\"Big\"", &f), &config->rules[2]);
    assert_null(config_find_rule(config, "Big", &f));
    assert_string_equal(f.msg, "pgsluice.ini: no rule is for table Big");
    assert_null(config_find_rule(config, "chunks", &f));
    assert_string_equal(f.msg,
                        "pgsluice.ini: several rules are for table chunks: give the rule's name");
    config_free(config);
}

static void durations_have_units(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t ms;
    } taken[] = {{"2", 2000}, {"2s", 2000},  {"500ms", 500},  {"0.25", 250}, {"1.5min", 90000},
                 {"0", 0},    {"2 s", 2000}, {"1h", 3600000}, {"0.0001", 1}};
    static const char *const refused[] = {"",     "s",   "-1",  "1x", "1e3",
                                          "0x10", "inf", "1 2", "2h", "1S"};
    struct value_why why;
    uint64_t ms;
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++) {
        assert_true(value_duration(taken[i].text, 0, 3600000, &ms, &why));
        assert_int_equal(ms, taken[i].ms);
    }
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        assert_false(value_duration(refused[i], 0, 3600000, &ms, &why));
    }
}

static void identifiers_fold_as_in_the_server(void **state)
{
    (void)state;
    static const struct {
        const char *text, *schema, *name;
    } taken[] = {
        {"chunks", NULL, "chunks"},
        {"CHUNKS", NULL, "chunks"},
        {"\"CHUNKS\"", NULL, "CHUNKS"},
        {"Public.Chunks", "public", "chunks"},
        {"\"a.b\" . \"c\"\"d\"", "a.b", "c\"d"},
        {"_x$1", NULL, "_x$1"},
        {"\xc3\x84rger", NULL, "\xc3\x84rger"},
    };
    static const char *const refused[] = {
        "",        "1a",  "a b",
        "a.b.c",   "a.",  ".a",
        "a..b",    "\"a", "\"\"",
        "\"a\"\"", "a-b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    struct value_why why;
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++) {
        char *schema;
        char *name;
        assert_true(value_identifier(taken[i].text, &schema, &name, &why));
        assert_string_equal(name, taken[i].name);
        assert_true((schema == NULL) == (taken[i].schema == NULL));
        if (schema != NULL) {
            assert_string_equal(schema, taken[i].schema);
        }
        free(schema);
        free(name);
    }
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        char *schema;
        char *name;
        if (value_identifier(refused[i], &schema, &name, &why)) {
            fail_msg("taken: %s", refused[i]);
        }
    }
    char *name;
    assert_false(value_identifier("a.b", NULL, &name, &why));
    assert_string_equal(why.text, "is not a single SQL name");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_key_is_read),
        cmocka_unit_test(what_is_left_out_has_its_default),
        cmocka_unit_test(a_relay_needs_neither_rule_nor_control),
        cmocka_unit_test(a_long_line_is_read_whole),
        cmocka_unit_test(every_error_names_file_line_and_key),
        cmocka_unit_test(sslnegotiation_is_taken_out_of_the_server_keywords),
        cmocka_unit_test(a_file_that_is_none_is_refused),
        cmocka_unit_test(a_rule_is_found_by_table_or_name),
        cmocka_unit_test(durations_have_units),
        cmocka_unit_test(identifiers_fold_as_in_the_server),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

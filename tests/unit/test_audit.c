/* The audit log: what a record says, that none goes missing unsaid, and what is read from it again.
 */
#include "proxy/audit/audit.h"
#include "proxy/audit/read.h"
#include "proxy/audit/record.h"
#include "proxy/json_text.h"
#include "proxy/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* behind the project's headers: cmocka has a macro fail() */
#include <cmocka.h>

static const struct audit_session session = {
    .id = 7,
    .client = "127.0.0.1:51432",
    .user = "app",
    .database = "docs",
    .application_name = "loader",
    .backend_pid = 4711,
};

static const struct audit_supplied stripped = {
    .verdict = "stripped",
    .statement = "INSERT",
    .protocol = "extended",
    .fingerprint = UINT64_C(0x00a1b2c3d4e5f607),
    .text = "INSERT INTO chunks (partition_key) VALUES (?)",
    .rows = 1,
    .params = 1,
};

static const struct audit_supplied refused = {
    .verdict = "refused",
    .sqlstate = "428C9",
    .statement = "UPDATE",
    .protocol = "simple",
    .fingerprint = 1,
    .text = "UPDATE chunks SET partition_key = ?",
};

/* As a session does: what stays the same rendered once, or, for a statement that comes once, not.
 */
static void tell(struct audit *audit, const struct audit_session *of,
                 const struct audit_supplied *record)
{
    struct audit_piece *who = audit_piece_who(of, "chunks", "strip");
    struct audit_piece *what = audit_piece_what(record);
    assert_non_null(who);
    assert_non_null(what);
    if (record->sqlstate == NULL) {
        audit_tell(audit, who, what, &(struct audit_compared){0});
    } else {
        audit_tell_once(audit, who, record);
    }
    free(what);
    free(who);
}

static size_t render(char *out, size_t room, const struct audit_session *of, const char *rule,
                     const char *mode, const struct audit_supplied *record)
{
    size_t len = audit_render_who(out, room, of, rule, mode);
    return len + audit_render_what(out + len, room - len, record);
}

static char directory[64];
static char path[128];

static int make_directory(void **state)
{
    (void)state;
    snprintf(directory, sizeof directory, "/tmp/test_audit.XXXXXX");
    if (mkdtemp(directory) == NULL) {
        return -1;
    }
    snprintf(path, sizeof path, "%s/audit.jsonl", directory);
    return 0;
}

static int remove_directory(void **state)
{
    (void)state;
    char rotated[160];
    snprintf(rotated, sizeof rotated, "%s.1", path);
    unlink(path);
    unlink(rotated);
    return rmdir(directory);
}

static struct audit *opened_with(enum audit_fsync fsync)
{
    struct audit *audit;
    struct failure f;
    if (!audit_open(path, fsync, &audit, &f)) {
        fail_msg("%s", f.msg);
    }
    return audit;
}

static struct audit *opened(void)
{
    return opened_with(AUDIT_FSYNC_NONE);
}

/* Stands in for the C library's: counts, and fails while it is told to. */
static atomic_int syncs, failing_syncs;

int fdatasync(int fd)
{
    if (atomic_load(&failing_syncs) > 0) {
        atomic_fetch_sub(&failing_syncs, 1);
        errno = EIO;
        return -1;
    }
    atomic_fetch_add(&syncs, 1);
    return (int)syscall(SYS_fdatasync, fd);
}

static void write_file(const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void pause_ms(long ms)
{
    const struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

/* Verifies `file`; the number of its records. */
static json_int_t verified(const char *file)
{
    json_t *report;
    struct failure f;
    enum exit_code code = audit_verify(file, &report, &f);
    if (code != EXIT_DONE) {
        json_dumpf(report, stderr, 0);
    }
    assert_int_equal(code, EXIT_DONE);
    json_int_t records = json_integer_value(json_object_get(report, "records"));
    json_decref(report);
    return records;
}

static void a_record_has_its_fields_in_order(void **state)
{
    (void)state;
    char text[AUDIT_BODY_MAX];
    size_t len = audit_render_head(text, sizeof text, 18, UINT64_C(1795309323456789), "db1:99");
    len += render(text + len, sizeof text - len, &session, "chunks", "reject", &refused);
    text[len] = '\0';
    assert_string_equal(
        text,
        "{\"seq\":18,\"time\":\"2026-11-22T01:02:03.456789Z\",\"instance\":\"db1:99\","
        "\"event\":\"supplied\",\"session\":7,\"client\":\"127.0.0.1:51432\",\"user\":\"app\","
        "\"database\":\"docs\",\"application_name\":\"loader\",\"backend_pid\":4711,"
        "\"rule\":\"chunks\",\"mode\":\"reject\",\"verdict\":\"refused\",\"sqlstate\":\"428C9\","
        "\"statement\":\"UPDATE\",\"protocol\":\"simple\",\"rows\":0,\"params\":0,"
        "\"fingerprint\":\"0000000000000001\",\"text\":\"UPDATE chunks SET partition_key = ?\"");
}

static void what_is_not_known_is_left_out(void **state)
{
    (void)state;
    char text[AUDIT_BODY_MAX];
    const struct audit_session nobody = {.id = 1};
    const struct audit_supplied bare = {.verdict = "observed"};
    size_t len = render(text, sizeof text, &nobody, "r", "observe", &bare);
    text[len] = '\0';
    assert_string_equal(text,
                        ",\"event\":\"supplied\",\"session\":1,\"rule\":\"r\",\"mode\":\"observe\","
                        "\"verdict\":\"observed\",\"rows\":0,\"params\":0");
    len = audit_render_step(text, sizeof text, "r", "3", "armed", NULL);
    text[len] = '\0';
    assert_string_equal(text,
                        ",\"event\":\"cutover\",\"rule\":\"r\",\"run\":\"3\",\"step\":\"armed\"");
}

static void text_is_escaped_and_repaired(void **state)
{
    (void)state;
    static const struct {
        const char *text, *json;
    } cases[] = {
        {"plain", "plain"},
        {"a\"b\\c\n\t\r\b\f\x01\x7f", "a\\\"b\\\\c\\n\\t\\r\\b\\f\\u0001\\u007f"},
        {"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80",
         "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80"},
        {"\xff\xc3", "\\ufffd\\ufffd"},
        {"\xc0\xaf", "\\ufffd\\ufffd"},
        {"\xed\xa0\x80", "\\ufffd\\ufffd\\ufffd"},
        {"\xf4\x90\x80\x80", "\\ufffd\\ufffd\\ufffd\\ufffd"},
        {"\xe2\x82", "\\ufffd\\ufffd"},
    };
    char out[256];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t len = json_text(out, sizeof out, cases[i].text, strlen(cases[i].text));
        out[len] = '\0';
        assert_string_equal(out, cases[i].json);
    }
    for (size_t room = 0; room < 24; room++) {
        assert_true(json_text(out, room, "\xe2\x82\xac\xff\n\"x\xf0\x9f\x98\x80", 11) <= room);
    }
    assert_int_equal(json_text(out, 5, "\xff", 1), 0);
}

static void a_long_statement_is_cut_between_characters(void **state)
{
    (void)state;
    static char statement[3 * AUDIT_TEXT_MAX];
    static char text[AUDIT_BODY_MAX];
    for (size_t i = 0; i + 3 < sizeof statement; i += 3) {
        memcpy(statement + i, "\xe2\x82\xac", 4);
    }
    struct audit_supplied record = stripped;
    record.text = statement;
    size_t len = audit_render_what(text, sizeof text - 1, &record);
    assert_in_range(len, AUDIT_TEXT_MAX, AUDIT_TEXT_MAX + 1024);
    text[len] = '\0';
    assert_non_null(strstr(text, "\xe2\x82\xac\",\"text_length\":49149"));
    assert_null(strstr(text, "ufffd"));
    memset(statement, '\x01', sizeof statement - 1);
    assert_in_range(audit_render_what(text, sizeof text, &record), AUDIT_TEXT_MAX * 6,
                    AUDIT_BODY_MAX);
    assert_int_equal(audit_render_what(text, 1000, &record), 0);
}

/* Strings that are hard to render, among them the longest and longer ones. */
#define NASTY_COUNT 10
static const char *nasty[NASTY_COUNT];

static void fill_nasty(void)
{
    static char longest[2][3 * AUDIT_TEXT_MAX];
    static const char *const short_ones[] = {
        NULL,
        "",
        "\"},\"seq\":1,{\"",
        "\\\"\n\r\t\b\f\x01\x7f",
        "\xff\xc3\xe2\x82",
        "\xe2\x82\xac \xf0\x9f\x98\x80",
        "'; DROP TABLE chunks; --",
        "\x1b[31m",
    };
    memcpy(nasty, short_ones, sizeof short_ones);
    memset(longest[0], '\x01', sizeof longest[0] - 1);
    for (size_t i = 0; i + 3 < sizeof longest[1]; i += 3) {
        memcpy(longest[1] + i, "\xe2\x82\xac", 4);
    }
    nasty[NASTY_COUNT - 2] = longest[0];
    nasty[NASTY_COUNT - 1] = longest[1];
}

/* The record number `i` of all that follow. */
static void nasty_record(size_t i, struct audit_session *of, struct audit_supplied *record)
{
    *of = (struct audit_session){
        .id = UINT64_MAX - i,
        .client = nasty[i % NASTY_COUNT],
        .user = nasty[(i + 1) % NASTY_COUNT],
        .database = nasty[(i + 2) % NASTY_COUNT],
        .application_name = nasty[i / NASTY_COUNT % NASTY_COUNT],
        .backend_pid = i % 2 == 0 ? UINT32_MAX : 0,
    };
    *record = (struct audit_supplied){
        .verdict = "stripped",
        .sqlstate = nasty[(i + 3) % NASTY_COUNT],
        .statement = nasty[(i + 4) % NASTY_COUNT],
        .protocol = nasty[(i + 5) % NASTY_COUNT],
        .fingerprint = i % 3 == 0 ? 0 : UINT64_MAX - i,
        .text = nasty[(i + i / NASTY_COUNT) % NASTY_COUNT],
        .rows = (uint32_t)i,
        .params = UINT32_MAX,
    };
}

static json_t *string_or_nothing(const char *value, size_t most)
{
    if (value == NULL) {
        return NULL;
    }
    static char text[6 * AUDIT_TEXT_MAX + 8];
    size_t len = strnlen(value, most);
    while (len == AUDIT_TEXT_MAX && ((unsigned char)value[len] & 0xc0) == 0x80) {
        len--;
    }
    text[0] = '"';
    len = json_text(text + 1, sizeof text - 2, value, len) + 1;
    text[len++] = '"';
    return json_loadb(text, len, JSON_DECODE_ANY, NULL);
}

/* The body of a record, put together by jansson from the same values. */
static char *reference(const struct audit_session *of, const struct audit_supplied *record)
{
    const size_t most = AUDIT_NAME_MAX;
    json_t *body = json_object();
    const struct {
        const char *name, *value;
    } who[] = {{"client", of->client},
               {"user", of->user},
               {"database", of->database},
               {"application_name", of->application_name}},
      what[] = {{"rule", "ch\"unks"},
                {"mode", "strip"},
                {"verdict", record->verdict},
                {"sqlstate", record->sqlstate},
                {"statement", record->statement},
                {"protocol", record->protocol}};
    json_object_set_new(body, "event", json_string("supplied"));
    json_object_set_new(body, "session", json_integer((json_int_t)of->id));
    for (size_t i = 0; i < sizeof who / sizeof who[0]; i++) {
        json_object_set_new(body, who[i].name, string_or_nothing(who[i].value, most));
    }
    if (of->backend_pid != 0) {
        json_object_set_new(body, "backend_pid", json_integer(of->backend_pid));
    }
    for (size_t i = 0; i < sizeof what / sizeof what[0]; i++) {
        json_object_set_new(body, what[i].name, string_or_nothing(what[i].value, most));
    }
    json_object_set_new(body, "rows", json_integer(record->rows));
    json_object_set_new(body, "params", json_integer(record->params));
    if (record->fingerprint != 0) {
        char digits[17];
        snprintf(digits, sizeof digits, "%016" PRIx64, record->fingerprint);
        json_object_set_new(body, "fingerprint", json_string(digits));
    }
    json_object_set_new(body, "text", string_or_nothing(record->text, AUDIT_TEXT_MAX));
    if (record->text != NULL && strlen(record->text) > AUDIT_TEXT_MAX) {
        json_object_set_new(body, "text_length", json_integer((json_int_t)strlen(record->text)));
    }
    char *text = json_dumps(body, JSON_COMPACT);
    json_decref(body);
    return text;
}

static void what_is_rendered_once_is_what_is_rendered_at_once(void **state)
{
    (void)state;
    static char text[AUDIT_BODY_MAX + 2];
    fill_nasty();
    for (size_t i = 0; i < NASTY_COUNT * NASTY_COUNT; i++) {
        struct audit_session of;
        struct audit_supplied record;
        nasty_record(i, &of, &record);
        of.id >>= 1; /* jansson's numbers have a sign */
        size_t len = render(text, AUDIT_BODY_MAX, &of, "ch\"unks", "strip", &record);
        struct audit_piece *who = audit_piece_who(&of, "ch\"unks", "strip");
        struct audit_piece *what = audit_piece_what(&record);
        assert_non_null(who);
        assert_non_null(what);
        assert_int_equal(who->len + what->len, len);
        assert_memory_equal(who->text, text, who->len);
        assert_memory_equal(what->text, text + who->len, what->len);
        free(what);
        free(who);

        text[0] = '{';
        text[len] = '}';
        text[len + 1] = '\0';
        json_t *read = json_loads(text, 0, NULL);
        assert_non_null(read);
        char *again = json_dumps(read, JSON_COMPACT);
        char *expected = reference(&of, &record);
        assert_string_equal(again, expected);
        free(expected);
        free(again);
        json_decref(read);
    }
}

/* The lines of `path` behind their numbers and times, joined. */
static char *bodies(void)
{
    char *all = NULL;
    size_t all_len = 0;
    FILE *to = open_memstream(&all, &all_len);
    FILE *from = fopen(path, "r");
    assert_non_null(to);
    assert_non_null(from);
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, from) > 0) {
        const char *body = strstr(line, ",\"event\":");
        assert_non_null(body);
        fputs(body, to);
    }
    free(line);
    fclose(from);
    fclose(to);
    return all;
}

static void a_statement_that_comes_again_is_told_as_one_that_comes_once(void **state)
{
    (void)state;
    fill_nasty();
    struct audit *again = opened();
    for (size_t i = 0; i < NASTY_COUNT * 2; i++) {
        struct audit_session of;
        struct audit_supplied record;
        nasty_record(i, &of, &record);
        struct audit_piece *who = audit_piece_who(&of, "chunks", "strip");
        struct audit_piece *what = audit_piece_what(&record);
        audit_tell(again, who, what, &(struct audit_compared){0});
        free(what);
        free(who);
    }
    audit_close(again);
    char *told_again = bodies();
    assert_int_equal(unlink(path), 0);
    struct audit *once = opened();
    for (size_t i = 0; i < NASTY_COUNT * 2; i++) {
        struct audit_session of;
        struct audit_supplied record;
        nasty_record(i, &of, &record);
        struct audit_piece *who = audit_piece_who(&of, "chunks", "strip");
        audit_tell_once(once, who, &record);
        free(who);
    }
    audit_close(once);
    char *told_once = bodies();
    assert_string_equal(told_again, told_once);
    free(told_again);
    free(told_once);
}

static void *write_thousand(void *arg)
{
    for (int i = 0; i < 1000; i++) {
        tell(arg, &session, i % 2 == 0 ? &stripped : &refused);
    }
    return NULL;
}

static void records_of_many_threads_are_numbered_without_a_gap(void **state)
{
    (void)state;
    struct audit *audit = opened();
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++) {
        pthread_create(&threads[i], NULL, write_thousand, audit);
    }
    audit_step(audit, "chunks", "3", "holding", "a \"step\"");
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_true(audit_healthy(audit));
    audit_close(audit);
    assert_int_equal(verified(path), 4001);

    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void numbers_go_on_where_the_file_ended(void **state)
{
    (void)state;
    struct audit *audit = opened();
    write_thousand(audit);
    audit_close(audit);
    audit = opened();
    tell(audit, &session, &stripped);
    audit_close(audit);
    assert_int_equal(verified(path), 1001);

    /* a crash cut the last line: the next begins on a line of its own */
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size - 10), 0);
    audit = opened();
    tell(audit, &session, &stripped);
    audit_close(audit);
    json_t *report;
    struct failure f;
    assert_int_equal(audit_verify(path, &report, &f), EXIT_REFUSED);
    assert_int_equal(json_integer_value(json_object_get(report, "records")), 1001);
    assert_int_equal(json_integer_value(json_object_get(report, "last_seq")), 1001);
    assert_int_equal(json_array_size(json_object_get(report, "findings")), 1);
    json_decref(report);
}

static void one_process_writes_a_file(void **state)
{
    (void)state;
    struct audit *audit = opened();
    struct audit *second;
    struct failure f;
    assert_false(audit_open(path, AUDIT_FSYNC_NONE, &second, &f));
    assert_non_null(strstr(f.msg, "is in use by another process"));
    assert_true(audit_reopen(audit));
    audit_close(audit);
    assert_false(audit_open(directory, AUDIT_FSYNC_NONE, &second, &f));
    assert_non_null(strstr(f.msg, "Is a directory"));
    assert_int_equal(f.code, EXIT_USAGE);
}

static void a_rotated_file_is_followed_by_a_new_one(void **state)
{
    (void)state;
    char rotated[160];
    snprintf(rotated, sizeof rotated, "%s.1", path);
    struct audit *audit = opened();
    struct audit_counters counters = {0};
    write_thousand(audit);
    for (int i = 0; i < 1000 && counters.written < 1000; i++) {
        pause_ms(10);
        audit_count(audit, &counters);
    }
    assert_int_equal(rename(path, rotated), 0);
    assert_true(audit_reopen(audit));
    write_thousand(audit);
    audit_close(audit);
    json_int_t before = verified(rotated);
    json_int_t after = verified(path);
    assert_int_equal(before, 1000);
    assert_int_equal(after, 1000);
}

static void a_full_disk_delays_records_and_loses_none(void **state)
{
    (void)state;
    struct rlimit before;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    const struct rlimit full = {.rlim_cur = 10000, .rlim_max = before.rlim_max};
    struct audit *audit = opened();
    setrlimit(RLIMIT_FSIZE, &full);
    log_init(false, LOG_LEVEL_ERROR + 1);
    write_thousand(audit);
    for (int i = 0; i < 1000 && audit_healthy(audit); i++) {
        pause_ms(10);
    }
    assert_false(audit_healthy(audit));
    setrlimit(RLIMIT_FSIZE, &before);
    struct audit_counters counters = {0};
    for (int i = 0; i < 1000 && counters.written < 1000; i++) {
        pause_ms(10);
        audit_count(audit, &counters);
    }
    assert_int_equal(counters.written, 1000);
    for (int i = 0; i < 1000 && !audit_healthy(audit); i++) {
        pause_ms(10);
    }
    assert_true(audit_healthy(audit));
    assert_int_equal(counters.lost, 0);
    audit_close(audit);
    assert_int_equal(verified(path), 1000);
}

static void batches_are_forced_to_the_disk_several_at_a_time_and_the_last_one_too(void **state)
{
    (void)state;
    atomic_store(&syncs, 0);
    struct audit *audit = opened_with(AUDIT_FSYNC_BATCH);
    for (int i = 0; i < 50; i++) {
        tell(audit, &session, &stripped);
        pause_ms(10);
    }
    const int before = atomic_load(&syncs);
    assert_in_range(before, 1, 20); /* the records came in some 25 batches or more */
    tell(audit, &session, &stripped);
    pause_ms(400);
    const int after = atomic_load(&syncs);
    assert_in_range(after, before + 1, before + 2);
    pause_ms(200);
    assert_int_equal(atomic_load(&syncs), after);
    tell(audit, &session, &stripped);
    audit_close(audit);
    assert_int_equal(atomic_load(&syncs), after + 1);
}

static void each_record_is_forced_to_the_disk_where_that_is_asked_for(void **state)
{
    (void)state;
    atomic_store(&syncs, 0);
    struct audit *audit = opened_with(AUDIT_FSYNC_EACH);
    for (int i = 0; i < 20; i++) {
        tell(audit, &session, &stripped);
    }
    audit_close(audit);
    assert_int_equal(atomic_load(&syncs), 20);
    assert_int_equal(verified(path), 20);
}

static void a_disk_that_cannot_be_forced_is_not_healthy_until_it_can(void **state)
{
    (void)state;
    log_init(false, LOG_LEVEL_ERROR + 1);
    struct audit *audit = opened_with(AUDIT_FSYNC_BATCH);
    atomic_store(&failing_syncs, 1);
    tell(audit, &session, &stripped);
    for (int i = 0; i < 1000 && audit_healthy(audit); i++) {
        pause_ms(10);
    }
    assert_false(audit_healthy(audit));
    for (int i = 0; i < 1000 && !audit_healthy(audit); i++) {
        pause_ms(10);
    }
    assert_true(audit_healthy(audit));
    log_init(false, LOG_LEVEL_INFO);
    audit_close(audit);
    assert_int_equal(verified(path), 1);
}

static void what_does_not_fit_the_queue_is_counted_and_said(void **state)
{
    (void)state;
    struct rlimit before;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    const struct rlimit full = {.rlim_cur = 1, .rlim_max = before.rlim_max};
    log_init(false, LOG_LEVEL_ERROR + 1);
    struct audit *audit = opened();
    setrlimit(RLIMIT_FSIZE, &full);
    for (int i = 0; i < 80; i++) {
        write_thousand(audit);
    }
    struct audit_counters counters;
    audit_count(audit, &counters);
    assert_true(counters.lost > 0);
    assert_false(audit_healthy(audit));
    setrlimit(RLIMIT_FSIZE, &before);
    for (int i = 0; i < 1000 && !audit_healthy(audit); i++) {
        pause_ms(10);
    }
    audit_close(audit);

    json_t *report;
    struct failure f;
    assert_int_equal(audit_verify(path, &report, &f), EXIT_REFUSED);
    json_int_t records = json_integer_value(json_object_get(report, "records"));
    json_int_t lost = json_integer_value(json_object_get(report, "lost"));
    /* A record for each time that some were lost: on a busy machine more than once. */
    json_int_t times = (json_int_t)json_array_size(json_object_get(report, "findings"));
    assert_int_equal(lost, counters.lost);
    assert_int_equal(records - times + lost, 80 * 1000);
    assert_int_equal(json_integer_value(json_object_get(report, "last_seq")), records);
    json_decref(report);
}

static void without_a_path_nothing_happens(void **state)
{
    (void)state;
    struct audit *audit;
    struct failure f;
    struct audit_counters counters;
    assert_true(audit_open(NULL, AUDIT_FSYNC_EACH, &audit, &f));
    tell(audit, &session, &stripped);
    audit_step(audit, "r", "1", "s", NULL);
    audit_count(audit, &counters);
    assert_int_equal(counters.written, 0);
    assert_true(audit_healthy(audit));
    assert_true(audit_reopen(audit));
    audit_close(audit);
}

static void the_report_says_who_still_supplies_the_key(void **state)
{
    (void)state;
    struct audit *audit = opened();
    struct audit_session other = session;
    other.application_name = "worker";
    for (int i = 0; i < 3; i++) {
        tell(audit, &session, &stripped);
    }
    tell(audit, &session, &refused);
    tell(audit, &other, &refused);
    audit_step(audit, "chunks", "1", "flipped", "12 ms");
    audit_close(audit);
    FILE *file = fopen(path, "a");
    assert_non_null(file);
    fputs("not a record\n{\"seq\":7,\"ti", file);
    fclose(file);

    json_t *report;
    struct failure f;
    assert_int_equal(audit_report(path, NULL, &report, &f), EXIT_DONE);
    assert_int_equal(json_integer_value(json_object_get(report, "records")), 6);
    assert_int_equal(json_integer_value(json_object_get(report, "damaged_lines")), 1);
    assert_int_equal(json_integer_value(json_object_get(report, "cut_lines")), 1);
    json_t *clients = json_object_get(report, "clients");
    assert_int_equal(json_array_size(clients), 2);
    json_t *busiest = json_array_get(clients, 0);
    assert_string_equal(json_string_value(json_object_get(busiest, "application_name")), "loader");
    assert_int_equal(json_integer_value(json_object_get(busiest, "supplied")), 4);
    assert_int_equal(json_integer_value(json_object_get(busiest, "stripped")), 3);
    assert_int_equal(json_integer_value(json_object_get(busiest, "refused")), 1);
    assert_int_equal(json_integer_value(json_object_get(busiest, "rows")), 3);
    json_t *statements = json_object_get(busiest, "statements");
    assert_int_equal(json_array_size(statements), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(statements, 0), "text")),
                        stripped.text);
    assert_int_equal(json_array_size(json_object_get(report, "cutover")), 1);
    json_decref(report);

    assert_int_equal(audit_report(path, "2999", &report, &f), EXIT_DONE);
    assert_int_equal(json_integer_value(json_object_get(report, "records")), 0);
    json_decref(report);
    assert_int_equal(audit_report("/nowhere", NULL, &report, &f), EXIT_USAGE);
}

static void gaps_and_foreign_lines_are_found(void **state)
{
    (void)state;
    json_t *report;
    struct failure f;
    write_file("{\"seq\":5}\n{\"seq\":6}\n{\"seq\":9}\n{\"seq\":9}\nx\n{\"seq\":10}\n");
    assert_int_equal(audit_verify(path, &report, &f), EXIT_REFUSED);
    json_t *findings = json_object_get(report, "findings");
    assert_int_equal(json_array_size(findings), 3);
    assert_string_equal(json_string_value(json_object_get(json_array_get(findings, 0), "what")),
                        "number 9 follows on 6");
    assert_int_equal(json_integer_value(json_object_get(json_array_get(findings, 2), "line")), 5);
    json_decref(report);
    write_file("");
    assert_int_equal(audit_verify(path, &report, &f), EXIT_DONE);
    json_decref(report);
}

#define AUDIT_TEST(f) cmocka_unit_test_setup_teardown(f, make_directory, remove_directory)

int main(void)
{
    const struct CMUnitTest tests[] = {
        AUDIT_TEST(a_record_has_its_fields_in_order),
        AUDIT_TEST(what_is_not_known_is_left_out),
        AUDIT_TEST(text_is_escaped_and_repaired),
        AUDIT_TEST(a_long_statement_is_cut_between_characters),
        AUDIT_TEST(what_is_rendered_once_is_what_is_rendered_at_once),
        AUDIT_TEST(a_statement_that_comes_again_is_told_as_one_that_comes_once),
        AUDIT_TEST(records_of_many_threads_are_numbered_without_a_gap),
        AUDIT_TEST(numbers_go_on_where_the_file_ended),
        AUDIT_TEST(one_process_writes_a_file),
        AUDIT_TEST(a_rotated_file_is_followed_by_a_new_one),
        AUDIT_TEST(a_full_disk_delays_records_and_loses_none),
        AUDIT_TEST(batches_are_forced_to_the_disk_several_at_a_time_and_the_last_one_too),
        AUDIT_TEST(each_record_is_forced_to_the_disk_where_that_is_asked_for),
        AUDIT_TEST(a_disk_that_cannot_be_forced_is_not_healthy_until_it_can),
        AUDIT_TEST(what_does_not_fit_the_queue_is_counted_and_said),
        AUDIT_TEST(without_a_path_nothing_happens),
        AUDIT_TEST(the_report_says_who_still_supplies_the_key),
        AUDIT_TEST(gaps_and_foreign_lines_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

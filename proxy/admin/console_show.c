/* What SHOW shows of what every thread may read: gates, the cutover, rules, settings, counters. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "protocol/message.h"
#include "proxy/admin/board.h"
#include "proxy/admin/console.h"
#include "proxy/config_keys.h"
#include "proxy/service.h"
#include "proxy/session/session.h"

#define NS_PER_MS 1000000u
#define VALUE_MAX 4096

/* --- gates --- */

static const struct message_column gate_columns[] = {
    {"rule", MESSAGE_TEXT},        {"database", MESSAGE_TEXT},    {"table", MESSAGE_TEXT},
    {"state", MESSAGE_TEXT},       {"held", MESSAGE_INT8},        {"held_total", MESSAGE_INT8},
    {"max_held_ms", MESSAGE_INT8}, {"ttl_left_ms", MESSAGE_INT8}, {"overflowed", MESSAGE_INT8},
    {"expired", MESSAGE_INT8},     {"dropped", MESSAGE_INT8},     {"inflight", MESSAGE_INT8},
    {"snapshots", MESSAGE_INT8},
};

static void write_table(struct writer *w, const struct config_rule *rule)
{
    char name[256];
    snprintf(name, sizeof name, "%s.%s", rule->schema, rule->table);
    message_write_value(w, name);
}

static void show_gates(const struct session *s, struct writer *w)
{
    static const char *const states[] = {
        [GATE_OPEN] = "open", [GATE_ARMED] = "armed", [GATE_HOLDING] = "holding"};
    const struct service *service = session_service(s);
    const struct config *config = service_config(service);
    for (size_t i = 0; i < config->rule_count; i++) {
        const struct gate *gate = service->gates[i];
        struct gate_counts counts;
        gate_count(gate, &counts);
        message_begin_row(w, sizeof gate_columns / sizeof gate_columns[0]);
        message_write_value(w, config->rules[i].name);
        message_write_value(w, config->rules[i].database);
        write_table(w, &config->rules[i]);
        message_write_value(w, states[gate_state(gate)]);
        message_write_number(w, (int64_t)counts.held);
        message_write_number(w, (int64_t)counts.held_total);
        message_write_number(w, (int64_t)(counts.max_held_ns / NS_PER_MS));
        message_write_number(w, (int64_t)(gate_left(gate, gate_now()) / NS_PER_MS));
        message_write_number(w, (int64_t)counts.overflow_total);
        message_write_number(w, (int64_t)counts.expired_total);
        message_write_number(w, (int64_t)counts.dropped_total);
        message_write_number(w, (int64_t)counts.inflight_writes);
        message_write_number(w, (int64_t)counts.snapshots);
        writer_end(w);
    }
}

/* --- the cutover --- */

static const struct message_column cutover_columns[] = {
    {"command", MESSAGE_TEXT}, {"rule", MESSAGE_TEXT},    {"strategy", MESSAGE_TEXT},
    {"phase", MESSAGE_TEXT},   {"percent", MESSAGE_INT8}, {"detail", MESSAGE_TEXT},
    {"started", MESSAGE_TEXT}, {"ended", MESSAGE_TEXT},   {"exit", MESSAGE_INT8},
    {"outcome", MESSAGE_TEXT},
};

/* In the zone that the console announces. */
static void write_time(struct writer *w, time_t when)
{
    char text[32];
    struct tm tm;
    const bool is_told = when != 0 && gmtime_r(&when, &tm) != NULL &&
                         strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S GMT", &tm) > 0;
    message_write_value(w, is_told ? text : NULL);
}

static void write_entry(struct writer *w, const struct board_entry *entry)
{
    const bool has_ended = entry->ended != 0;
    message_begin_row(w, sizeof cutover_columns / sizeof cutover_columns[0]);
    message_write_value(w, entry->command);
    message_write_value(w, entry->rule);
    message_write_value(w, entry->strategy);
    message_write_value(w, entry->phase);
    if (entry->done >= 0) {
        message_write_number(w, (int64_t)(entry->done * 100));
    } else {
        message_write_value(w, NULL);
    }
    message_write_value(w, entry->text);
    write_time(w, entry->started);
    write_time(w, entry->ended);
    if (has_ended) {
        message_write_number(w, entry->exit);
    } else {
        message_write_value(w, NULL);
    }
    message_write_value(w, has_ended ? entry->summary : NULL);
    writer_end(w);
}

static void show_cutover(const struct session *s, struct writer *w)
{
    struct board_entry now, last;
    board_read(session_service(s)->board, &now, &last);
    if (now.is_there) {
        write_entry(w, &now);
    }
    if (last.is_there) {
        write_entry(w, &last);
    }
}

/* --- rules and settings --- */

static const struct message_column rule_columns[] = {
    {"rule", MESSAGE_TEXT},        {"database", MESSAGE_TEXT},    {"table", MESSAGE_TEXT},
    {"column", MESSAGE_TEXT},      {"mode", MESSAGE_TEXT},        {"on_mismatch", MESSAGE_TEXT},
    {"unqualified", MESSAGE_TEXT}, {"on_unparsed", MESSAGE_TEXT}, {"expression", MESSAGE_TEXT},
};

static void show_rules(const struct session *s, struct writer *w)
{
    static const char *const shown[] = {"mode", "on_mismatch", "unqualified", "on_unparsed",
                                        "expression"};
    const struct config *config = service_config(session_service(s));
    for (size_t i = 0; i < config->rule_count; i++) {
        const struct config_rule *rule = &config->rules[i];
        message_begin_row(w, sizeof rule_columns / sizeof rule_columns[0]);
        message_write_value(w, rule->name);
        message_write_value(w, rule->database);
        write_table(w, rule);
        message_write_value(w, rule->column);
        for (size_t k = 0; k < sizeof shown / sizeof shown[0]; k++) {
            char value[VALUE_MAX];
            const bool is_set =
                config_key_show(CONFIG_SECTION_RULE, shown[k], config, rule, value, sizeof value);
            message_write_value(w, is_set ? value : NULL);
        }
        writer_end(w);
    }
}

static const struct message_column pair_columns[] = {{"key", MESSAGE_TEXT},
                                                     {"value", MESSAGE_TEXT}};

static void show_config(const struct session *s, struct writer *w)
{
    const struct config *config = service_config(session_service(s));
    for (int key = 0; key < config_key_count(CONFIG_SECTION_MAIN); key++) {
        char value[VALUE_MAX];
        const char *name = config_key_label(CONFIG_SECTION_MAIN, key);
        const bool is_set =
            config_key_show(CONFIG_SECTION_MAIN, name, config, NULL, value, sizeof value);
        message_begin_row(w, 2);
        message_write_value(w, name);
        message_write_value(w, is_set ? value : NULL);
        writer_end(w);
    }
}

static const struct message_column database_columns[] = {{"name", MESSAGE_TEXT},
                                                         {"rules", MESSAGE_INT8}};

/* Those that rules concern; any other is the server's to know. */
static void show_databases(const struct session *s, struct writer *w)
{
    worker_rules(s->worker, CONSOLE_DATABASE); /* takes up the newest */
    const struct catalog_snapshot *snapshot = s->worker->snapshot;
    for (size_t i = 0; i < snapshot->database_count; i++) {
        message_begin_row(w, 2);
        message_write_value(w, snapshot->databases[i].name);
        message_write_number(w, (int64_t)snapshot->databases[i].rule_count);
        writer_end(w);
    }
}

static const struct message_column host_columns[] = {
    {"host", MESSAGE_TEXT}, {"port", MESSAGE_TEXT}, {"role", MESSAGE_TEXT}};

static void show_hosts(const struct session *s, struct writer *w)
{
    const struct upstream *upstream = session_service(s)->upstream;
    for (size_t i = 0; i < upstream->count; i++) {
        const struct upstream_host *host = &upstream->hosts[i];
        message_begin_row(w, 3);
        message_write_value(w, host->name);
        message_write_value(w, host->port);
        message_write_value(w, upstream_role_name(atomic_load(&host->role)));
        writer_end(w);
    }
}

/* --- counters --- */

static const struct {
    const char *name;
    size_t at; /* in struct worker_counters */
} counters[] = {
    {"sessions", offsetof(struct worker_counters, sessions)},
    {"sessions_total", offsetof(struct worker_counters, sessions_total)},
    {"transactions", offsetof(struct worker_counters, statements)},
    {"judged", offsetof(struct worker_counters, judged)},
    {"keys_observed", offsetof(struct worker_counters, observed)},
    {"keys_stripped", offsetof(struct worker_counters, stripped)},
    {"keys_computed", offsetof(struct worker_counters, computed)},
    {"keys_refused", offsetof(struct worker_counters, refused)},
    {"cache_hits", offsetof(struct worker_counters, cache_hits)},
    {"cache_misses", offsetof(struct worker_counters, cache_misses)},
    {"cache_bytes", offsetof(struct worker_counters, cache_bytes)},
};
#define COUNTERS (sizeof counters / sizeof counters[0])

static uint64_t counter_of(const struct worker *worker, size_t which)
{
    const char *base = (const char *)&worker->counters;
    return atomic_load_explicit((const _Atomic uint64_t *)(const void *)(base + counters[which].at),
                                memory_order_relaxed);
}

static void show_stats(const struct session *s, struct writer *w)
{
    const struct service *service = session_service(s);
    struct message_column columns[1 + COUNTERS] = {{"worker", MESSAGE_INT8}};
    for (size_t c = 0; c < COUNTERS; c++) {
        columns[1 + c] = (struct message_column){counters[c].name, MESSAGE_INT8};
    }
    message_write_columns(w, columns, 1 + COUNTERS);
    for (unsigned i = 0; i < service->worker_count; i++) {
        message_begin_row(w, 1 + COUNTERS);
        message_write_number(w, i);
        for (size_t c = 0; c < COUNTERS; c++) {
            message_write_number(w, (int64_t)counter_of(service->workers[i], c));
        }
        writer_end(w);
    }
}

static const struct message_column total_columns[] = {{"name", MESSAGE_TEXT},
                                                      {"value", MESSAGE_INT8}};

static void write_total(struct writer *w, const char *name, uint64_t value)
{
    message_begin_row(w, 2);
    message_write_value(w, name);
    message_write_number(w, (int64_t)value);
    writer_end(w);
}

static void show_totals(const struct session *s, struct writer *w)
{
    const struct service *service = session_service(s);
    struct audit_counters audit;
    audit_count(service->audit, &audit);
    for (size_t c = 0; c < COUNTERS; c++) {
        uint64_t sum = 0;
        for (unsigned i = 0; i < service->worker_count; i++) {
            sum += counter_of(service->workers[i], c);
        }
        write_total(w, counters[c].name, sum);
    }
    write_total(w, "audit_written", audit.written);
    write_total(w, "audit_lost", audit.lost);
}

/* --- the commands --- */

static const struct message_column version_columns[] = {{"version", MESSAGE_TEXT}};

static void show_version(const struct session *s, struct writer *w)
{
    (void)s;
    message_begin_row(w, 1);
    message_write_value(w, "pgsluice " PGSLUICE_VERSION);
    writer_end(w);
}

static const struct message_column help_columns[] = {{"command", MESSAGE_TEXT},
                                                     {"description", MESSAGE_TEXT}};

static void show_help(const struct session *s, struct writer *w);

#define COLUMNS(of) of##_columns, sizeof of##_columns / sizeof of##_columns[0]

static const struct show {
    const char *what;
    const char *description;
    const struct message_column *columns; /* NULL: `rows` writes them */
    size_t column_count;
    void (*rows)(const struct session *s, struct writer *w);
} shows[] = {
    {"HELP", "the commands", COLUMNS(help), show_help},
    {"CLIENTS", "each client and its server process", NULL, 0, NULL},
    {"CONFIG", "the settings in force", COLUMNS(pair), show_config},
    {"CUTOVER", "the cutover, rollback or finish under way, and the last one", COLUMNS(cutover),
     show_cutover},
    {"DATABASES", "the databases that rules concern", COLUMNS(database), show_databases},
    {"GATES", "each guarded table: whether its gate is open, who waits", COLUMNS(gate), show_gates},
    {"HOSTS", "the servers", COLUMNS(host), show_hosts},
    {"RULES", "the rules in force", COLUMNS(rule), show_rules},
    {"STATS", "what each worker has counted", NULL, 0, show_stats},
    {"TOTALS", "the same in sum", COLUMNS(total), show_totals},
    {"VERSION", "of pgsluice", COLUMNS(version), show_version},
};
#define SHOWS (sizeof shows / sizeof shows[0])

static void write_help(struct writer *w, const char *verb, const char *what, const char *text)
{
    char command[64];
    snprintf(command, sizeof command, "%s%s", verb, what);
    message_begin_row(w, 2);
    message_write_value(w, command);
    message_write_value(w, text);
    writer_end(w);
}

static void show_help(const struct session *s, struct writer *w)
{
    (void)s;
    for (size_t i = 0; i < SHOWS; i++) {
        write_help(w, "SHOW ", shows[i].what, shows[i].description);
    }
    write_help(w, "RELOAD", "", "as SIGHUP does; the log says what came of it");
    write_help(w, "SHUTDOWN", "", "as SIGTERM does: sessions end at their transaction's end");
}

bool console_show(const struct session *s, const char *what, struct writer *w)
{
    for (size_t i = 0; i < SHOWS; i++) {
        const struct show *show = &shows[i];
        if (strcmp(what, show->what) != 0 || show->rows == NULL) {
            continue;
        }
        if (show->columns != NULL) {
            message_write_columns(w, show->columns, show->column_count);
        }
        show->rows(s, w);
        message_write_complete(w, "SHOW");
        return true;
    }
    return false;
}

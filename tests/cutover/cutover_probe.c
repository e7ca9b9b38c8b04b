/*
 * Runs one cutover command as the serving process would, without a proxy: for the tests of the
 * machine on real servers. Prints the report as JSON, progress on stderr, and exits with the
 * command's code.
 *
 *   cutover_probe plan|cutover|rollback|finish|verify|catalog CONNINFO KEY=VALUE...
 *
 * Keys: database, schema, table, column, expression, mode, strategy, max_hold, pause, abort_after
 * (ms, from the start or from the beginning of abort_phase), proxied (the server process that a
 * proxy's session has), audit (a log), text (yes: for people).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proxy/catalog.h"
#include "proxy/cutover/cutover.h"
#include "proxy/log.h"

struct probe {
    double began_ms;
    double abort_after_ms;   /* 0: never */
    const char *abort_phase; /* count from the beginning of this phase; NULL: from the start */
    double counting_ms;      /* 0: not yet */
    unsigned changes;
    int proxied; /* a server process that is said to serve the proxy */
};

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void on_progress(void *arg, const char *phase, const char *text, double done)
{
    struct probe *p = arg;
    (void)done;
    if (p->abort_phase != NULL && p->counting_ms <= 0 && strcmp(phase, p->abort_phase) == 0) {
        p->counting_ms = now_ms();
    }
    fprintf(stderr, "%8.1f %s: %s\n", now_ms() - p->began_ms, phase, text);
}

static bool on_abort(void *arg)
{
    const struct probe *p = arg;
    return p->abort_after_ms > 0 && p->counting_ms > 0 &&
           now_ms() - p->counting_ms > p->abort_after_ms;
}

static bool on_is_proxied(void *arg, int backend_pid)
{
    const struct probe *p = arg;
    return backend_pid == p->proxied;
}

static bool on_schema_changed(void *arg, struct failure *f)
{
    struct probe *p = arg;
    (void)f;
    p->changes++;
    return true;
}

/* Prints how the rules see the table. */
static int show_catalog(const struct config *config)
{
    struct catalog *catalog = NULL;
    struct failure f;
    if (!catalog_open(config, &catalog, &f)) {
        printf("%s\n", f.msg);
        return (int)f.code;
    }
    struct catalog_snapshot *snapshot = catalog_ref(catalog);
    for (size_t d = 0; d < snapshot->database_count; d++) {
        const struct rule *rule = rule_set_get(snapshot->databases[d].set, 0);
        printf("%s %d %d", snapshot->databases[d].name, (int)rule->shape, rule->reordered);
        for (size_t i = 0; i < rule->column_count; i++) {
            printf(" %s", rule->columns[i].name);
        }
        for (size_t i = 0; i < rule->dependent_count; i++) {
            printf(" +%s.%s", rule->dependents[i].schema, rule->dependents[i].name);
        }
        printf("\n");
    }
    catalog_unref(catalog, snapshot);
    catalog_close(catalog);
    return 0;
}

static const char *option(int argc, char **argv, const char *key, const char *otherwise)
{
    size_t len = strlen(key);
    for (int i = 3; i < argc; i++) {
        if (strncmp(argv[i], key, len) == 0 && argv[i][len] == '=') {
            return argv[i] + len + 1;
        }
    }
    return otherwise;
}

static enum rule_mode mode_of(const char *name)
{
    static const char *const names[] = {"observe", "strip", "compute", "reject"};
    int mode = 0;
    while (mode < RULE_MODE_REJECT && strcmp(names[mode], name) != 0) {
        mode++;
    }
    return (enum rule_mode)mode;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "cutover_probe COMMAND CONNINFO KEY=VALUE...\n");
        return EXIT_USAGE;
    }
    log_init(false, LOG_LEVEL_WARNING);
    char database[64];
    char schema[64];
    char table[64];
    char column[64];
    char expression[256];
    snprintf(database, sizeof database, "%s", option(argc, argv, "database", ""));
    snprintf(schema, sizeof schema, "%s", option(argc, argv, "schema", "public"));
    snprintf(table, sizeof table, "%s", option(argc, argv, "table", "chunks"));
    snprintf(column, sizeof column, "%s", option(argc, argv, "column", "partition_key"));
    snprintf(expression, sizeof expression, "%s",
             option(argc, argv, "expression", "mod(hashtext(collection_id::text), 100)"));
    char name[] = "chunks";
    struct config_rule rule = {.name = name,
                               .database = database[0] != '\0' ? database : NULL,
                               .schema = schema,
                               .table = table,
                               .column = column,
                               .expression = expression,
                               .mode = mode_of(option(argc, argv, "mode", "strip")),
                               .unqualified_guarded = true};
    char audit[512];
    snprintf(audit, sizeof audit, "%s", option(argc, argv, "audit", ""));
    struct config config = {.control = argv[2],
                            .audit = audit[0] != '\0' ? audit : NULL,
                            .hold_ttl_ms = 2000,
                            .rules = &rule,
                            .rule_count = 1};
    const char *strategy = option(argc, argv, "strategy", "auto");
    struct cutover_options options = {
        .strategy = strcmp(strategy, "swap") == 0      ? CUTOVER_SWAP
                    : strcmp(strategy, "inplace") == 0 ? CUTOVER_INPLACE
                                                       : CUTOVER_AUTO,
        .pause_ms = strtoull(option(argc, argv, "pause", "0"), NULL, 10),
        .max_hold_ms = strtoull(option(argc, argv, "max_hold", "10000"), NULL, 10)};
    struct probe probe = {.began_ms = now_ms(),
                          .abort_after_ms = strtod(option(argc, argv, "abort_after", "0"), NULL),
                          .abort_phase = option(argc, argv, "abort_phase", NULL)};
    probe.counting_ms = probe.abort_phase == NULL ? probe.began_ms : 0;
    struct cutover_host host = {.arg = &probe,
                                .progress = on_progress,
                                .abort_requested = on_abort,
                                .schema_changed = on_schema_changed};
    const char *proxied = option(argc, argv, "proxied", NULL);
    if (proxied != NULL) {
        probe.proxied = (int)strtol(proxied, NULL, 10);
        host.is_proxied = on_is_proxied;
    }
    json_t *report = NULL;
    enum exit_code code = EXIT_USAGE;
    if (strcmp(argv[1], "plan") == 0) {
        code = cutover_plan(&config, &rule, &options, &host, &report);
    } else if (strcmp(argv[1], "cutover") == 0) {
        code = cutover_run(&config, &rule, &options, &host, &report);
    } else if (strcmp(argv[1], "rollback") == 0) {
        code = cutover_rollback(&config, &rule, &options, &host, &report);
    } else if (strcmp(argv[1], "finish") == 0) {
        code = cutover_finish(&config, &rule, &options, &host, &report);
    } else if (strcmp(argv[1], "verify") == 0) {
        code = cutover_verify(&config, &rule, &report);
    } else if (strcmp(argv[1], "catalog") == 0) {
        return show_catalog(&config);
    }
    if (report == NULL) {
        return (int)code;
    }
    if (strcmp(option(argc, argv, "text", "no"), "yes") == 0) {
        cutover_print(report);
    } else {
        json_object_set_new(report, "schema_changes", json_integer(probe.changes));
        json_dumpf(report, stdout, JSON_INDENT(2));
        printf("\n");
    }
    json_decref(report);
    return (int)code;
}

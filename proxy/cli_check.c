/* `pgsluice check`: configuration, server, catalog, and what each rule would do; see cli.h. */
#include "proxy/cli.h"

#include "proxy/catalog.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <string.h>

static const char *const mode_names[] = {"observe", "strip", "compute", "reject"};
static const char *const shape_names[] = {"plain", "generated", "partition_key"};
static const char *const computed_by[] = {
    "a trigger, or nobody (pgsluice plan tells)",
    "the server: GENERATED ALWAYS AS ... STORED",
    "nobody can: the table is partitioned by the column",
};

static const char *effect(const struct rule *rule, enum rule_mode mode)
{
    bool generated = rule->shape == RULE_SHAPE_GENERATED;
    switch (mode) {
    case RULE_MODE_OBSERVE:
        return generated
                   ? "a statement that supplies the column is forwarded unchanged and recorded; "
                     "the server refuses it"
                   : "a statement that supplies the column is forwarded unchanged and recorded";
    case RULE_MODE_STRIP:
        return generated ? "a supplied value is removed; the server computes it"
                         : "a supplied value is removed; the table's trigger computes it";
    case RULE_MODE_COMPUTE:
        return generated
                   ? "a supplied value is removed; the server computes it"
                   : "the column is the expression over the row's own values, supplied or not";
    case RULE_MODE_REJECT:
        return "a statement that supplies the column is refused with 428C9";
    }
    return "";
}

static const char *ping_text(PGPing ping)
{
    switch (ping) {
    case PQPING_OK:
        return "accepts connections";
    case PQPING_REJECT:
        return "refuses connections now (starting, stopping or recovering)";
    case PQPING_NO_RESPONSE:
        return "does not answer";
    case PQPING_NO_ATTEMPT:
        return "cannot be tried with these parameters";
    }
    return "";
}

static PGPing ping(const struct config *config)
{
    char timeout[32];
    uint64_t seconds = config->server_connect_timeout_ms / 1000;
    snprintf(timeout, sizeof timeout, "%llu", (unsigned long long)(seconds < 2 ? 2 : seconds));
    /* the connection string comes later and so wins */
    const char *const keywords[] = {"connect_timeout", "dbname", NULL};
    const char *const values[] = {timeout, config->server, NULL};
    return PQpingParams(keywords, values, 1);
}

static void add_rules(const struct config *config, const struct catalog_database *database,
                      json_t *rules)
{
    for (size_t i = 0; i < database->rule_count; i++) {
        const struct rule *rule = rule_set_get(database->set, i);
        const struct config_rule *written = &config->rules[database->rule_index[i]];
        char table[160];
        snprintf(table, sizeof table, "%s.%s", rule->schema, rule->table);
        json_array_append_new(
            rules,
            json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I}", "rule", rule->name,
                      "database", database->name, "table", table, "column", rule->column,
                      "expression", written->expression, "mode", mode_names[written->mode], "shape",
                      shape_names[rule->shape], "computed_by", computed_by[rule->shape], "effect",
                      effect(rule, written->mode), "columns", (json_int_t)rule->column_count));
    }
}

static bool read_rules(const struct config *config, json_t *rules, struct failure *f)
{
    struct catalog *catalog;
    if (!catalog_open(config, &catalog, f)) {
        return false;
    }
    struct catalog_snapshot *snapshot = catalog_ref(catalog);
    bool ok = true;
    for (size_t i = 0; i < snapshot->database_count; i++) {
        const struct catalog_database *database = &snapshot->databases[i];
        add_rules(config, database, rules);
        if (database->complaint != NULL && ok) {
            ok = fail(f, EXIT_REFUSED, "%s", database->complaint);
        }
    }
    catalog_unref(catalog, snapshot);
    catalog_close(catalog);
    return ok;
}

static const char *text_of(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));
    return text != NULL ? text : "";
}

/* Only what each is makes a list worth reading: the names stand in `server`. */
static void print_hosts(const json_t *hosts)
{
    for (size_t i = 0; i < json_array_size(hosts); i++) {
        const json_t *host = json_array_get(hosts, i);
        if (json_object_get(host, "role") != NULL) {
            printf("  host         %s, port %s: %s\n", text_of(host, "host"), text_of(host, "port"),
                   text_of(host, "role"));
        }
    }
}

static void print_login(const json_t *login)
{
    const json_t *users = json_object_get(login, "auth_file_users");
    printf("TLS            with clients: %s, with the server: %s\n", text_of(login, "client_tls"),
           text_of(login, "server_tls"));
    printf("logins         SCRAM is answered by %s",
           strcmp(text_of(login, "scram"), "pgsluice") == 0 ? "pgsluice" : "the server");
    if (users != NULL) {
        printf("; auth_file has %lld users", (long long)json_integer_value(users));
    }
    printf("%s\n", json_object_get(login, "auth_query") != NULL ? "; auth_query runs" : "");
}

static void print_check(const json_t *report)
{
    const json_t *rules = json_object_get(report, "rules");
    const json_t *server = json_object_get(report, "server");
    printf("configuration  %s: in order\n", text_of(report, "config"));
    printf("server         %s: %s\n", text_of(server, "conninfo"), text_of(server, "state"));
    print_hosts(json_object_get(report, "hosts"));
    print_login(json_object_get(report, "login"));
    for (size_t i = 0; i < json_array_size(rules); i++) {
        const json_t *rule = json_array_get(rules, i);
        printf("rule %-10s %s: %s.%s, mode %s\n", text_of(rule, "rule"), text_of(rule, "database"),
               text_of(rule, "table"), text_of(rule, "column"), text_of(rule, "mode"));
        printf("  computed by  %s\n", text_of(rule, "computed_by"));
        printf("  effect       %s\n", text_of(rule, "effect"));
    }
    printf("%s\n", text_of(report, "summary"));
}

enum exit_code cli_check(const struct cli *cli)
{
    struct config *config;
    enum exit_code code;
    if (!cli_config(cli, &config, &code)) {
        return code;
    }
    log_init(false, LOG_LEVEL_WARNING);

    struct failure f = {.code = EXIT_DONE};
    json_t *rules = json_array(), *hosts = json_array(), *login = json_object();
    bool can_try = cli_check_files(config, &f);
    PGPing state = can_try ? ping(config) : PQPING_NO_ATTEMPT;
    if (can_try && state != PQPING_OK) {
        fail(&f, EXIT_REFUSED, "server: %s %s", config->server, ping_text(state));
    } else if (can_try && cli_check_login(config, login, hosts, &f) &&
               !read_rules(config, rules, &f)) {
        json_array_clear(rules);
    }

    size_t count = json_array_size(rules);
    json_t *report = json_pack(
        "{s:s, s:o, s:{s:o, s:s}, s:o, s:o, s:o, s:o, s:i}", "command", "check", "config",
        cli_text(config->file), "server", "conninfo", cli_text(config->server), "state",
        ping_text(state), "hosts", hosts, "login", login, "rules", rules, "summary",
        f.code != EXIT_DONE       ? cli_text(f.msg)
        : config->rule_count == 0 ? json_string("ok: a relay without rules")
                                  : json_sprintf("ok: %zu rule%s", count, count == 1 ? "" : "s"),
        "exit", (int)f.code);
    if (cli->json) {
        cli_print_json(report);
    } else if (f.code == EXIT_DONE) {
        print_check(report);
    }
    if (f.code != EXIT_DONE) {
        fprintf(stderr, "pgsluice: %s\n", f.msg);
    }
    json_decref(report);
    config_free(config);
    return f.code;
}

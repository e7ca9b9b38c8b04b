/* The program: finds the command's function and leaves with the code that it returns. */
#include "proxy/cli.h"

#include "proxy/serve.h"

#include <string.h>

static enum exit_code cli_serve(const struct cli *cli)
{
    struct config *config;
    enum exit_code code;
    if (!cli_config(cli, &config, &code)) {
        return code;
    }
    log_init(config->log_json, config->log_level);
    code = serve_run(config);
    config_free(config);
    return code;
}

static const struct {
    const char *name;
    enum exit_code (*run)(const struct cli *cli);
} commands[] = {
    {"serve", cli_serve},      {"check", cli_check},        {"plan", cli_plan},
    {"cutover", cli_cutover},  {"rollback", cli_rollback},  {"verify", cli_verify},
    {"status", cli_status},    {"audit verify", cli_audit}, {"audit report", cli_audit},
    {"audit tail", cli_audit}, {"finish", cli_rollback},    {"pause", cli_steer},
    {"resume", cli_steer},     {"abort", cli_steer},
};

int main(int argc, char **argv)
{
    struct cli cli;
    enum exit_code code;
    if (!cli_parse(argc, argv, &cli, &code)) {
        return (int)code;
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(commands[i].name, cli.command) == 0) {
            return (int)commands[i].run(&cli);
        }
    }
    return EXIT_USAGE;
}

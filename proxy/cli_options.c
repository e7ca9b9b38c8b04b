/* Reads the command line into a struct cli, and prints the help; see cli.h. */
#include "proxy/cli.h"

#include "proxy/config_values.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

enum cli_option {
    OPTION_CONFIG = 1 << 0,
    OPTION_JSON = 1 << 1,
    OPTION_STRATEGY = 1 << 2,
    OPTION_MAX_HOLD = 1 << 3,
    OPTION_YES = 1 << 4,
    OPTION_REPORT = 1 << 5,
    OPTION_WATCH = 1 << 6,
    OPTION_HTML = 1 << 7,
    OPTION_SINCE = 1 << 8,
    OPTION_LINES = 1 << 9,
    OPTION_FOLLOW = 1 << 10,
    OPTION_PAUSE = 1 << 11,
    OPTION_BAKE = 1 << 12,
    OPTION_MAX_WRITE_LATENCY = 1 << 13,
    OPTION_HELP = 1 << 14,
    OPTION_VERSION = 1 << 15,
};

/* getopt's values are small numbers: 256 and the bit's place. */
#define VALUE_OF(place) (256 + (place))

static const struct option long_options[] = {
    {"config", required_argument, NULL, VALUE_OF(0)},
    {"json", no_argument, NULL, VALUE_OF(1)},
    {"strategy", required_argument, NULL, VALUE_OF(2)},
    {"max-hold", required_argument, NULL, VALUE_OF(3)},
    {"yes", no_argument, NULL, VALUE_OF(4)},
    {"report", required_argument, NULL, VALUE_OF(5)},
    {"watch", no_argument, NULL, VALUE_OF(6)},
    {"html", required_argument, NULL, VALUE_OF(7)},
    {"since", required_argument, NULL, VALUE_OF(8)},
    {"lines", required_argument, NULL, VALUE_OF(9)},
    {"follow", no_argument, NULL, VALUE_OF(10)},
    {"pause", required_argument, NULL, VALUE_OF(11)},
    {"bake", required_argument, NULL, VALUE_OF(12)},
    {"max-write-latency", required_argument, NULL, VALUE_OF(13)},
    {"help", no_argument, NULL, VALUE_OF(14)},
    {"version", no_argument, NULL, VALUE_OF(15)},
    {NULL, 0, NULL, 0},
};

struct command {
    const char *name;
    const char *usage; /* what follows the name */
    int options;
    int args;
    const char *help;
};

static const struct command commands[] = {
    {"serve", "--config FILE", OPTION_CONFIG, 0,
     "Runs the proxy in the foreground and logs to stderr. SIGHUP reads the configuration\n"
     "again and reopens the audit log; SIGTERM drains and ends, SIGINT ends at once.\n"},
    {"check", "--config FILE [--json]", OPTION_CONFIG | OPTION_JSON, 0,
     "Checks the configuration, that the server is there, and what the catalog says of each\n"
     "guarded table; prints rule by rule what it would do. Changes nothing.\n"},
    {"plan", "TABLE --config FILE [--strategy S] [--max-hold T] [--json]",
     OPTION_CONFIG | OPTION_JSON | OPTION_STRATEGY | OPTION_MAX_HOLD, 1,
     "The cutover's preflight: every check with its evidence, the strategy, the SQL, the\n"
     "locks and the estimated hold. Changes nothing.\n"},
    {"cutover",
     "TABLE --config FILE [--strategy S] [--max-hold T] [--pause T] [--bake T]\n"
     "                       [--max-write-latency T] [--yes] [--report FILE.html] [--json]",
     OPTION_CONFIG | OPTION_JSON | OPTION_STRATEGY | OPTION_MAX_HOLD | OPTION_PAUSE | OPTION_BAKE |
         OPTION_MAX_WRITE_LATENCY | OPTION_YES | OPTION_REPORT,
     1,
     "Asks the running proxy to take the table from the trigger to a generated column while\n"
     "the applications keep writing. Shows the plan and asks first, unless --yes. Ctrl-C\n"
     "aborts; the table is then as it was. A swap that died is gone on with.\n"},
    {"rollback", "TABLE --config FILE [--max-hold T] [--yes] [--json]",
     OPTION_CONFIG | OPTION_JSON | OPTION_MAX_HOLD | OPTION_YES, 1,
     "Asks the running proxy to take the table back to the trigger. Never asks: --yes is taken\n"
     "so that a script may say it to both commands.\n"},
    {"finish", "TABLE --config FILE [--json]", OPTION_CONFIG | OPTION_JSON, 1,
     "Asks the running proxy to drop what a cutover by swap has kept for its way back. A\n"
     "rollback after it turns the generated column into a plain one with its trigger.\n"},
    {"pause", "TABLE --config FILE [--json]", OPTION_CONFIG | OPTION_JSON, 1,
     "Lets the cutover or rollback under way rest: it goes on following what changes, but\n"
     "copies and compares no rows and does not flip. It lasts until resume, or the command's\n"
     "end.\n"},
    {"resume", "TABLE --config FILE [--json]", OPTION_CONFIG | OPTION_JSON, 1,
     "Goes on with what pause has stopped.\n"},
    {"abort", "TABLE --config FILE [--json]", OPTION_CONFIG | OPTION_JSON, 1,
     "Ends the cutover, rollback or finish under way, as Ctrl-C does where it was begun: the\n"
     "table is then as it was. What has flipped has flipped.\n"},
    {"verify", "TABLE --config FILE [--json]", OPTION_CONFIG | OPTION_JSON, 1,
     "Compares every stored value with the expression's; prints the method in use, the\n"
     "distribution and the skew.\n"},
    {"status", "--config FILE [--watch] [--json]", OPTION_CONFIG | OPTION_WATCH | OPTION_JSON, 0,
     "The running proxy's sessions, gates and cutover.\n"},
    {"audit verify", "FILE [--json]", OPTION_JSON, 1,
     "Checks that no record of an audit log is missing or damaged.\n"},
    {"audit report", "FILE [--since T] [--json]", OPTION_JSON | OPTION_SINCE | OPTION_HTML, 1,
     "Who still supplies a guarded column: by application, user and statement.\n"},
    {"audit tail", "FILE [-n N] [-f] [--json]", OPTION_JSON | OPTION_LINES | OPTION_FOLLOW, 1,
     "The last records of an audit log.\n"},
};
#define COMMAND_COUNT (sizeof commands / sizeof commands[0])

static const char *const option_help[] = {
    "  -c, --config FILE    the proxy's configuration\n",
    "      --json           the result as JSON\n",
    "      --strategy S     auto, inplace or swap (default auto)\n",
    "      --max-hold T     longest time a statement may be held, such as 500ms (default 500ms)\n",
    "  -y, --yes            do not ask\n",
    "      --report FILE    write the report: a page of HTML, or JSON for a name that ends so\n",
    "  -w, --watch          print again every second\n",
    "      --html FILE      write the report as HTML (not in this version)\n",
    "      --since T        only records from then on: 2026-11-23, 2026-11-23T08:30 (UTC)\n",
    "  -n, --lines N        how many records (default 10)\n",
    "  -f, --follow         and those that come\n",
    "      --pause T        swap: rest between two batches of rows, such as 20ms (default 0ms)\n",
    "      --bake T         swap: drop the old table so long after the flip, such as 7d (default:\n"
    "                       not before finish)\n",
    "      --max-write-latency T\n"
    "                       swap: copy less while 5 of 100 writes take longer, such as 50ms\n"
    "                       (default: twice what they took before, 10ms more at least)\n",
};

static void print_usage(void)
{
    printf("pgsluice: keeps a computed column truly computed, at the PostgreSQL wire\n\nUsage:\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        printf("  pgsluice %-12s %s\n", commands[i].name, commands[i].usage);
    }
    printf("\n  pgsluice COMMAND --help\n  pgsluice --version\n\n"
           "Exit codes: 0 done; 1 refused or failed, nothing changed; 2 usage or configuration;\n"
           "3 not applicable (PostgreSQL 11), nothing changed; 4 outcome unknown, needs an "
           "operator.\n");
}

static void print_help(const struct command *command)
{
    printf("Usage: pgsluice %s %s\n\n%s\n", command->name, command->usage, command->help);
    for (size_t i = 0; i < sizeof option_help / sizeof option_help[0]; i++) {
        if ((command->options & 1 << i) != 0) {
            fputs(option_help[i], stdout);
        }
    }
    printf("  -h, --help           this\n");
}

static enum exit_code usage_error(const struct command *command, const char *what, const char *of)
{
    fprintf(stderr, "pgsluice: %s%s\n", what, of);
    if (command != NULL) {
        fprintf(stderr, "Usage: pgsluice %s %s\n", command->name, command->usage);
    } else {
        fprintf(stderr, "Try: pgsluice --help\n");
    }
    return EXIT_USAGE;
}

/* The command that the arguments begin with; *words is how many they are (two for `audit tail`). */
static const struct command *find_command(int argc, char **argv, int *words)
{
    char name[64];
    *words = argc > 2 && strcmp(argv[1], "audit") == 0 ? 2 : 1;
    snprintf(name, sizeof name, "%s%s%s", argv[1], *words == 2 ? " " : "",
             *words == 2 ? argv[2] : "");
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i].name, name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}

static bool set_option(enum cli_option option, const char *value, struct cli *cli,
                       struct value_why *why)
{
    static const char *const strategies[] = {"auto", "inplace", "swap"};
    size_t word = 0;
    switch (option) {
    case OPTION_CONFIG:
        cli->config_file = value;
        return true;
    case OPTION_JSON:
        cli->json = true;
        return true;
    case OPTION_STRATEGY:
        if (!value_word(value, strategies, 3, &word, why)) {
            return false;
        }
        cli->cutover.strategy = (enum cutover_strategy)word;
        return true;
    case OPTION_PAUSE:
        return value_duration(value, 0, 60 * 1000, &cli->cutover.pause_ms, why);
    case OPTION_BAKE:
        return value_duration(value, 1, (uint64_t)366 * 24 * 3600 * 1000, &cli->cutover.bake_ms,
                              why);
    case OPTION_MAX_WRITE_LATENCY:
        return value_duration(value, 1, 60 * 1000, &cli->cutover.max_write_ms, why);
    case OPTION_MAX_HOLD:
        return value_duration(value, 1, 60 * 1000, &cli->cutover.max_hold_ms, why);
    case OPTION_YES:
        cli->yes = true;
        return true;
    case OPTION_WATCH:
        cli->watch = true;
        return true;
    case OPTION_SINCE:
        cli->since = value;
        if (strlen(value) < 4 || value[strspn(value, "0123456789-:.TZ")] != '\0') {
            snprintf(why->text, sizeof why->text,
                     "is not a time such as 2026-11-23 or 2026-11-23T08:30");
            return false;
        }
        return true;
    case OPTION_LINES:
        return value_number(value, 0, 1000000, &cli->lines, why);
    case OPTION_FOLLOW:
        cli->follow = true;
        return true;
    case OPTION_REPORT:
        cli->report = value;
        cli->cutover.measure = true;
        return true;
    case OPTION_HTML:
        snprintf(why->text, sizeof why->text,
                 "is not available in this version: a report is JSON "
                 "(--json) or text");
        return false;
    case OPTION_HELP:
    case OPTION_VERSION:
        break;
    }
    return true;
}

static int place_of(int value)
{
    static const struct {
        int letter;
        enum cli_option option;
    } letters[] = {{'c', OPTION_CONFIG}, {'y', OPTION_YES},    {'w', OPTION_WATCH},
                   {'n', OPTION_LINES},  {'f', OPTION_FOLLOW}, {'h', OPTION_HELP}};
    for (size_t i = 0; i < sizeof letters / sizeof letters[0]; i++) {
        if (letters[i].letter == value) {
            return __builtin_ctz((unsigned)letters[i].option);
        }
    }
    return value >= VALUE_OF(0) ? value - VALUE_OF(0) : -1;
}

/* Reads the options behind the command's words. */
static bool parse_options(const struct command *command, int argc, char **argv, struct cli *cli,
                          enum exit_code *code)
{
    int value;
    opterr = 0;
    optind = 1;
    while ((value = getopt_long(argc, argv, ":c:ywn:fh", long_options, NULL)) != -1) {
        int place = place_of(value);
        const char *given = argv[optind - 1];
        if (value == ':' || place < 0) {
            *code = usage_error(
                command, value == ':' ? "a value is missing behind " : "unknown option ", given);
            return false;
        }
        enum cli_option option = (enum cli_option)(1 << place);
        struct value_why why;
        if (option == OPTION_HELP) {
            print_help(command);
            *code = EXIT_DONE;
            return false;
        }
        if ((command->options & (int)option) == 0) {
            char what[128];
            snprintf(what, sizeof what, "%s does not take --", command->name);
            *code = usage_error(command, what, long_options[place].name);
            return false;
        }
        if (!set_option(option, optarg, cli, &why)) {
            fprintf(stderr, "pgsluice: --%s: \"%s\" %s\n", long_options[place].name, optarg,
                    why.text);
            *code = EXIT_USAGE;
            return false;
        }
    }
    for (; optind < argc; optind++) {
        if (cli->arg_count == command->args) {
            *code = usage_error(command, "one argument too many: ", argv[optind]);
            return false;
        }
        cli->args[cli->arg_count++] = argv[optind];
    }
    return true;
}

bool cli_parse(int argc, char **argv, struct cli *cli, enum exit_code *code)
{
    *cli = (struct cli){.lines = 10, .cutover = {.strategy = CUTOVER_AUTO, .max_hold_ms = 500}};
    *code = EXIT_DONE;
    const char *first = argc > 1 ? argv[1] : "";
    if (strcmp(first, "--version") == 0 || strcmp(first, "-V") == 0) {
        printf("pgsluice %s\n", PGSLUICE_VERSION);
        return false;
    }
    const char *asks = argc > 2 && strcmp(first, "audit") == 0 ? argv[2] : first;
    if (strcmp(asks, "--help") == 0 || strcmp(asks, "-h") == 0 || strcmp(first, "help") == 0) {
        print_usage();
        return false;
    }
    if (argc < 2) {
        *code = usage_error(NULL, "a command is missing", "");
        return false;
    }
    int words;
    const struct command *command = find_command(argc, argv, &words);
    if (command == NULL && strcmp(first, "audit") == 0) {
        *code = usage_error(NULL, "audit: one of verify, report, tail is missing", "");
        return false;
    }
    if (command == NULL) {
        *code = usage_error(NULL, "unknown command ", first);
        return false;
    }
    cli->command = command->name;
    if (!parse_options(command, argc - words, argv + words, cli, code)) {
        return false;
    }
    if (cli->arg_count < command->args) {
        *code = usage_error(command, command->options & OPTION_CONFIG ? "TABLE" : "FILE",
                            " is missing");
        return false;
    }
    if ((command->options & OPTION_CONFIG) != 0 && cli->config_file == NULL) {
        *code = usage_error(command, "--config FILE is missing", "");
        return false;
    }
    return true;
}

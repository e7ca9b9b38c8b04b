/* The command finish, which drops what a swap has kept for its way back, and what status says of
 * swaps; see cutover.h. */
#include "proxy/cutover/context.h"
#include "proxy/cutover/cutover.h"
#include "proxy/cutover/state.h"
#include "proxy/cutover/swap.h"

enum exit_code cutover_finish(const struct config *config, const struct config_rule *rule,
                              const struct cutover_options *options,
                              const struct cutover_host *host, json_t **report)
{
    struct cutover c;
    struct failure f = {.code = EXIT_REFUSED, .msg = "out of memory"};
    struct state_run run = {.found = false};
    struct swap_row row = {.phase = SWAP_NONE};
    enum exit_code code;
    *report = NULL;
    if (!context_init(&c, "finish", config, rule, options, host)) {
        return EXIT_REFUSED;
    }
    report_set(&c, "run", json_string(c.run));
    if (!context_connect(&c, &f) || !context_read_table(&c, &f) || !state_read(&c, &run, &f) ||
        !swap_state_read(&c, &row, &f)) {
        code = context_finish(&c, f.code, report, "%s", f.msg);
    } else if (row.phase == SWAP_NONE) {
        code = context_finish(&c, EXIT_DONE, report, "nothing is kept; nothing to do");
    } else if (row.phase == SWAP_COPY || row.phase == SWAP_FINISH) {
        code = context_finish(&c, EXIT_REFUSED, report,
                              "a swap has not come to its flip yet (%s): go on with cutover, or "
                              "clean up with rollback",
                              swap_phase_text(row.phase));
    } else if (!c.table.generated) {
        code = context_finish(&c, EXIT_REFUSED, report,
                              "the table has its trigger (%s): clean up with rollback",
                              swap_phase_text(row.phase));
    } else {
        code = swap_finish(&c, &run, &row, report);
    }
    state_run_fini(&run);
    swap_row_fini(&row);
    return code;
}

static json_t *describe(const struct config_rule *rule, const struct swap_row *row)
{
    bool resumable = row->phase == SWAP_COPY || row->phase == SWAP_FINISH;
    return json_pack("{s:s, s:s++, s:s, s:I, s:b, s:b}", "rule", rule->name, "table", rule->schema,
                     ".", rule->table, "phase", swap_phase_text(row->phase), "rows",
                     (json_int_t)row->copied, "resumable", (int)resumable, "back",
                     (int)(row->phase == SWAP_BAKE));
}

json_t *cutover_swaps(const struct config *config, struct failure *f)
{
    json_t *list = json_array();
    bool ok = list != NULL;
    for (size_t i = 0; ok && i < config->rule_count; i++) {
        struct cutover c;
        struct swap_row row = {.phase = SWAP_NONE};
        json_t *report = NULL;
        ok = context_init(&c, "status", config, &config->rules[i], NULL, NULL) &&
             context_connect(&c, f) && swap_state_read(&c, &row, f);
        if (ok && row.phase != SWAP_NONE) {
            ok = json_array_append_new(list, describe(&config->rules[i], &row)) == 0;
        }
        swap_row_fini(&row);
        (void)context_finish(&c, EXIT_DONE, &report, "%s", "");
        json_decref(report);
    }
    if (!ok) {
        json_decref(list);
        return NULL;
    }
    return list;
}

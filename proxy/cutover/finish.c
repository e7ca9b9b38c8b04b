/* The command finish, which drops what a swap has kept for its way back, and what status says of
 * swaps; see cutover.h. */
#include <stdlib.h>

#include "proxy/cutover/context.h"
#include "proxy/cutover/cutover.h"
#include "proxy/cutover/state.h"
#include "proxy/cutover/swap.h"

#define WAITING_MOST "1000000"

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
    if (!context_connect(&c, &f) || !swap_state_lead(&c, &f) || !context_read_table(&c, &f) ||
        !state_read(&c, &run, &f) || !swap_state_read(&c, &row, &f)) {
        code = context_finish(&c, f.code, report, "%s", f.msg);
    } else if (row.phase == SWAP_NONE) {
        code = context_finish(&c, EXIT_DONE, report, "nothing is kept; nothing to do");
    } else if (row.phase == SWAP_COPY || row.phase == SWAP_FINISH) {
        code = context_finish(&c, EXIT_REFUSED, report,
                              "a swap has not come to its flip yet (%s): go on with cutover, or "
                              "clean up with rollback",
                              swap_phase_text(row.phase));
    } else if (c.options.when_baked && (row.phase == SWAP_BACK || !row.bake.over)) {
        code = context_finish(&c, EXIT_REFUSED, report, "the bake time is not over; nothing done");
    } else if (!c.table.generated) {
        code = context_finish(&c, EXIT_REFUSED, report,
                              "the table has its trigger (%s): clean up with rollback",
                              swap_phase_text(row.phase));
    } else {
        if (c.options.when_baked) {
            context_step(&c, "bake-over", "flipped at %s, kept until %s", row.bake.since,
                         row.bake.until);
        }
        code = swap_finish(&c, &run, &row, report);
    }
    state_run_fini(&run);
    swap_row_fini(&row);
    return code;
}

static json_t *text_or_null(const char *text)
{
    return text[0] != '\0' ? report_string(text) : json_null();
}

/* How the old table follows. Of a log that nobody has replayed for long not every row is counted.
 */
static bool add_bake(struct cutover *c, const struct swap_row *row, json_t *out, struct failure *f)
{
    char sql[128];
    snprintf(sql, sizeof sql,
             "SELECT count(*) FROM (SELECT FROM pgsluice.log_%u LIMIT " WAITING_MOST ") q",
             row->to);
    PGresult *r = control_query(c->control, sql, 0, NULL, STATEMENT_TIMEOUT_MS, f);
    if (r == NULL) {
        return false;
    }
    json_int_t waiting = strtoll(PQgetvalue(r, 0, 0), NULL, 10);
    PQclear(r);
    json_t *bake =
        json_pack("{s:o, s:o, s:I, s:I, s:o, s:o}", "since", text_or_null(row->bake.since), "until",
                  text_or_null(row->bake.until), "waiting", waiting, "followed",
                  (json_int_t)row->bake.followed, "in_step", text_or_null(row->bake.in_step),
                  "trouble", text_or_null(row->bake.trouble));
    bool ok = bake != NULL && json_object_update(out, bake) == 0;
    json_decref(bake);
    return ok || fail(f, EXIT_REFUSED, "out of memory");
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
            json_t *swap = describe(&config->rules[i], &row);
            ok = (row.phase != SWAP_BAKE || add_bake(&c, &row, swap, f)) &&
                 json_array_append(list, swap) == 0;
            json_decref(swap);
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

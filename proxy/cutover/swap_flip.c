/* The flip of a swap; see swap_flip.h. Called by the machine's hooks. */
#include "proxy/cutover/swap_flip.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/failpoint.h"
#include "proxy/cutover/state.h"
#include "proxy/cutover/swap_state.h"

enum {
    LOG_SHORT_MS = 50,
    VALIDATE_MS = 0,
    HOLDING_MS = 2000, /* for the rest of the log while writes are held: the server may be silent */
};

void swap_flip_fini(struct swap_flip *flip)
{
    control_close(flip->mover);
    json_decref(flip->after);
    *flip = (struct swap_flip){.mover = NULL};
}

/* The row in pgsluice.run and the phase of the swap, as statements of the flip. */
static char *state_sql(struct cutover *c, const struct shadow *shape, const char *back_from,
                       const json_t *after, struct failure *f)
{
    char *columns = NULL;
    if (!state_column_order(c, &columns, f)) {
        return NULL;
    }
    char *run = back_from == NULL ? state_flipped_sql(c, columns, "swap", shape->to)
                                  : state_rolled_back_sql(c, back_from, columns, shape->to);
    char *phase = swap_state_enter_sql(c, back_from == NULL ? SWAP_BAKE : SWAP_BACK, after);
    char *sql = run != NULL && phase != NULL ? text_printf("%s%s", run, phase) : NULL;
    if (sql == NULL) {
        fail(f, EXIT_REFUSED, "out of memory");
    }
    free(columns);
    free(run);
    free(phase);
    return sql;
}

/* The log for the way back, in GATE's transaction: it exists exactly when the flip has happened.
 * The names are those after the flip. */
static char *turn_capture(struct cutover *c, const struct shadow *shape, struct failure *f)
{
    struct swap_way back;
    if (!swap_way_init(c, shape, false, shape->to, shape->aside, &back, f)) {
        return NULL;
    }
    char *create = swap_log_create_sql(c, &back);
    char *arm = swap_log_arm_sql(c, &back, c->relation);
    swap_way_fini(&back);
    bool ok = create != NULL && arm != NULL
                  ? control_run(c->control, create, STATEMENT_TIMEOUT_MS, f)
                  : fail(f, EXIT_REFUSED, "out of memory");
    free(create);
    if (!ok) {
        free(arm);
        arm = NULL;
    }
    return arm;
}

/* What is done under the lock. */
static char *block_of(struct cutover *c, const struct shadow_flip *exchange,
                      const struct swap_way *way, const char *arm)
{
    char *drain = swap_log_drain_sql(way);
    char *disarm = swap_log_disarm_sql(c->relation);
    char *block =
        drain == NULL || disarm == NULL
            ? NULL
            : text_printf("DECLARE found_ text; BEGIN\n%s%s;\n"
                          "DECLARE %s BEGIN\n%s\nEND;\n%s%s%sEND",
                          drain, disarm, exchange->declare, exchange->body, arm != NULL ? arm : "",
                          arm != NULL ? ";\n" : "", compose_snapshots_sql);
    free(drain);
    free(disarm);
    return block;
}

/* What is done in the same transaction before the lock is asked for: it needs no lock, and nobody
 * has to wait for it. */
static char *first_of(const struct shadow_flip *exchange, const char *state)
{
    bool more = exchange->first != NULL && exchange->first[0] != '\0';
    char *block = text_printf("BEGIN\n%sEND", state);
    char *mark = block != NULL ? compose_do(block) : NULL;
    char *first = mark != NULL
                      ? text_printf("%s%s%s", mark, more ? "; " : "", more ? exchange->first : "")
                      : NULL;
    free(block);
    free(mark);
    return first;
}

bool swap_flip_compose(struct cutover *c, struct swap_flip *flip, const struct shadow *shape,
                       const struct swap_way *way, const char *back_from, struct flip_sql *out,
                       struct failure *f)
{
    struct shadow_flip exchange;
    *out = (struct flip_sql){.lock = NULL};
    /* What was opened beside the last transaction may be lost with it, without a word. */
    control_close(flip->mover);
    flip->mover = NULL;
    if (!shadow_flip(c, shape, &exchange, f)) {
        return false;
    }
    char *arm = back_from == NULL ? turn_capture(c, shape, f) : NULL;
    char *state = state_sql(c, shape, back_from, exchange.after, f);
    bool ok = state != NULL && (back_from != NULL || arm != NULL);
    if (ok) {
        char *block = block_of(c, &exchange, way, arm);
        out->first = first_of(&exchange, state);
        out->lock = strdup(exchange.lock);
        out->plan = strdup(exchange.plan);
        out->body = block != NULL ? compose_do(block) : NULL;
        free(block);
        ok = (out->first != NULL && out->lock != NULL && out->plan != NULL && out->body != NULL) ||
             fail(f, EXIT_REFUSED, "out of memory");
    }
    json_decref(flip->after);
    flip->after = json_incref(exchange.after);
    free(arm);
    free(state);
    shadow_flip_fini(&exchange);
    if (!ok) {
        flip_sql_fini(out);
    }
    return ok;
}

bool swap_flip_moves(const struct cutover *c)
{
    return c->rule->mode != RULE_MODE_COMPUTE;
}

bool swap_flip_approach(struct cutover *c, struct swap_flip *flip, const struct swap_way *way,
                        bool holding, struct failure *f)
{
    uint64_t count = 0;
    if (flip->mover != NULL && control_is_lost(flip->mover)) {
        control_close(flip->mover);
        flip->mover = NULL;
    }
    if (flip->mover == NULL && !context_connect_again(c, true, &flip->mover, f)) {
        return false;
    }
    return holding ? swap_log_replay(flip->mover, way, 0, HOLDING_MS, &count, f)
                   : swap_log_catch_up(c, flip->mover, way, LOG_SHORT_MS, f);
}

void swap_flip_after(struct cutover *c, struct swap_flip *flip, unsigned from)
{
    struct failure f = {.code = EXIT_DONE};
    char *drop = swap_log_drop_sql(from);
    FAILPOINT("validate");
    if (json_array_size(flip->after) > 0) {
        context_progress(c, "validate", -1, "validating the foreign keys");
    }
    bool ok = shadow_run(c, flip->after, VALIDATE_MS, &f) && swap_state_validated(c, &f);
    if (!ok) {
        report_check(c, "validate", CHECK_WARN, "pgsluice finish tries again",
                     "the foreign keys could not be validated: %s", f.msg);
    }
    if (drop != NULL && !control_run(c->control, drop, STATEMENT_TIMEOUT_MS, &f)) {
        report_check(c, "log", CHECK_WARN, "pgsluice finish tries again",
                     "the log could not be dropped: %s", f.msg);
    }
    free(drop);
}

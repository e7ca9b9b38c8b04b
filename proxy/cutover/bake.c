/* Following in the bake time; see bake.h. Called by the follower's thread, in the admin room. */
#include "proxy/cutover/bake.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/context.h"
#include "proxy/cutover/swap_log.h"
#include "proxy/cutover/swap_state.h"

/* Small, because commands wait for the end of a turn. */
enum {
    BATCH_ROWS = 1000,
    BATCH_MS = 600000, /* TRUNCATE of a partition may be much in one; it can be aborted */
};

struct bake {
    const struct config_rule *rule;
    const struct cutover_host *host;
    struct cutover c;
    bool connected;
};

struct bake *bake_new(const struct config_rule *rule, const struct cutover_host *host)
{
    struct bake *bake = calloc(1, sizeof *bake);
    if (bake != NULL) {
        bake->rule = rule;
        bake->host = host;
    }
    return bake;
}

/* With it goes every lock that the connection has. */
static void disconnect(struct bake *bake)
{
    json_t *report = NULL;
    if (bake->connected) {
        bake->connected = false;
        (void)context_finish(&bake->c, EXIT_DONE, &report, "%s", "");
        json_decref(report);
    }
}

void bake_free(struct bake *bake)
{
    if (bake != NULL) {
        disconnect(bake);
        free(bake);
    }
}

static bool connect_bake(struct bake *bake, const struct config *config, struct failure *f)
{
    if (bake->connected) {
        return true;
    }
    if (!context_init(&bake->c, "follow", config, bake->rule, NULL, bake->host)) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    bake->connected = true;
    return context_connect(&bake->c, f);
}

/* A batch, while no command is at work. What cannot be replayed is noted in the row as well, for
 * `status` at any proxy. */
static enum bake_state follow(struct cutover *c, const struct swap_row *row, struct failure *f)
{
    struct swap_way way = {.from = row->to};
    struct failure ignored;
    uint64_t count = 0;
    if (!swap_log_replay(c->control, &way, BATCH_ROWS, BATCH_MS, &count, f)) {
        if (!control_is_lost(c->control) && !context_abort_requested(c) &&
            strcmp(row->bake.trouble, f->msg) != 0) {
            (void)!swap_state_followed(c, 0, false, f->msg, &ignored);
        }
        return BAKE_TROUBLE;
    }
    bool in_step = count < BATCH_ROWS;
    bool is_news = count > 0 || row->bake.in_step[0] == '\0' || row->bake.trouble[0] != '\0';
    if (is_news && !swap_state_followed(c, count, in_step, "", f)) {
        return BAKE_TROUBLE;
    }
    return in_step ? BAKE_IN_STEP : BAKE_BEHIND;
}

/* With the lock that commands take. */
static enum bake_state take_turn(struct cutover *c, struct failure *f)
{
    struct swap_row row = {.phase = SWAP_NONE};
    enum bake_state state = BAKE_TROUBLE;
    if (swap_state_read(c, &row, f)) {
        state = row.phase != SWAP_BAKE ? BAKE_NONE : row.bake.over ? BAKE_OVER : follow(c, &row, f);
    }
    swap_row_fini(&row);
    return state;
}

/* Whether there is anything to follow, which costs less than to ask for locks. */
static enum bake_state look(struct cutover *c, struct failure *f)
{
    struct swap_row row = {.phase = SWAP_NONE};
    bool follows = false;
    if (!swap_state_read(c, &row, f)) {
        return BAKE_TROUBLE;
    }
    enum swap_phase phase = row.phase;
    swap_row_fini(&row);
    if (phase != SWAP_BAKE) {
        return BAKE_NONE;
    }
    if (!swap_state_follow(c, &follows, f)) {
        return BAKE_TROUBLE;
    }
    return follows ? BAKE_BEHIND : BAKE_ELSEWHERE;
}

enum bake_state bake_turn(struct bake *bake, const struct config *config, struct failure *f)
{
    struct cutover *c = &bake->c;
    struct failure ignored;
    bool leads = false;
    if (!bake->connected) {
        enum bake_state found = connect_bake(bake, config, f) ? look(c, f) : BAKE_TROUBLE;
        if (found != BAKE_BEHIND) {
            disconnect(bake);
            return found;
        }
    }
    bool asked = swap_state_try_lead(c, &leads, f);
    if (asked && !leads) {
        return BAKE_ELSEWHERE;
    }
    enum bake_state state = asked ? take_turn(c, f) : BAKE_TROUBLE;
    bool free_again = swap_state_unlead(c, state == BAKE_TROUBLE ? &ignored : f);
    if (state == BAKE_NONE || state == BAKE_OVER || !free_again || context_abort_requested(c)) {
        disconnect(bake);
    }
    return free_again ? state : BAKE_TROUBLE;
}

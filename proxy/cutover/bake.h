/*
 * The bake time: between the flip and the end of the old table its log is replayed into it, so that
 * the log stays short and a rollback has little left to do. Where things stand is in the row of the
 * swap, and is read anew in each turn: whoever asks for a turn needs to remember nothing, and may
 * be killed at any moment.
 */
#pragma once

#include "proxy/config.h"
#include "proxy/cutover/cutover.h"
#include "proxy/failure.h"

enum bake_state {
    BAKE_NONE,      /* no swap of this table bakes */
    BAKE_ELSEWHERE, /* another proxy follows, or a command is at work */
    BAKE_BEHIND,    /* a batch was replayed, and there is more */
    BAKE_IN_STEP,   /* nothing is left to do for now */
    BAKE_OVER,      /* the bake time has ended: the old table is to be dropped */
    BAKE_TROUBLE,   /* `f` says what is in the way; the next turn tries again */
};

struct bake;

/* `host` is borrowed: only its abort_requested is used, and must hold for the whole life. NULL when
 * out of memory. */
struct bake *bake_new(const struct config_rule *rule, const struct cutover_host *host);
/* One turn of some tens of milliseconds, at most one batch. A connection to the server is kept
 * while the old table is followed, and given up otherwise. `config` is borrowed for the turn. */
MUST_CHECK enum bake_state bake_turn(struct bake *bake, const struct config *config,
                                     struct failure *f);
void bake_free(struct bake *bake);

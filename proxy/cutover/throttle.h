/*
 * How much of the time the copying of rows may work, so that applications do not notice: by how
 * long their own writes take, as the sessions note it at the gate, by replicas that are behind, by
 * a disk that is slow to commit, and by an operator's word (`pgsluice pause`).
 */
#pragma once

#include "proxy/cutover/context.h"
#include "proxy/cutover/swap_log.h"
#include "proxy/gate.h"

struct throttle {
    struct cutover *c;
    const struct swap_way *way;
    double duty;         /* of the time, 0.05..1: the copying always makes progress */
    double before_ms;    /* what 95 of 100 writes took at most without it; negative: not known */
    double window_began; /* of the writes that are looked at together */
    double lowest_since; /* 0: more than the least was allowed of late */
    uint64_t lengths[GATE_LENGTHS]; /* at window_began */
    char note[96];                  /* "; waiting: ..." for the display, or "" */
};

/* Measures what writes take without the copying, for a second, where there are any. Both are
 * borrowed. */
void throttle_begin(struct throttle *t, struct cutover *c, const struct swap_way *way);
/* After each piece of work, which took so long: rests, and for as long as the command is paused, in
 * which the log is replayed all the same. False when aborted, or when the log cannot be replayed.
 */
MUST_CHECK bool throttle_rest(struct throttle *t, const char *phase, double took_ms,
                              struct failure *f);
/* Only the pause, for work that is not done in pieces. */
MUST_CHECK bool throttle_pause(struct cutover *c, const struct swap_way *way, const char *phase,
                               struct failure *f);
/* How long the next piece of work should take, of `full_ms`. */
double throttle_target_ms(const struct throttle *t, double full_ms);

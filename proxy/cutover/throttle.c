/* Giving way to the applications; see throttle.h. Called by the copying and the comparing. */
#include "proxy/cutover/throttle.h"

#include <string.h>

enum {
    WINDOW_MS = 500,
    WINDOW_MAX_MS = 2000, /* with few writes */
    QUIET_MS = 1000,      /* without the copying, to know what writes take */
    WRITES_LEAST = 20,    /* fewer say nothing of the hundredth part of them */
    SLOWER_MS = 10,       /* nobody minds so much, however short they were */
    LOWEST_MAX_MS = 30000,
    REST_MAX_MS = 2000,
    SLICE_MS = 20,
    PAUSED_MS = 200,
    REPORT_EVERY_MS = 1000,
    LOG_SHORT_MS = 100,
};
static const double duty_least = 0.05;

static void rest_until(const struct cutover *c, double until)
{
    double left;
    while ((left = until - monotonic_ms_exact()) > 0 && !context_abort_requested(c)) {
        rest_ms(left < SLICE_MS ? (unsigned)left + 1 : SLICE_MS);
    }
}

static const struct gate *gate_of(const struct throttle *t)
{
    return t->c->host != NULL ? t->c->host->gate : NULL;
}

static void open_window(struct throttle *t)
{
    gate_lengths(gate_of(t), t->lengths);
    t->window_began = monotonic_ms_exact();
}

/* What 95 of 100 writes of the window took at most; negative when they were too few. */
static double window_ms(const struct throttle *t)
{
    uint64_t now[GATE_LENGTHS];
    uint64_t count = 0;
    gate_lengths(gate_of(t), now);
    for (unsigned i = 0; i < GATE_LENGTHS; i++) {
        now[i] -= t->lengths[i];
        count += now[i];
    }
    if (count < WRITES_LEAST) {
        return -1;
    }
    unsigned i = 0;
    for (uint64_t seen = now[0]; seen * 100 < count * 95; seen += now[++i]) {
    }
    return gate_length_ms(i);
}

static void measure_before(struct throttle *t)
{
    open_window(t);
    rest_until(t->c, t->window_began + QUIET_MS);
    t->before_ms = window_ms(t);
    open_window(t);
}

void throttle_begin(struct throttle *t, struct cutover *c, const struct swap_way *way)
{
    *t = (struct throttle){.c = c, .way = way, .duty = 1, .before_ms = -1};
    if (gate_of(t) == NULL) {
        return;
    }
    if (window_ms(t) >= 0) { /* since the recording began */
        measure_before(t);
    } else {
        open_window(t);
    }
}

double throttle_target_ms(const struct throttle *t, double full_ms)
{
    return t->duty < 0.5 ? full_ms * 0.4 : full_ms;
}

static double limit_ms(const struct throttle *t)
{
    if (t->c->options.max_write_ms > 0) {
        return (double)t->c->options.max_write_ms;
    }
    return t->before_ms > SLOWER_MS ? 2 * t->before_ms : t->before_ms + SLOWER_MS;
}

/* Writes that stay slow while next to nothing is copied are slow for another reason: what they take
 * without the copying is measured anew then. */
static void judge_lowest(struct throttle *t, double now)
{
    if (t->duty > duty_least) {
        t->lowest_since = 0;
    } else if (t->lowest_since <= 0) {
        t->lowest_since = now;
    } else if (now - t->lowest_since > LOWEST_MAX_MS && t->c->options.max_write_ms == 0) {
        t->lowest_since = 0;
        measure_before(t);
    }
}

static void judge_writes(struct throttle *t)
{
    double now = monotonic_ms_exact();
    if (gate_of(t) == NULL || now - t->window_began < WINDOW_MS) {
        return;
    }
    double recent = window_ms(t);
    if (recent < 0 && now - t->window_began < WINDOW_MAX_MS) {
        return;
    }
    if (recent >= 0 && t->before_ms < 0 && t->c->options.max_write_ms == 0) {
        measure_before(t);
        return;
    }
    bool slow = recent >= 0 && recent > limit_ms(t);
    double duty = slow ? t->duty / 2 : t->duty * 1.5;
    t->duty = duty < duty_least ? duty_least : (duty > 1 ? 1 : duty);
    t->note[0] = '\0';
    if (slow && t->before_ms >= 0) {
        snprintf(t->note, sizeof t->note, "; waiting: writes take %.3g ms, %.3g ms before", recent,
                 t->before_ms);
    } else if (slow) {
        snprintf(t->note, sizeof t->note, "; waiting: writes take %.3g ms", recent);
    } else if (t->duty < 1) {
        snprintf(t->note, sizeof t->note, "; slowly, for the writes");
    }
    open_window(t);
    judge_lowest(t, now);
}

bool throttle_pause(struct cutover *c, const struct swap_way *way, const char *phase,
                    struct failure *f)
{
    double reported = 0;
    while (context_is_paused(c)) {
        double now = monotonic_ms_exact();
        if (context_abort_requested(c)) {
            return fail(f, EXIT_REFUSED, "aborted");
        }
        if (now - reported > REPORT_EVERY_MS) {
            reported = now;
            context_progress(c, phase, -1, "paused: pgsluice resume %s goes on", c->rule->name);
        }
        if (way != NULL && !swap_log_catch_up(c, c->control, way, LOG_SHORT_MS, f)) {
            return false;
        }
        rest_ms(PAUSED_MS);
    }
    return true;
}

bool throttle_rest(struct throttle *t, const char *phase, double took_ms, struct failure *f)
{
    judge_writes(t);
    double ms = took_ms * (1 - t->duty) / t->duty;
    ms = (ms > REST_MAX_MS ? REST_MAX_MS : ms) + (double)t->c->options.pause_ms;
    rest_until(t->c, monotonic_ms_exact() + ms);
    return throttle_pause(t->c, t->way, phase, f);
}

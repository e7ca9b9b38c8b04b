/* The latencies around the hold; see latency.h. */
#include "proxy/cutover/latency.h"

#include <time.h>

#include "proxy/gate.h"

enum {
    BEFORE_MS = 1000, /* so much is shown before the machine began, at most */
    AFTER_MS = 600,   /* and so long is looked on after the release */
    REST_MS = 50,
};

void latency_begin(struct cutover *c)
{
    if (c->host != NULL && c->host->gate != NULL) {
        gate_record(c->host->gate, true);
    }
}

/* When the gate was opened for good, in ms since the machine began. */
static double released_at(const struct cutover *c)
{
    const json_t *timeline = json_object_get(c->report, "timeline");
    const json_t *last = json_array_get(timeline, json_array_size(timeline) - 1);
    return json_number_value(json_object_get(last, "ms"));
}

static void look_on(const struct cutover *c, double began)
{
    const struct timespec rest = {.tv_nsec = REST_MS * 1000000L};
    double until = began + released_at(c) + AFTER_MS;
    while (monotonic_ms_exact() < until && !context_abort_requested(c)) {
        nanosleep(&rest, NULL);
    }
}

void latency_report(struct cutover *c, double began)
{
    if (c->host == NULL || c->host->gate == NULL) {
        return;
    }
    struct gate *gate = c->host->gate;
    look_on(c, began);
    json_t *points = json_array();
    double now = monotonic_ms_exact();
    for (uint64_t slot = (uint64_t)((began - BEFORE_MS) / GATE_SLOT_MS);
         slot <= (uint64_t)(now / GATE_SLOT_MS); slot++) {
        struct gate_latency l;
        gate_latency(gate, slot, &l);
        if (l.writes + l.reads > 0) {
            (void)json_array_append_new(
                points,
                json_pack("{s:f, s:I, s:f, s:I, s:f}", "ms", (double)slot * GATE_SLOT_MS - began,
                          "writes", (json_int_t)l.writes, "write_max_ms", l.write_max_us / 1e3,
                          "reads", (json_int_t)l.reads, "read_max_ms", l.read_max_us / 1e3));
        }
    }
    gate_record(gate, false);
    report_set(c, "latency",
               json_pack("{s:i, s:s, s:o}", "slot_ms", GATE_SLOT_MS, "note",
                         "The longest of the statements that began within each 10 ms, from the "
                         "first byte at the proxy to the server's last answer, time at the gate "
                         "included. Each application's own statements: one that waits sends no "
                         "other meanwhile, and its whole wait is shown where it began.",
                         "points", points));
}

/*
 * How long the applications' statements took around the hold, for the report: from the sessions
 * themselves, which note it at the gate while a cutover runs.
 */
#pragma once

#include "proxy/cutover/context.h"

/* From here on sessions note their latencies. Nothing where there is no gate. */
void latency_begin(struct cutover *c);
/* Waits until there is something to see after the release, ends the noting and sets "latency" in
 * the report: {"slot_ms", "note", "points" [{"ms", "writes", "write_max_ms", "reads",
 * "read_max_ms"}]}, "ms" counted from `began` (the clock of monotonic_ms_exact()), of when a
 * statement began. */
void latency_report(struct cutover *c, double began);

/*
 * What an INSERT costs on this table, by the trigger and by a generated column: measured on empty
 * temporary copies of the table, which a rollback takes away.
 */
#pragma once

#include "proxy/cutover/context.h"

/* Sets "insert_cost" in the report: {"rows", "rounds", "note", "paths" [{"path", "trigger_us",
 * "generated_us", "change"}]}, medians in microseconds a row; or {"note"} alone, saying why there
 * is none. A failure of the measurement is no failure of the cutover. Before the flip, outside of a
 * transaction. */
void cost_measure(struct cutover *c);

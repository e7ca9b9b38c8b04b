/*
 * What stands on the column: everything that dropping it destroys or that forbids to drop it, with
 * the SQL that takes it away and the SQL that puts it back, or the reason why it cannot be put
 * back.
 */
#pragma once

#include "proxy/cutover/context.h"

/* The order in which things are put back; they are taken away in the opposite order. */
enum capture_class {
    CAPTURE_COLUMN = 10, /* the column's own options, comment, grants */
    CAPTURE_INDEX = 20,  /* indexes, with their constraints */
    CAPTURE_CHECK = 30,
    CAPTURE_FOREIGN_KEY = 35,
    CAPTURE_MARK = 40, /* CLUSTER, REPLICA IDENTITY */
    CAPTURE_STATISTICS = 45,
    CAPTURE_TRIGGER = 50,
    CAPTURE_POLICY = 55,
    CAPTURE_VIEW = 60, /* in the order of their dependence */
};

/* The result of the capture: one row for each object, in the order of restoring. The strings are
 * borrowed from it. */
struct capture {
    PGresult *rows;
    size_t refused;
};

MUST_CHECK bool capture_read(struct cutover *c, struct capture *out, struct failure *f);
void capture_fini(struct capture *capture);

size_t capture_count(const struct capture *capture);
int capture_class(const struct capture *capture, size_t i);        /* enum capture_class, or more */
const char *capture_what(const struct capture *capture, size_t i); /* "index public.i" */
const char *capture_drop(const struct capture *capture, size_t i); /* NULL: goes with the column */
const char *capture_restore(const struct capture *capture, size_t i); /* NULL: refused */
const char *capture_refusal(const struct capture *capture, size_t i); /* NULL: can be restored */
/* Another relation that is locked to take it away and put it back, quoted; or NULL. */
const char *capture_lock(const struct capture *capture, size_t i);

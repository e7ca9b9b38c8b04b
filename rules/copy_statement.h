/*
 * COPY ... FROM STDIN whose stream may carry guarded columns: whether it does, at which places,
 * what the statement says without them, and what the stream's filter (copy_filter.h) has to know.
 * Called by the judge of COPY, within an analysis.
 */
#pragma once

#include "rules/analysis.h"
#include "rules/copy_filter.h"

/* Of `rules`, whose table the COPY's relation is, or is like: those whose column is in the stream.
 */
uint64_t copy_statement_carries(const struct analysis *a, const CopyStmt *stmt, uint64_t rules);

/* Reads the options for the filter of a COPY FROM that carries the columns of `rules`, all but
 * those that the session knows (has_encoding, csv_has_end_marker) and the fields. Returns why the
 * columns cannot be taken out, in words that follow a colon; NULL when they can. */
const char *copy_statement_read(const struct analysis *a, const CopyStmt *stmt, uint64_t rules,
                                struct copy_options *options);

/* The same of a COPY FROM into the table of a rule in mode compute, whether its column is carried
 * or not, with all that the filter has to know but what the session knows; `hint` says what to
 * write instead. */
const char *copy_statement_read_computed(const struct analysis *a, const CopyStmt *stmt,
                                         size_t rule, struct copy_options *options,
                                         const char **hint);
/* Makes the rule's column the last one of the list, when that had no objection. */
void copy_statement_compute(struct analysis *a, CopyStmt *stmt, size_t rule,
                            const struct copy_options *options);

/* Takes the columns of `rules` out of the column list, or makes a list without them where there is
 * none, and names their fields in `options`. Only after copy_statement_read() of the same rules or
 * more of them had no objection. */
void copy_statement_strip(struct analysis *a, CopyStmt *stmt, uint64_t rules,
                          struct copy_options *options);
/* After that: adds to the fields of the stream those that their expressions read, and says which
 * values can be compared. */
void copy_statement_compare(const struct analysis *a, const CopyStmt *stmt, uint64_t rules,
                            struct verdict_copy *copy);

/* copy_out.c: puts a query in the place of a guarded table where COPY TO would not give a column
 * that its clients know. */
void copy_out_judge(struct analysis *a, CopyStmt *stmt);

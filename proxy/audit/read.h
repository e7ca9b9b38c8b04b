/*
 * Reads audit logs for `pgsluice audit`: what they say of who still supplies a key, and whether
 * they are whole. A last line that was cut, by a crash or because it is being written, is no error.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "proxy/failure.h"

enum audit_line {
    AUDIT_LINE_END,
    AUDIT_LINE_RECORD,
    AUDIT_LINE_CUT,     /* the last one, without its newline */
    AUDIT_LINE_DAMAGED, /* not a record */
};

struct audit_reader {
    FILE *stream;
    char *line; /* as read, without the newline; valid until the next call */
    size_t size;
    unsigned long number;
};

MUST_CHECK bool audit_reader_open(struct audit_reader *reader, const char *file, struct failure *f);
void audit_reader_close(struct audit_reader *reader);
/* With AUDIT_LINE_RECORD, *record is the caller's (json_decref). */
enum audit_line audit_reader_next(struct audit_reader *reader, json_t **record);

/* `since`: only records at or after it, a prefix of RFC 3339 in UTC ("2026-11-23",
 * "2026-11-23T08:30"); NULL for all. The report has "records", "from", "to", "lost",
 * "damaged_lines", "cut_lines", "clients"
 * [{"application_name","user","database","rule","supplied","observed","stripped","computed","refused",
 * "rows","matched","mismatched","last","statements" [{"statement","fingerprint","text","supplied",
 * "matched","mismatched","last"}]}], the busiest first, and "cutover"
 * [{"time","rule","run","step","detail"}]. */
enum exit_code audit_report(const char *file, const char *since, json_t **report,
                            struct failure *f);

/* Every record's number follows on the one before; the first may be any (rotation). The report has
 * "records", "first_seq", "last_seq", "lost", "findings" [{"line","what"}]. */
enum exit_code audit_verify(const char *file, json_t **report, struct failure *f);

/*
 * The audit log: JSON Lines, one record per supplied key and per cutover step (DESIGN section 6).
 * Any thread hands records over; one writer thread numbers and writes them in the order of their
 * arrival. Fields that the caller lacks are left out of the line.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/config.h"
#include "proxy/failure.h"

struct audit;

/* Opens (appends, mode 0600) and starts the writer. With path NULL every call below does nothing.
 */
MUST_CHECK bool audit_open(const char *path, enum audit_fsync fsync, struct audit **out,
                           struct failure *f);
void audit_close(struct audit *audit);  /* writes what is queued, joins the writer */
bool audit_reopen(struct audit *audit); /* after a rotation, on SIGHUP */
/* False since a record could not be written (disk full, ...) and until one could again. */
bool audit_healthy(const struct audit *audit);

/* A part of a record, rendered once for all the records that it stands in. Heap, ended with free().
 */
struct audit_piece {
    size_t len;
    char text[];
};

struct audit_session {
    uint64_t id;
    const char *client; /* "127.0.0.1:51432", "unix" */
    const char *user;
    const char *database;
    const char *application_name;
    uint32_t backend_pid;
};

struct audit_supplied {
    const char *verdict;   /* observed | stripped | computed | refused */
    const char *sqlstate;  /* when refused, else NULL */
    const char *statement; /* INSERT, ... */
    const char *protocol;  /* simple | extended */
    uint64_t fingerprint;
    const char *text; /* literals masked */
    uint32_t rows;
    uint32_t params;
    struct audit_compared {
        uint32_t matched, mismatched; /* 0 and 0: nothing is known, and nothing said */
    } compared;
};

/* What a session's records on one rule begin with (`mode`: observe, strip, ...), and what those on
 * one statement go on with. Both borrow their arguments during the call; NULL when out of memory.
 */
struct audit_piece *audit_piece_who(const struct audit_session *session, const char *rule,
                                    const char *mode);
struct audit_piece *audit_piece_what(const struct audit_supplied *record);

/* A key was supplied: by a statement that may come again, and by one that comes once. Borrow. */
void audit_tell(struct audit *audit, const struct audit_piece *who, const struct audit_piece *what,
                const struct audit_compared *compared);
void audit_tell_once(struct audit *audit, const struct audit_piece *who,
                     const struct audit_supplied *record);
/* What became of the rows of a COPY that supplied keys, which was told when it began. */
void audit_tell_copied(struct audit *audit, const struct audit_piece *who,
                       const struct audit_supplied *record);
/* A step of a cutover or rollback: `run` its id, `detail` free text. */
void audit_step(struct audit *audit, const char *rule, const char *run, const char *step,
                const char *detail);

struct audit_counters {
    uint64_t written, lost;
};
void audit_count(const struct audit *audit, struct audit_counters *out);

/*
 * Texts that take long to judge: a thread beside each worker judges them, one after the other,
 * while their session is not read and every other session of the worker goes on. So the memory that
 * the parser takes is bounded by the number of workers, whatever clients send.
 *
 * The text stays where it is, in the session's stash, which is kept until the thread has done with
 * it, also when the session is closed meanwhile. Of a message that fills a stash of its own, what
 * goes to the server is lent to the stream: neither it nor what replaces it is copied, or freed, on
 * the worker's loop.
 */
#pragma once

#include "proxy/session/session.h"
#include "rules/positions.h"
#include "rules/rules.h"

/* Longer messages are not looked into on the loop at all. */
#define LARGE_MESSAGE ((size_t)384 * 1024)

/* One text of a Query or Parse. */
struct judged {
    struct span text;
    bool extended;
    struct span name; /* of the statement that a Parse makes */
    const uint32_t *types;
    size_t type_count;
};

/* A message on its way through the thread. From large_arrived() on it is the loop's again. */
struct large {
    struct large *next;
    struct worker *worker;
    struct session *session;
    struct mail *mail; /* brings it back */
    const uint8_t *message;
    size_t size;
    bool fills_stash; /* its session's, which is larger than a worker's buffer */
    uint8_t *stash;   /* that holds the message, once it is not the session's any more */
    struct catalog_snapshot *snapshot;
    const struct catalog_database *rules;
    uint64_t epoch;
    bool conforming;
    bool columns_change;
    bool hides_names; /* settings_hide_names() */
    enum text_encoding encoding;
    bool in_server_encoding;
    enum text_characters characters;
    _Atomic bool is_abandoned; /* nobody waits for it */
    bool is_done;
    bool is_cancelled; /* by a CancelRequest meanwhile */
    int refs;          /* the session's, the stream's */
    /* what was found out */
    bool is_readable;        /* the message is not malformed */
    bool may_concern;        /* a rule */
    bool is_plain;           /* it is read in one way only */
    bool isolation, execute; /* the text mentions */
    bool may_change;         /* how texts are read */
    struct judged judged;
    uint32_t *types;
    struct judge *judge;           /* owns the verdict */
    const struct verdict *verdict; /* NULL: out of memory */
    struct position_map *map;      /* of an edited text */
    bool is_learned;               /* by the worker's own judge */
    struct writer edited;          /* the message in its place, where that is large */
};

/* A thread that is started for a worker's first text. */
struct large_thread;
/* For worker_join(): after large_stop(). */
void large_free_thread(struct large_thread *thread);

/* --- on the worker's loop --- */

/* The message at the head of the session's stash is to be judged by the thread. False when the
 * session ended. */
bool large_begin(struct session *s);
/* MAIL_JUDGED. The session may be gone afterwards. */
void large_arrived(struct large *large);
/* CancelRequest for a session whose text is being judged: it will be refused with 57014, by the
 * server, which may have a transaction to fail. */
void large_cancel(struct session *s);
/* Whether the verdict that the session has got is about the rules and settings of now. */
bool large_is_current(const struct session *s);
/* Whether the session's message fills its stash. */
bool large_fills_stash(const struct session *s);
/* Puts what stands for the session's message, which fills its stash, behind the worker's batch. */
void large_send(struct session *s, const uint8_t *bytes, size_t len);
/* The session is not interested any more. Safe without one. */
void large_drop(struct session *s);
/* The same when the message is consumed: its stash goes with it. */
void large_consumed(struct session *s);
/* Frees a session's stash where that does not keep the loop. */
void large_free_stash(struct worker *worker, uint8_t *stash, size_t size);
/* Ends the thread, after the text that it is at. What it was given has been posted when this
 * returns. */
void large_stop(struct worker *worker);

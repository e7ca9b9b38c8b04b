/*
 * What a session must remember of the statements it let through: which prepared statements write a
 * guarded table or supply a key (for the gate and the audit, at each Bind), which answers of the
 * server are to the proxy's own failing statements (refusals), and which ones are about a text that
 * is not the client's (places).
 *
 * A Parse or Close counts for what is sent behind it at once, and for good when the server has
 * carried it out: until then it is a change that is pending, and is dropped when its batch fails
 * ahead of it. Portals need no such care: an error that has a Bind skipped ends all of them with
 * the transaction.
 *
 * Of statements that a flip of their table would make others, the client's text is kept (sources),
 * so that the server can be given them anew: by a Close and a Parse of the proxy's own, whose
 * answers the client never sees. The ledger has these as changes too, and knows their place.
 *
 * Pure bookkeeping by name and by position in the stream of ReadyForQuery; knows no sockets.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/bytes.h"
#include "rules/positions.h"
#include "rules/rules.h"

struct audit_piece;

#define LEDGER_ENCODING 32

/* What the audit will say at each execution of a prepared statement. */
struct ledger_note {
    struct supplied *supplied; /* .rule is the configuration's index */
    size_t count;
    /* Values that are known at Bind; those of literals lie in `literals`. */
    struct value_pair *pairs;
    size_t pair_count;
    char *literals;
    bool conforming, in_encoding;
    struct comparison *compared; /* one for each supplied: what the Bind at hand supplies */
    uint64_t fingerprint;
    char *text;                /* masked */
    bool edited;               /* else observed */
    struct verdict_copy *copy; /* it takes a stream, which is filtered; else NULL */
    struct audit_piece **said; /* one for each supplied, rendered when it is first said; then there
                                  is no more `text` but where there are pairs */
};

/* A Parse as the client sent it. Counted: the changes of a statement share it. */
struct ledger_source {
    uint32_t refs;
    bool conforming;                /* standard_conforming_strings, by which it was read, */
    char encoding[LEDGER_ENCODING]; /* and client_encoding; "": it reads alike in all */
    size_t size;                    /* of all this */
    size_t type_count, len;
    const uint32_t *types;
    const char *text; /* NUL-terminated */
};

struct ledger_statement {
    uint64_t writes;              /* bit i: configuration rule i's table */
    struct ledger_note *note;     /* NULL: it supplies no key */
    struct position_map *map;     /* NULL: the server has the client's text */
    struct ledger_source *source; /* NULL: it cannot be made anew, or need not */
    uint64_t computed;            /* with a source: rules whose key pgsluice put in at that time */
    bool is_gone;                 /* the server may not have it, though the client thinks so */
    bool is_own;                  /* the client does not know of this change */
    bool touches;                 /* a table of a rule in mode compute, if only to read it */
};

/* Where a message of the client stands. */
struct ledger_spot {
    uint64_t sync;    /* the number of the ReadyForQuery that ends its batch */
    uint32_t message; /* of the batch, from 0, among those that have an answer of their own */
};

/* One name, or the unnamed statement. */
struct ledger_known {
    struct ledger_statement statement; /* as the server has it, as far as it has answered */
    uint32_t pending;                  /* changes of it */
    uint64_t newest;                   /* the number of the last of these */
};

/* A Parse or Close that the server has not carried out yet. */
struct ledger_change {
    struct ledger_named *named; /* NULL: the unnamed statement */
    struct ledger_spot spot;
    bool is_doubtful; /* whether it is carried out will not be known */
    struct ledger_statement statement;
};

struct ledger_refusal {
    uint64_t id;   /* stands in the failing statement */
    uint64_t sync; /* the number of the ReadyForQuery that ends its batch */
    char sqlstate[6];
    char *message, *detail, *hint;
    char position[24]; /* "" where none applies */
};

/* From this message on, up to the next place or the end of its batch, errors are about a text of
 * this map. */
struct ledger_place {
    uint64_t sync;    /* the number of the ReadyForQuery that ends the batch */
    uint32_t message; /* of the batch, from 0, among those that have an answer of their own */
    struct position_map *map;
};

struct ledger {
    struct ledger_named *named;
    size_t named_count;
    size_t edited_count; /* statements with a map, known and pending */
    size_t source_bytes; /* of all sources */
    size_t own_count;    /* pending changes that the client does not know of */
    /* More writing statements than LEDGER_NAMES_MAX were prepared: every Bind counts as a write of
     * these, so that a client cannot make the proxy's memory grow. */
    uint64_t overflow_writes;
    bool overflow_edited;      /* some of them had a map */
    uint64_t overflow_sources; /* the writes of those that had a source */
    struct ledger_known unnamed;
    struct ledger_change *changes; /* a ring; the number of a change tells its place */
    size_t change_room;            /* a power of two */
    uint64_t change_first, change_end;
    uint64_t failed;             /* the number of a batch: what is still to come in it is skipped */
    struct position_map *portal; /* of the unnamed portal's statement */
    struct ledger_place *places; /* oldest first */
    size_t place_count, place_room;
    uint64_t places_lost; /* no place is known in batches up to this one, beyond the last noted */
    struct ledger_refusal *refusals; /* oldest first */
    size_t refusal_count;
    uint64_t next_refusal;
};

#define LEDGER_NAMES_MAX 4096
#define LEDGER_CHANGES_MAX 4096
#define LEDGER_REFUSALS_MAX 1024
#define LEDGER_PLACES_MAX 1024
#define LEDGER_SOURCE_MAX (32 * 1024)    /* bytes of a text that is kept, */
#define LEDGER_SOURCES_MAX (1024 * 1024) /* and of all that a session keeps */

void ledger_fini(struct ledger *ledger);
/* Whether a later message may execute a text that is not the client's. */
static inline bool ledger_has_edited(const struct ledger *ledger)
{
    return ledger->edited_count > 0 || ledger->portal != NULL || ledger->overflow_edited;
}
static inline bool ledger_is_empty(const struct ledger *ledger)
{
    return ledger->named == NULL && ledger->unnamed.statement.writes == 0 &&
           ledger->unnamed.statement.note == NULL && !ledger->unnamed.statement.touches &&
           ledger->unnamed.pending == 0 && ledger->overflow_writes == 0 &&
           !ledger_has_edited(ledger);
}
/* A Parse went to the server. The statement is remembered as in `as`, whose map and source are
 * borrowed; its note is made here. `rule_index` maps the verdict's rules to the configuration's. A
 * statement of which there is nothing to say forgets the name. False when out of memory. */
bool ledger_parsed(struct ledger *ledger, struct ledger_spot spot, struct span name,
                   const struct verdict *verdict, const size_t *rule_index,
                   const struct ledger_statement *as);
/* A Close of the proxy's own went to the server at `spot`, and behind it such a Parse, of a
 * statement that has a source, which was judged again; `was` is what ledger_find() says of it.
 * There must be room for two changes. False when out of memory. */
bool ledger_remade(struct ledger *ledger, struct ledger_spot spot, struct span name,
                   const struct ledger_statement *was, const struct verdict *verdict,
                   const size_t *rule_index, const struct ledger_statement *as);
static inline bool ledger_has_own(const struct ledger *ledger)
{
    return ledger->own_count > 0;
}
/* Whether the server's next answer, to message `message` of batch `sync`, is to one of those. */
bool ledger_is_own(struct ledger *ledger, uint64_t sync, uint32_t message);
/* A reference for the caller; NULL when it is too long, when the session keeps too much already, or
 * when out of memory. */
struct ledger_source *ledger_source_new(struct ledger *ledger, struct span text,
                                        const uint32_t *types, size_t type_count);
void ledger_source_unref(struct ledger *ledger, struct ledger_source *source); /* or NULL */
/* So did a Close, or something that ends the statement likewise. False when out of memory. */
bool ledger_closed(struct ledger *ledger, struct ledger_spot spot, struct span name);
/* The server has ended all statements that have a name. */
void ledger_deallocated(struct ledger *ledger);
/* The statement of that name, if all that is pending is carried out; zeros when nothing is to be
 * remembered of it. */
struct ledger_statement ledger_find(const struct ledger *ledger, struct span name);
/* Whether a message of batch `sync` may meet another statement of that name, because of changes in
 * an earlier batch. Within its own batch it would be skipped. */
bool ledger_is_doubtful(const struct ledger *ledger, struct span name, uint64_t sync);
/* No more changes can be kept apart: until the server has answered, the last one of a name stands
 * for those before it, and the writes of all of them for every statement. */
static inline bool ledger_is_behind(const struct ledger *ledger)
{
    return ledger->change_end - ledger->change_first >= LEDGER_CHANGES_MAX;
}
/* The server has answered that many messages of batch `sync`. */
void ledger_answered(struct ledger *ledger, uint64_t sync, uint32_t messages);
/* It has answered the next one with an error, and skips the others. */
void ledger_failed(struct ledger *ledger, uint64_t sync, uint32_t messages);
/* Whether changes in the batches behind `sync` are carried out will not be known; those of the
 * batches up to `counted` keep their number. */
void ledger_doubt(struct ledger *ledger, uint64_t sync, uint64_t counted);

/* Notes a refusal whose batch ends with ReadyForQuery number `sync`. A batch has one at most:
 * behind it the server skips to the Sync, so that a later one is never asked for and gets the same.
 * NULL when out of memory or full. Borrowed until the next call. */
const struct ledger_refusal *ledger_refuse(struct ledger *ledger, const struct verdict *verdict,
                                           uint64_t sync);
/* No refusal of batch `sync` can be noted until the server has answered earlier ones. */
bool ledger_is_full(const struct ledger *ledger, uint64_t sync);
/* The refusal that an error with `message`, within the batch before ReadyForQuery `sync`, answers.
 */
const struct ledger_refusal *ledger_answers(const struct ledger *ledger, const char *nonce,
                                            const char *message, uint64_t sync);
/* ReadyForQuery number `sync` arrived: what was sent for it is answered or was skipped. */
void ledger_ready(struct ledger *ledger, uint64_t sync);
/* The text that makes the server fail, in `room`: recognised by ledger_answers(). */
#define LEDGER_POISON_MAX 128
size_t ledger_poison(char room[LEDGER_POISON_MAX], const char *nonce, uint64_t id);
/* The words by which it is recognised, alone. */
size_t ledger_mark(char room[LEDGER_POISON_MAX], const char *nonce, uint64_t id);

/* ledger_places.c: errors about what is sent from this message on are about a text of `map`
 * (borrowed); NULL: the client's own. Places come in the order of the stream. */
void ledger_place(struct ledger *ledger, uint64_t sync, uint32_t message, struct position_map *map);
/* Whether ledger_placed() may say so in this batch or a later one. */
static inline bool ledger_has_places(const struct ledger *ledger, uint64_t sync)
{
    return ledger->place_count > 0 || sync <= ledger->places_lost;
}
/* The map for an error that answers that message; NULL: the client's text is the server's. */
const struct position_map *ledger_placed(const struct ledger *ledger, uint64_t sync,
                                         uint32_t message);
/* Messages behind the batch `sync` were not taken for what they are: their numbers are given again,
 * and those of messages in the next batch are not known. */
void ledger_recount(struct ledger *ledger, uint64_t sync);
/* The batches up to `to` count as answered, though answers of those behind `from` may still come,
 * which will then be taken for the next one's. */
void ledger_skip(struct ledger *ledger, uint64_t from, uint64_t to);
/* A Bind made the unnamed portal of a statement with this map (borrowed; NULL: none). */
void ledger_bound(struct ledger *ledger, struct position_map *map);
void ledger_forget_places(struct ledger *ledger, uint64_t sync); /* of batches up to this one */

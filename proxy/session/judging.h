/*
 * What the files of judging share; the rest of the room knows what session.h declares of them.
 * judging.c asks for verdicts on texts and carries them out, judging_prepared.c follows prepared
 * statements, judging_sent.c puts the messages, judging_audit.c tells.
 */
#pragma once

#include "proxy/session/large.h"
#include "proxy/session/session.h"

/* --- judging_prepared.c: `size` bytes of the message are there --- */

enum judging judging_bind(struct session *s, const uint8_t *message, size_t size);
enum judging judging_describe(struct session *s, const uint8_t *message, size_t size);
enum judging judging_execute(struct session *s, const uint8_t *message, size_t size);
enum judging judging_close(struct session *s, const uint8_t *message, size_t size);

/* --- judging_sent.c --- */

/* The refusal of a statement that was cancelled while it was held or judged. */
extern const struct verdict judging_cancelled;

/* Where the next message to the server stands. */
struct ledger_spot judging_spot(const struct session *s);
/* What the next message to the server is about. */
void judging_place(struct session *s, struct position_map *map);
/* Another change in the ledger must wait until the server has answered those before it; within one
 * batch that would be for ever. */
bool judging_is_behind(struct session *s);
/* Puts a Query or Parse of that text in the message's place. False when out of memory. */
bool judging_put_query(struct session *s, const struct judged *judged, const char *text, size_t len,
                       const uint32_t *types, size_t type_count);
/* Replaces the message by one that fails in the server, which alone can fail a transaction. False
 * when out of memory. */
bool judging_put_refusal(struct session *s, const struct judged *judged,
                         const struct verdict *verdict);

/* --- judging_audit.c: false when out of memory --- */

/* A text that supplies guarded columns, or is refused for it. */
bool judging_tell_verdict(struct session *s, const struct verdict *verdict, bool extended);
/* An execution of a prepared statement. */
bool judging_tell_note(struct session *s, struct ledger_note *note);
/* The execution that was not to be: of each of its keys. */
bool judging_tell_refused(struct session *s, const struct ledger_note *note,
                          const struct verdict *verdict);

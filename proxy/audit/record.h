/*
 * The text of audit records. The caller's thread renders what it knows (the body); the writer's
 * thread puts the head before it, which carries what only the order of the log decides: number and,
 * of the arrival, time.
 */
#pragma once

#include "proxy/audit/audit.h"

/* Longer statements are cut; the record then says how long the text was. */
#define AUDIT_TEXT_MAX 16384
/* Of each of the other strings. */
#define AUDIT_NAME_MAX 1024
/* No rendered body is longer. */
#define AUDIT_BODY_MAX ((AUDIT_TEXT_MAX + 16 * AUDIT_NAME_MAX) * 6 + 1024)

/* Each renders into `out` and returns the length, 0 when `room` is too small. No NUL is added; the
 * text begins with a comma and has neither brace. */
/* The two parts of the body on a supplied key, in their order. */
size_t audit_render_who(char *out, size_t room, const struct audit_session *session,
                        const char *rule, const char *mode);
/* The first part, `who`, for what becomes of a COPY's rows. */
size_t audit_render_copied(char *out, size_t room, const struct audit_piece *who);
size_t audit_render_what(char *out, size_t room, const struct audit_supplied *record);
/* What may follow behind both; nothing where nothing is known. */
size_t audit_render_compared(char *out, size_t room, const struct audit_compared *compared);
size_t audit_render_step(char *out, size_t room, const char *rule, const char *run,
                         const char *step, const char *detail);
size_t audit_render_lost(char *out, size_t room, uint64_t records);

#define AUDIT_HEAD_MAX 512

/* {"seq":1,"time":"2026-11-23T01:02:03.456789Z","instance":"db1:4711"; `instance` is JSON already.
 */
size_t audit_render_head(char *out, size_t room, uint64_t seq, uint64_t time_us,
                         const char *instance);

/* Renders audit records as JSON by hand: a stripped INSERT costs one, and may come 20 000 times a
 * second; see record.h. */
#include "proxy/audit/record.h"

#include "proxy/json_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Appends until it is full; `overflow` then makes the whole record void. */
struct out {
    char *text;
    size_t room;
    size_t len;
    bool overflow;
};

static void put(struct out *o, const char *bytes, size_t len)
{
    if (o->overflow || len > o->room - o->len) {
        o->overflow = true;
        return;
    }
    memcpy(o->text + o->len, bytes, len);
    o->len += len;
}

static void put_name(struct out *o, const char *name)
{
    put(o, ",\"", 2);
    put(o, name, strlen(name));
    put(o, "\":", 2);
}

static void put_text(struct out *o, const char *name, const char *value, size_t len)
{
    put_name(o, name);
    put(o, "\"", 1);
    if (o->overflow || (o->room - o->len) / JSON_TEXT_GROWTH <= len) {
        o->overflow = true;
        return;
    }
    o->len += json_text(o->text + o->len, o->room - o->len, value, len);
    put(o, "\"", 1);
}

static void put_string(struct out *o, const char *name, const char *value)
{
    if (value != NULL) {
        put_text(o, name, value, strnlen(value, AUDIT_NAME_MAX));
    }
}

static size_t decimal(char *end, uint64_t number)
{
    char *c = end;
    do {
        *--c = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    return (size_t)(end - c);
}

static void put_number(struct out *o, const char *name, uint64_t number)
{
    char digits[20];
    size_t len = decimal(digits + sizeof digits, number);
    put_name(o, name);
    put(o, digits + sizeof digits - len, len);
}

static void put_fingerprint(struct out *o, uint64_t fingerprint)
{
    static const char hex[] = "0123456789abcdef";
    char digits[16];
    for (size_t i = sizeof digits; i-- > 0; fingerprint >>= 4) {
        digits[i] = hex[fingerprint & 0xf];
    }
    put_text(o, "fingerprint", digits, sizeof digits);
}

static void put_statement(struct out *o, const char *text)
{
    if (text == NULL) {
        return;
    }
    size_t len = strlen(text);
    if (len <= AUDIT_TEXT_MAX) {
        put_text(o, "text", text, len);
        return;
    }
    size_t cut = AUDIT_TEXT_MAX;
    while (cut > AUDIT_TEXT_MAX - 4 && ((unsigned char)text[cut] & 0xc0) == 0x80) {
        cut--; /* not within a character */
    }
    put_text(o, "text", text, cut);
    put_number(o, "text_length", len);
}

static const char supplied_event[] = ",\"event\":\"supplied\"";

size_t audit_render_copied(char *out, size_t room, const struct audit_piece *who)
{
    const size_t skipped = sizeof supplied_event - 1;
    struct out o = {.text = out, .room = room};
    put_string(&o, "event", "copied");
    put(&o, who->text + skipped, who->len - skipped);
    return o.overflow ? 0 : o.len;
}

size_t audit_render_who(char *out, size_t room, const struct audit_session *session,
                        const char *rule, const char *mode)
{
    struct out o = {.text = out, .room = room};
    put(&o, supplied_event, sizeof supplied_event - 1);
    put_number(&o, "session", session->id);
    put_string(&o, "client", session->client);
    put_string(&o, "user", session->user);
    put_string(&o, "database", session->database);
    put_string(&o, "application_name", session->application_name);
    if (session->backend_pid != 0) {
        put_number(&o, "backend_pid", session->backend_pid);
    }
    put_string(&o, "rule", rule);
    put_string(&o, "mode", mode);
    return o.overflow ? 0 : o.len;
}

static void put_compared(struct out *o, const struct audit_compared *compared)
{
    if (compared->matched > 0 || compared->mismatched > 0) {
        put_number(o, "matched", compared->matched);
        put_number(o, "mismatched", compared->mismatched);
    }
}

size_t audit_render_compared(char *out, size_t room, const struct audit_compared *compared)
{
    struct out o = {.text = out, .room = room};
    put_compared(&o, compared);
    return o.overflow ? 0 : o.len;
}

size_t audit_render_what(char *out, size_t room, const struct audit_supplied *record)
{
    struct out o = {.text = out, .room = room};
    put_string(&o, "verdict", record->verdict);
    put_string(&o, "sqlstate", record->sqlstate);
    put_string(&o, "statement", record->statement);
    put_string(&o, "protocol", record->protocol);
    put_number(&o, "rows", record->rows);
    put_number(&o, "params", record->params);
    put_compared(&o, &record->compared);
    if (record->fingerprint != 0) {
        put_fingerprint(&o, record->fingerprint);
    }
    put_statement(&o, record->text);
    return o.overflow ? 0 : o.len;
}

/* Room for the names of a piece and for what surrounds a text. */
#define PIECE_NAMES 512

static size_t room_for(const char *value, size_t most)
{
    return value == NULL ? 0 : (strnlen(value, most) + 1) * JSON_TEXT_GROWTH;
}

static struct audit_piece *piece_new(size_t room)
{
    struct audit_piece *piece = malloc(sizeof *piece + room);
    if (piece != NULL) {
        piece->len = 0;
    }
    return piece;
}

/* Gives back what was not needed. */
static struct audit_piece *piece_done(struct audit_piece *piece)
{
    struct audit_piece *fitting = realloc(piece, sizeof *piece + piece->len);
    return fitting != NULL ? fitting : piece;
}

struct audit_piece *audit_piece_who(const struct audit_session *session, const char *rule,
                                    const char *mode)
{
    const char *const values[] = {session->client,           session->user, session->database,
                                  session->application_name, rule,          mode};
    size_t room = PIECE_NAMES;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        room += room_for(values[i], AUDIT_NAME_MAX);
    }
    struct audit_piece *piece = piece_new(room);
    if (piece == NULL) {
        return NULL;
    }
    piece->len = audit_render_who(piece->text, room, session, rule, mode);
    return piece_done(piece);
}

struct audit_piece *audit_piece_what(const struct audit_supplied *record)
{
    const char *const values[] = {record->verdict, record->sqlstate, record->statement,
                                  record->protocol};
    size_t room = PIECE_NAMES + room_for(record->text, AUDIT_TEXT_MAX);
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        room += room_for(values[i], AUDIT_NAME_MAX);
    }
    struct audit_piece *piece = piece_new(room);
    if (piece == NULL) {
        return NULL;
    }
    piece->len = audit_render_what(piece->text, room, record);
    return piece_done(piece);
}

size_t audit_render_step(char *out, size_t room, const char *rule, const char *run,
                         const char *step, const char *detail)
{
    struct out o = {.text = out, .room = room};
    put_string(&o, "event", "cutover");
    put_string(&o, "rule", rule);
    put_string(&o, "run", run);
    put_string(&o, "step", step);
    if (detail != NULL) {
        put_text(&o, "detail", detail, strnlen(detail, AUDIT_TEXT_MAX));
    }
    return o.overflow ? 0 : o.len;
}

size_t audit_render_lost(char *out, size_t room, uint64_t records)
{
    struct out o = {.text = out, .room = room};
    put_string(&o, "event", "lost");
    put_number(&o, "records", records);
    return o.overflow ? 0 : o.len;
}

size_t audit_render_head(char *out, size_t room, uint64_t seq, uint64_t time_us,
                         const char *instance)
{
    /* one thread writes; most records of a batch fall into the same second */
    static _Thread_local time_t rendered = -1;
    static _Thread_local char stamp[48];
    static _Thread_local size_t stamp_len;

    time_t second = (time_t)(time_us / 1000000);
    if (second != rendered) {
        struct tm utc;
        gmtime_r(&second, &utc);
        stamp_len = strftime(stamp, sizeof stamp, ",\"time\":\"%Y-%m-%dT%H:%M:%S.", &utc);
        rendered = second;
    }
    char micros[] = "000000Z\",\"instance\":\"";
    unsigned fraction = (unsigned)(time_us % 1000000);
    for (size_t i = 6; i-- > 0; fraction /= 10) {
        micros[i] = (char)('0' + fraction % 10);
    }

    struct out o = {.text = out, .room = room};
    char digits[20];
    size_t len = decimal(digits + sizeof digits, seq);
    put(&o, "{\"seq\":", 7);
    put(&o, digits + sizeof digits - len, len);
    put(&o, stamp, stamp_len);
    put(&o, micros, sizeof micros - 1);
    put(&o, instance, strlen(instance));
    put(&o, "\"", 1);
    return o.overflow ? 0 : o.len;
}

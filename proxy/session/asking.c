/* The question, its answer, and what follows from it; see asking.h. */
#include "proxy/session/asking.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/message.h"
#include "proxy/session/session.h"

/* Most holds are over before: their server need not be asked. */
#define ASK_AFTER_MS 20
#define NS_PER_MS 1000000u

/* Also the name of statement and portal, which no client will have. */
static const char name[] = "held by pgsluice";
/* transaction_timeout is NULL before PostgreSQL 17. */
static const char question[] = "/* pgsluice holds the next statement */ SELECT "
                               "pg_catalog.current_setting('statement_timeout'),"
                               " pg_catalog.current_setting('lock_timeout'),"
                               " pg_catalog.current_setting('transaction_timeout', true)";

enum { ANSWERS = 3 };

static void ask(struct session *s)
{
    struct writer w;
    writer_init(&w, 1024);
    message_write_batch(&w, name, question);
    struct iovec iov = {.iov_base = w.bytes, .iov_len = w.len};
    const enum stream_result result = w.ok ? stream_send(&s->server, &iov, 1) : STREAM_NO_MEMORY;
    writer_fini(&w);
    s->asking.is_asked = result == STREAM_OK;
    if (result == STREAM_BROKEN) {
        s->server_gone = true; /* its last words are still to be read */
    }
    if (result != STREAM_OK) {
        s->asking.is_known = true; /* nothing, and nobody is asked again */
    }
}

enum asking_verdict asking_look(struct session *s, uint64_t waited_ns)
{
    struct asking *asking = &s->asking;
    const uint64_t waited_ms = waited_ns / NS_PER_MS;
    if (!asking->is_known) {
        if (!asking->is_asked && waited_ms >= ASK_AFTER_MS) {
            ask(s);
        }
        return ASKING_WAIT;
    }
    if (asking->cancel_ms > 0 && waited_ms >= asking->cancel_ms) {
        return ASKING_CANCEL;
    }
    return asking->pass_ms > 0 && waited_ms >= asking->pass_ms ? ASKING_PASS : ASKING_WAIT;
}

bool asking_expects(const struct session *s, uint8_t type)
{
    return s->asking.is_asked && strchr("123TDCEZ", type) != NULL && type != '\0';
}

/* As SHOW writes it: a number and the largest unit that divides it. */
static uint64_t milliseconds_of(const struct message_value *value)
{
    static const struct {
        const char *unit;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"min", 60000}, {"h", 3600000}, {"d", 86400000}};
    char text[32] = "";
    if (value->is_null || value->bytes.len >= sizeof text) {
        return 0;
    }
    memcpy(text, value->bytes.ptr, value->bytes.len);
    char *unit;
    const uint64_t number = strtoull(text, &unit, 10);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(unit, units[i].unit) == 0) {
            return number * units[i].ms;
        }
    }
    return 0;
}

/* The shorter one, where 0 is none. */
static uint64_t shorter(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

static void take_row(struct asking *asking, const uint8_t *message, size_t size)
{
    struct message_values row;
    struct message_value value;
    uint64_t ms[ANSWERS] = {0};
    if (!message_read_row(message, size, &row)) {
        return;
    }
    for (size_t i = 0; i < ANSWERS && message_next_value(&row, &value); i++) {
        ms[i] = milliseconds_of(&value);
    }
    asking->is_known = true;
    asking->cancel_ms = ms[0];
    asking->pass_ms = shorter(ms[1], ms[2]);
}

/* FATAL and PANIC are about the session. */
static bool is_last_word(const uint8_t *message, size_t size)
{
    struct message_error error;
    if (!message_read_error(message, size, &error)) {
        return false;
    }
    const char *severity = error.severity_code != NULL ? error.severity_code : error.severity;
    return severity != NULL && strcmp(severity, "ERROR") != 0;
}

bool asking_take(struct session *s, const uint8_t *message, size_t size)
{
    struct asking *asking = &s->asking;
    switch (message[0]) {
    case 'D':
        take_row(asking, message, size);
        break;
    case 'E':
        if (is_last_word(message, size)) {
            return false;
        }
        *asking = (struct asking){.is_asked = true, .is_known = true, .pass_ms = 1};
        break;
    case 'Z':
        asking->is_asked = false;
        break;
    default:
        break;
    }
    return true;
}

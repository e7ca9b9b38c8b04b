/*
 * What a session's settings say about its texts. standard_conforming_strings and client_encoding
 * decide where a literal ends; the server reports them with the ReadyForQuery behind their change,
 * which a pipelined text is sent ahead of. So a text for which they may matter waits for what is
 * unanswered. Inside one batch that would be for ever: there it is refused behind whatever was
 * bound or executed, which may have called a function that changes them, unless it means the same
 * in any case (rules/alike.h). Nearly every text does.
 *
 * The statements of one Query need no such care: the server reads all of them before it runs the
 * first.
 */
#include "proxy/session/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/session/copying.h"
#include "proxy/session/large.h"
#include "proxy/session/mentions.h"
#include "rules/encoding.h"

void settings_text(struct session *s, struct span text)
{
    /* BEGIN ISOLATION LEVEL ..., SET default_transaction_isolation, SET SESSION CHARACTERISTICS
     * ...: every way to another isolation level says so */
    if (!s->may_snapshot && mentions(text.ptr, text.len, "isolation")) {
        s->may_snapshot = true;
    }
}

static bool span_is(struct span s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.ptr, text, s.len) == 0;
}

static enum text_encoding encoding_of(struct span name)
{
    /* their second bytes may look like a quote or a backslash */
    static const char *const unsafe[] = {"SJIS",    "BIG5",  "GBK",           "UHC",
                                         "GB18030", "JOHAB", "SHIFT_JIS_2004"};
    for (size_t i = 0; i < sizeof unsafe / sizeof unsafe[0]; i++) {
        if (name.len == strlen(unsafe[i]) && strncasecmp(name.ptr, unsafe[i], name.len) == 0) {
            return TEXT_ENCODING_UNSAFE;
        }
    }
    return span_is(name, "UTF8") ? TEXT_ENCODING_UTF8 : TEXT_ENCODING_ASCII_SAFE;
}

/* Nothing is converted between the same encodings, nor from or to SQL_ASCII. */
static void note_encoding(struct session *s, char name[ENCODING_NAME], struct span value)
{
    const char *client = s->client_encoding, *server = s->server_encoding;
    snprintf(name, ENCODING_NAME, "%.*s", (int)value.len, value.ptr);
    s->in_server_encoding = client[0] != '\0' && server[0] != '\0' &&
                            (strcmp(client, server) == 0 || strcmp(client, "SQL_ASCII") == 0 ||
                             strcmp(server, "SQL_ASCII") == 0);
    s->in_utf8 = s->in_server_encoding && strcmp(server, "UTF8") == 0;
}

void settings_parameter(struct session *s, struct span name, struct span value)
{
    if (span_is(name, "standard_conforming_strings")) {
        s->strings_standard = !span_is(value, "off");
        s->settings_touched = true; /* a transaction's end may change it back */
    } else if (span_is(name, "client_encoding")) {
        s->encoding = encoding_of(value);
        note_encoding(s, s->client_encoding, value);
        s->settings_touched = true;
        s->copy_encoding = copy_encoding_of(value.ptr);
        s->client_characters = characters_of(value.ptr, value.len);
    } else if (span_is(name, "server_encoding")) {
        s->server_characters = characters_of(value.ptr, value.len);
        /* what BIG5 is converted to by a formula, whatever its second byte */
        s->swallows_quotes = span_is(value, "EUC_TW") || span_is(value, "MULE_INTERNAL");
        note_encoding(s, s->server_encoding, value);
    } else if (span_is(name, "server_version")) {
        s->server_major = (unsigned)strtoul(value.ptr, NULL, 10);
    } else if (span_is(name, "application_name")) {
        char *copy = strndup(value.ptr, value.len);
        if (copy != NULL) {
            free(s->application_name);
            s->application_name = copy;
            judging_who_changed(s);
        }
    }
}

/* Only what has one of these words does so in sight. */
bool settings_may_change(struct span text)
{
    static const char *const words[] = {"client_encoding", "standard_conforming_strings",
                                        "set_config",      "pg_settings",
                                        "names",           "reset"};
    size_t at = 0;
    while (at < text.len && strchr(" \t\r\n\f", text.ptr[at]) != NULL) {
        at++;
    }
    /* as a statement's first word; comments may hide it */
    const bool may_begin_so = at < text.len && strchr("dDeE/-", text.ptr[at]) != NULL;
    if (may_begin_so &&
        (mentions(text.ptr, text.len, "discard") || mentions(text.ptr, text.len, "execute"))) {
        return true;
    }
    if (mentions(text.ptr, text.len, "u&\"")) {
        return true; /* a name may be spelt otherwise */
    }
    const bool may_set = mentions(text.ptr, text.len, "set");
    for (size_t i = 0; may_set && i < sizeof words / sizeof words[0]; i++) {
        if (mentions(text.ptr, text.len, words[i])) {
            return true;
        }
    }
    return false;
}

void settings_sent(struct session *s, bool is_named)
{
    s->settings_touched = true;
    s->settings_prepared = s->settings_prepared || is_named;
}

static bool is_readable_always(struct span text)
{
    return encoding_is_readable(TEXT_ENCODING_UNKNOWN, text.ptr, text.len);
}

bool settings_are_awaited(const struct session *s, struct span text)
{
    if (s->syncs_sent == s->syncs_done) {
        return false;
    }
    return s->large != NULL ? !s->large->is_plain : !is_readable_always(text);
}

static bool are_names_foreign(const struct session *s)
{
    return !s->in_utf8 && rule_set_beyond_ascii(s->rules->set) != 0;
}

bool settings_hide_names(const struct session *s)
{
    return rule_set_beyond_ascii(s->rules->set) != 0 &&
           (!s->in_utf8 || s->syncs_sent != s->syncs_done);
}

enum text_encoding settings_encoding(const struct session *s)
{
    const bool is_foreign = are_names_foreign(s);
    if (!s->batch_ran) {
        return is_foreign ? TEXT_ENCODING_FOREIGN : s->encoding;
    }
    return s->swallows_quotes || is_foreign ? TEXT_ENCODING_UNKNOWN : TEXT_ENCODING_UNSETTLED;
}

enum text_encoding settings_encoding_of(const struct session *s, struct span text)
{
    return s->batch_ran && is_readable_always(text) ? s->encoding : settings_encoding(s);
}

bool settings_are_servers(const struct session *s)
{
    return s->in_server_encoding && !(s->settings_touched && s->batch_executed);
}

void settings_ready(struct session *s)
{
    if (s->transaction == 'I' && s->syncs_sent == s->syncs_done && !s->batch_open) {
        s->settings_touched = s->settings_prepared;
    }
}

/* Who may come in, and what the messages of a console's client mean; see console.h. */
#include "proxy/admin/console.h"

#include <ctype.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "protocol/authentication.h"
#include "protocol/frame.h"
#include "protocol/message.h"
#include "proxy/log.h"
#include "proxy/net/address.h"
#include "proxy/service.h"
#include "proxy/session/login_scram.h"
#include "proxy/session/session.h"

/* No command is longer, and no answer. */
#define REQUEST_MAX ((size_t)16 * 1024)
#define ANSWER_MAX ((size_t)256 * 1024 * 1024)
#define WORDS_MAX 3
#define WORD_MAX 32
#define PROTOCOL_3_0 0x30000u

/* --- who may come in --- */

/* The owner of the proxy, over a unix socket, as user pgsluice. */
static bool is_own(const struct session *s)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    const struct sockaddr_storage address = address_of_peer(s->client.fd);
    return address.ss_family == AF_UNIX && !s->client_proxied &&
           strcmp(s->user, CONSOLE_DATABASE) == 0 &&
           getsockopt(s->client.fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
           (peer.uid == geteuid() || peer.uid == 0);
}

/* Whether a comma-separated list has the name; NULL is an empty list. */
static bool list_has(const char *list, const char *name)
{
    const size_t len = strlen(name);
    for (const char *at = list; at != NULL; at = strchr(at, ',')) {
        at += strspn(at, ", \t");
        const size_t size = strcspn(at, ",");
        size_t word = size;
        while (word > 0 && (at[word - 1] == ' ' || at[word - 1] == '\t')) {
            word--;
        }
        if (word == len && memcmp(at, name, len) == 0) {
            return true;
        }
    }
    return false;
}

void console_begin(struct session *s, const struct startup *packet)
{
    if (packet->major != 3) {
        session_fail(s, "0A000", "unsupported frontend protocol %u.%u: the console speaks 3.0",
                     packet->major, packet->minor);
        return;
    }
    s->settled = true;
    if (packet->minor > 0) {
        struct writer w;
        writer_init(&w, 64);
        message_write_negotiation(&w, PROTOCOL_3_0);
        const bool open = session_reply(s, &w);
        writer_fini(&w);
        if (!open) {
            return;
        }
    }
    if (is_own(s)) {
        console_enter(s);
    } else if (session_service(s)->secrets != NULL) {
        login_scram_alone(s);
    } else {
        session_fail_detail(s, "28000", "the console of pgsluice needs a password, and has none",
                            "Set admin_users or stats_users, and auth_file or auth_query; or "
                            "connect over a unix socket of listen as user pgsluice, with the "
                            "proxy's own system user.");
    }
}

/* What a client wants to hear before it asks. */
static void greet(struct session *s, bool is_trusted)
{
    struct writer w;
    writer_init(&w, 4096);
    if (is_trusted) {
        authentication_write_ok(&w);
    }
    message_write_parameter(&w, "server_version", PGSLUICE_VERSION "/pgsluice");
    message_write_parameter(&w, "client_encoding", "UTF8");
    message_write_parameter(&w, "server_encoding", "UTF8");
    message_write_parameter(&w, "DateStyle", "ISO");
    message_write_parameter(&w, "TimeZone", "GMT");
    message_write_parameter(&w, "integer_datetimes", "on");
    message_write_parameter(&w, "standard_conforming_strings", "on");
    message_write_parameter(&w, "is_superuser", s->is_admin ? "on" : "off");
    message_write_ready(&w, 'I');
    session_reply(s, &w);
    writer_fini(&w);
}

void console_enter(struct session *s)
{
    const struct config *config = service_config(session_service(s));
    const bool is_trusted = s->state != SESSION_LOGIN;
    s->is_admin = is_trusted || list_has(config->admin_users, s->user);
    if (!s->is_admin && !list_has(config->stats_users, s->user)) {
        session_fail_detail(s, "28000", "not allowed",
                            "The console of pgsluice is for the users "
                            "in admin_users and stats_users.");
        return;
    }
    s->state = SESSION_CONSOLE;
    s->transaction = 'I';
    s->active_ms = uv_now(&s->worker->loop);
    log_info("console: user \"%s\" from %s", s->user, s->client_name);
    greet(s, is_trusted);
}

/* --- commands --- */

static void write_error(struct writer *w, const char *sqlstate, const char *message,
                        const char *hint)
{
    message_write_error(w, &(struct message_error){.severity = "ERROR",
                                                   .severity_code = "ERROR",
                                                   .sqlstate = sqlstate,
                                                   .message = message,
                                                   .hint = hint});
}

/* The words of a command in upper case; fewer than WORDS_MAX end with an empty one. False when
 * there are more, or other things than words. */
static bool read_words(struct span text, char words[WORDS_MAX + 1][WORD_MAX])
{
    size_t count = 0;
    memset(words, 0, (WORDS_MAX + 1) * sizeof words[0]);
    for (size_t at = 0; at < text.len;) {
        if (isspace((unsigned char)text.ptr[at])) {
            at++;
            continue;
        }
        size_t len = 0;
        while (at < text.len && (isalnum((unsigned char)text.ptr[at]) || text.ptr[at] == '_')) {
            if (count == WORDS_MAX || len == WORD_MAX - 1) {
                return false;
            }
            words[count][len++] = (char)toupper((unsigned char)text.ptr[at++]);
        }
        if (len == 0) {
            return false;
        }
        count++;
    }
    return true;
}

/* Without the blanks around it and the semicolons behind it. */
static struct span trim(struct span text)
{
    while (text.len > 0 &&
           (isspace((unsigned char)text.ptr[text.len - 1]) || text.ptr[text.len - 1] == ';')) {
        text.len--;
    }
    while (text.len > 0 && isspace((unsigned char)text.ptr[0])) {
        text.ptr++;
        text.len--;
    }
    return text;
}

static void refuse_command(struct writer *w, struct span text, const char *first)
{
    static const char *const transactions[] = {"BEGIN", "START", "COMMIT", "ROLLBACK", "END"};
    const char *hint = "SHOW HELP lists the commands.";
    char message[128];
    for (size_t i = 0; i < sizeof transactions / sizeof transactions[0]; i++) {
        if (strcmp(first, transactions[i]) == 0) {
            hint = "The console has no transactions: turn autocommit on. SHOW HELP lists the "
                   "commands.";
        }
    }
    snprintf(message, sizeof message, "invalid command '%.*s', use SHOW HELP;",
             text.len < 64 ? (int)text.len : 64, text.ptr);
    write_error(w, "42601", message, hint);
}

/* What SIGHUP and SIGTERM do, which the main loop takes. */
static void run_signal(struct session *s, int number, const char *tag, struct writer *w)
{
    if (!s->is_admin) {
        write_error(w, "42501", "admin access needed", "stats_users may only SHOW.");
        return;
    }
    log_info("console: user \"%s\" asks for %s", s->user, tag);
    kill(getpid(), number);
    message_write_complete(w, tag);
}

/* False: the answer is still being gathered. */
static bool run_command(struct session *s, struct span given, struct writer *w)
{
    const struct span text = trim(given);
    char words[WORDS_MAX + 1][WORD_MAX];
    if (text.len == 0) {
        message_write_empty(w);
    } else if (memchr(text.ptr, ';', text.len) != NULL) {
        write_error(w, "42601", "the console takes one command at a time",
                    "SHOW HELP lists the commands.");
    } else if (!read_words(text, words) || words[2][0] != '\0') {
        refuse_command(w, text, words[0]);
    } else if (strcmp(words[0], "SHOW") == 0 && strcmp(words[1], "CLIENTS") == 0) {
        if (console_gather(s)) {
            return false;
        }
        write_error(w, "53200", "out of memory", NULL);
    } else if (strcmp(words[0], "SHOW") == 0 && console_show(s, words[1], w)) {
        return true;
    } else if (strcmp(words[0], "RELOAD") == 0 && words[1][0] == '\0') {
        run_signal(s, SIGHUP, "RELOAD", w);
    } else if (strcmp(words[0], "SHUTDOWN") == 0 && words[1][0] == '\0') {
        run_signal(s, SIGTERM, "SHUTDOWN", w);
    } else {
        refuse_command(w, text, words[0]);
    }
    return true;
}

static void run_query(struct session *s, const uint8_t *message, size_t size, struct writer *w)
{
    struct span text;
    if (!message_read_query(message, size, &text)) {
        session_fail(s, "08P01", "invalid message format");
    } else if (run_command(s, text, w)) {
        message_write_ready(w, 'I');
    }
}

void console_gathered(struct session *s, struct writer *rows)
{
    s->wait = SESSION_WAIT_NONE;
    message_write_complete(rows, "SHOW");
    message_write_ready(rows, 'I');
    if (session_reply(s, rows)) {
        session_resume(s);
    }
}

/* --- messages --- */

/* Up to its Sync, as a server skips a batch that has failed. */
static void refuse_extended(struct session *s, struct writer *w)
{
    if (!s->discarding) {
        write_error(w, "0A000", "the console takes simple queries only",
                    "Use the simple query protocol, without parameters.");
    }
    s->discarding = true;
}

static void take_message(struct session *s, const uint8_t *message, size_t size, struct writer *w)
{
    switch (message[0]) {
    case 'Q':
        s->discarding = false;
        run_query(s, message, size, w);
        break;
    case 'P':
    case 'B':
    case 'D':
    case 'E':
    case 'C':
        refuse_extended(s, w);
        break;
    case 'S':
        s->discarding = false;
        message_write_ready(w, 'I');
        break;
    case 'F':
        write_error(w, "0A000", "the console takes simple queries only", NULL);
        message_write_ready(w, 'I');
        break;
    case 'X':
        session_close(s);
        break;
    default:
        break; /* Flush; what is left of a COPY, as the server does */
    }
}

size_t console_consume(struct session *s, const uint8_t *bytes, size_t len)
{
    size_t at = 0;
    while (s->state == SESSION_CONSOLE && s->wait == SESSION_WAIT_NONE &&
           !stream_is_full(&s->client) && len - at >= FRAME_HEADER) {
        const uint8_t *message = bytes + at;
        const uint32_t length = load_u32(message + 1);
        if (!frame_type_known(FRAME_FRONTEND, message[0])) {
            session_fail(s, "08P01", "invalid frontend message type %u", message[0]);
            break;
        }
        if (!frame_length_valid(length) || length > REQUEST_MAX) {
            session_fail(s, "08P01", "invalid message length");
            break;
        }
        const size_t size = 1 + (size_t)length;
        if (len - at < size) {
            s->front.need = size;
            break;
        }
        struct writer w;
        writer_init(&w, ANSWER_MAX);
        take_message(s, message, size, &w);
        if (s->state == SESSION_CONSOLE && (w.len > 0 || !w.ok)) {
            session_reply(s, &w);
        }
        writer_fini(&w);
        at += size;
    }
    return at;
}

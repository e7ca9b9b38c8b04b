/*
 * A session: one client connection and its one server connection, from accept to close.
 *
 *   (PROXIED)
 *      |
 *   STARTUP --startup packet--> CONNECTING --connected--> LOGIN --> RELAY --a side ends--> CLOSING
 *    |   ^   \                   ^ |    NEGOTIATING ^     /                                 /
 *    v   |    \                  | \____ TLS ______/     /                                 /
 *   HANDSHAKE  \                 \_ another way, host __/                                  /
 *   TLS         \_________________ error, timeout, disconnect ____________________________/
 *
 * A client of the console goes from STARTUP, perhaps by LOGIN, to CONSOLE, and needs no server.
 *
 * Everything here runs on the session's worker. session.c owns the life cycle and the sockets'
 * events; proxied.c, startup.c and handshake.c what the client begins with; limits.c how many there
 * may be; connect.c the way to a server and login.c the login there; frontend.c and backend.c the
 * two directions; judging.c the rules, with judging_prepared.c, judging_sent.c and judging_audit.c
 * (judging.h); settings.c how a text is read, large.c those that take long, reprepare.c those that
 * a flip has outdated; hold.c the gate, asking.c how long to wait there.
 */
#pragma once

#include <netdb.h>
#include <stdbool.h>
#include <stdint.h>

#include "proxy/failure.h"
#include "proxy/net/stream.h"
#include "proxy/session/asking.h"
#include "proxy/session/ledger.h"
#include "proxy/session/registry.h"
#include "proxy/worker.h"

enum session_state {
    SESSION_PROXIED,     /* a PROXY protocol header is awaited */
    SESSION_STARTUP,     /* the client's startup packet is awaited */
    SESSION_HANDSHAKE,   /* TLS with the client is being set up */
    SESSION_CONNECTING,  /* the server connection is under way */
    SESSION_NEGOTIATING, /* TLS with the server is being asked for and set up */
    SESSION_LOGIN,   /* the startup packet is sent; what the server answers decides how to go on */
    SESSION_RELAY,   /* both sides are open */
    SESSION_CONSOLE, /* the client talks to pgsluice itself; there is no server */
    SESSION_CLOSING, /* the loop is letting go of the handles */
};

/* Why the client is not being read although there is room. */
enum session_wait {
    SESSION_WAIT_NONE,
    SESSION_WAIT_BOUNDARY, /* until the server has answered what was sent: only then it is known
                              whether a transaction is open */
    SESSION_WAIT_GATE,     /* held at a gate */
    SESSION_WAIT_JUDGE,    /* its text takes long to judge */
    SESSION_WAIT_CATALOG,  /* the catalog is being read again after DDL */
    SESSION_WAIT_CONSOLE,  /* what it asked for is gathered from the workers */
};

/* What follows when a server connection that did not come to a login is closed. */
enum connect_after {
    CONNECT_NEXT_ADDRESS, /* of the host, or else the next host */
    CONNECT_OTHERWISE,    /* the same address, with TLS if it was without, or without */
    CONNECT_NEXT_HOST,
};

struct large;
struct login;
struct copying;

#define ENCODING_NAME 32

/* One direction's input that was received and not yet consumed. */
struct intake {
    uint8_t *stash; /* heap; NULL when empty, as it is between complete messages */
    size_t stash_len;
    size_t stash_room; /* bytes that the stash was made for */
    size_t need;       /* bytes of the whole message that the stash begins; 0 when unknown */
    size_t usual;      /* room for another one as long as the last, where that is worth it; or 0 */
    uint32_t body;     /* bytes still to pass of a message that is streamed */
};

struct session {
    struct worker *worker;
    struct session *prev, *next;           /* the worker's list */
    struct session *held_prev, *held_next; /* its list of held ones */
    uint64_t id;
    struct stream client, server;
    struct intake front, back;
    enum session_state state;
    enum session_wait wait;
    int handles;            /* that the loop has not let go of */
    char transaction;       /* 'I', 'T' or 'E', from the last ReadyForQuery; 0 before the first */
    bool batch_open;        /* extended-protocol messages since the last Sync */
    bool batch_executed;    /* an Execute among them */
    bool batch_ran;         /* or a Bind: functions may have been called */
    bool copying;           /* the server is taking CopyData */
    bool client_eof;        /* the client sends no more */
    bool client_hurries;    /* it has sent more than was asked for, before the login */
    bool client_ending;     /* so it will turn out, once it is read again */
    bool terminated;        /* the client sent Terminate */
    bool fatal;             /* the server said its last words */
    bool discarding;        /* a held batch was cancelled: skip to its Sync */
    bool let_through;       /* held for long enough: the next statement goes on at once */
    bool may_snapshot;      /* may run REPEATABLE READ or SERIALIZABLE transactions */
    bool rules_known;       /* `rules` was looked up, at rules_epoch */
    bool unread;            /* more input was decrypted than was read in one turn */
    bool server_gone;       /* it takes no more; its last words are being read */
    bool strings_standard;  /* standard_conforming_strings, as last reported */
    bool settings_touched;  /* those two may change, or change back, at the next Execute: */
    bool settings_prepared; /* at any, by a statement with a name */
    bool swallows_quotes;   /* the server may take any ASCII byte for the half of a character */
    bool sql_edited;        /* an SQL-level PREPARE is among the edited texts */
    enum text_encoding encoding; /* client_encoding, as last reported */
    bool in_server_encoding;     /* what the client sends, so that nothing is converted, */
    bool in_utf8;                /* and that is UTF8, in which names are not folded beyond ASCII */
    char client_encoding[ENCODING_NAME], server_encoding[ENCODING_NAME]; /* "": not reported */
    enum text_characters client_characters, server_characters; /* of both sides' encodings */
    bool touched;         /* the open transaction concerns a table in mode compute, or may */
    bool held_inside;     /* a transaction: its statement can only be cancelled by the server, */
    bool hold_cancelled;  /* which shall refuse it */
    bool answers_shifted; /* an answer may have been taken for another one's */
    bool schema_changed;  /* DDL went through: the catalog is read again at the next boundary */
    bool columns_change;  /* until then the columns may be others than the catalog's */
    bool rereading_over;  /* what waited for the catalog has waited enough */
    bool asked_ssl, asked_gssenc; /* each may be asked for once */
    bool direct_tls;              /* TLS without being asked for: ALPN is demanded */
    bool client_proxied;          /* client_name is what a PROXY protocol header said */
    bool streaming;               /* CopyBoth: replication, which no timeout ends */
    bool counted;                 /* in the service's limits, under its user and database */
    bool is_admin;                /* of a console: may do more than SHOW */
    bool is_cancel;               /* carries a CancelRequest, not a session */
    bool is_strange;              /* for a session that is not here: counted in the service */
    uint64_t syncs_sent;          /* messages that a ReadyForQuery will answer */
    uint64_t syncs_done;
    uint32_t batch_messages; /* of the batch being sent, those with an answer of their own */
    uint32_t batch_answered; /* of the batch being answered, such answers */
    uint64_t last_query;     /* of these, the number of the last Query or FunctionCall */
    uint64_t doubtful;     /* the number of one that may stay without an answer, 0: none. The answer
                              in its place is taken for the last one */
    uint32_t copies_ended; /* CopyDone and CopyFail sent ahead of the server's CopyInResponse */
    uint64_t active_ms;    /* the loop's time when what is being waited for began: a statement, or,
                              with everything answered, the client's next word */
    uint64_t timed_ns;     /* when a statement began whose latency is noted; 0: none */
    uint64_t timed_gates;  /* where it is noted: a newer snapshot may be in force at its end */
    uint64_t timed_writes; /* of these, those of the tables that it writes */
    uint64_t since_ns;     /* when it began, or when its hold did */
    uint64_t rereading_ns; /* when it began to wait for the catalog */
    uint64_t rules_epoch;
    const struct catalog_database *rules; /* of the worker's snapshot */
    uint64_t writing;                     /* rules whose table the open transaction writes */
    uint64_t snapshot_gates;              /* rules in whose gates such a transaction is counted */
    uint64_t unstripped;                  /* rules that a prepared statement still sends keys for */
    uint64_t held_for;                    /* rules at whose gates it is held */
    uint64_t sql_prepared;                /* rules whose table an SQL-level PREPARE writes */
    struct asking asking;                 /* how long the held statement may wait */
    struct ledger ledger;
    struct copying *copying_streams; /* copying.h; NULL while nothing is to be known */
    bool front_filtered;             /* what is left of the message in front.body is the filter's */
    enum copy_encoding copy_encoding; /* of client_encoding, as last reported */
    unsigned server_major;
    struct large *large;             /* the message at the stash's head, being judged or judged */
    struct registry_key *cancel_key; /* once announced */
    char *user, *database, *application_name, *client_name;
    char *tls_subject, *tls_name; /* of the client's certificate; NULL: it showed none */
    struct audit_piece *who;      /* what its audit records begin with, on a rule in a mode; NULL:
                                     not rendered, or no longer true */
    uint32_t who_rule;
    enum rule_mode who_mode;
    uint32_t backend_pid;
    /* connecting */
    size_t host;        /* index in the upstream */
    unsigned round;     /* of upstream_choose() */
    bool host_fixed;    /* only that one: a cancel request goes where its session is */
    bool settled;       /* the server goes on with the login: no other will be tried */
    bool tls_otherwise; /* the address is tried the second time, the other way */
    enum connect_after after_drop;
    struct login *login;        /* while pgsluice answers the login itself */
    struct addrinfo *addresses; /* of a host that had to be resolved */
    struct addrinfo *address;   /* being tried */
    uv_getaddrinfo_t *resolving;
    int connect_error;       /* errno of the last attempt */
    const char *connect_why; /* in place of its text; a static string or NULL */
    uint64_t connect_ns;     /* when it began */
};

/* session.c */
void session_accept(struct worker *worker, int fd); /* takes fd */
/* The loop let go of one of s->handles. */
void session_release(struct session *s);
/* Closes a server connection that did not come to a login; connect_dropped() follows. */
void session_drop_server(struct session *s);
/* The server has closed the connection, or has said its last words: ends the session. */
void session_server_ended(struct session *s);
/* Closes both sides now. Safe to call again. */
void session_close(struct session *s);
/* Tells the client (FATAL, where the stream's position allows) and closes. */
void session_fail(struct session *s, const char *sqlstate, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The same, with a DETAIL ("" for none). */
void session_fail_detail(struct session *s, const char *sqlstate, const char *message,
                         const char *detail);
/* Asks the loop for the events that the session's state wants. */
void session_watch(struct session *s);
/* Every second: client_idle_timeout, idle_transaction_timeout, query_timeout. */
void session_look(struct session *s, uint64_t now_ms);
/* The client has said who it is: one more connection of its user and of its database, within
 * max_client_conn and the limits of both. False when the session ended. */
bool session_enter_limits(struct session *s);
/* At a transaction boundary with nothing sent and unanswered. */
bool session_is_idle(const struct session *s);
/* The process drains: ends the session if it is at a transaction boundary or not yet logged in. */
void session_drain(struct session *s);
struct service *session_service(const struct session *s);
/* Sends bytes of the proxy's own to the client. False when the session was closed. */
bool session_reply(struct session *s, const struct writer *w);
/* The client's bytes at hand are consumed again from the stash. */
void session_resume(struct session *s);

/* proxied.c: whether a connection from `peer` must begin with a PROXY protocol header, and its next
 * step when bytes arrived */
bool proxied_is_due(const struct session *s, const struct sockaddr_storage *peer);
void proxied_step(struct session *s);

/* application_name.c: writes the startup packet with the client's address in its application_name.
 * False: it goes as it is. `w` is the caller's to begin and to end. */
bool application_name_packet(const struct session *s, const uint8_t *packet, size_t size,
                             struct writer *w);

/* handshake.c: TLS with the client */
void handshake_look(struct session *s);  /* begins it when the first byte is TLS's */
bool handshake_begin(struct session *s); /* false when the session ended */
void handshake_step(struct session *s);
/* False when the session ended: client_tls demands TLS, or another certificate. */
bool handshake_check(struct session *s);

/* startup.c: the next step with what arrived; consumes from `bytes`, returns how many. */
size_t startup_consume(struct session *s, const uint8_t *bytes, size_t len);

/* connect.c */
void connect_begin(struct session *s);     /* with the first host that suits, or with s->host */
void connect_writable(struct session *s);  /* the server's socket is connected, or is not */
void connect_negotiate(struct session *s); /* the server answered about TLS */
void connect_dropped(struct session *s);   /* the socket that failed is closed: the next attempt */
/* The server refused the login with `sqlstate` before it asked for anything: true when it is being
 * tried on another connection. */
bool connect_otherwise(struct session *s, const char *sqlstate);
/* Every second: gives up a server that has not answered the startup packet within
 * server_connect_timeout. */
void connect_look(struct session *s, uint64_t now_ns);
void connect_fini(struct session *s); /* addresses are no more needed */

/* login.c */
void login_begin(struct session *s); /* the server is there: the startup packet goes out */
/* In SESSION_LOGIN: what the server, what the client sent; return the bytes consumed. */
size_t login_consume_server(struct session *s, uint8_t *bytes, size_t len);
size_t login_consume_client(struct session *s, const uint8_t *bytes, size_t len);
bool login_reads_client(const struct session *s);
/* What the login asked for is there: takes `lookup`. `s` may be gone when the lookup is forgotten.
 */
void login_looked_up(struct session *s, struct secrets_lookup *lookup);
void login_fini(struct session *s);

/* frontend.c, backend.c: return the bytes consumed; what is left is kept by the caller. A message
 * that must be whole before it is looked at sets intake.need. */
size_t frontend_consume(struct session *s, const uint8_t *bytes, size_t len);
size_t backend_consume(struct session *s, const uint8_t *bytes, size_t len);
/* A message of this type, which is not the client's, goes to the server ahead of the one at hand.
 */
void frontend_sent(struct session *s, uint8_t type);

/* judging.c */
enum judging {
    JUDGING_FORWARD,  /* the message as it is */
    JUDGING_REPLACED, /* another one was put into the batch */
    JUDGING_WAIT,     /* s->wait says for what; nothing was consumed */
    JUDGING_CLOSED,   /* the session ended */
};
/* False when no rule of the set can concern the text. */
bool judging_may_concern(const struct rule_set *set, bool hides_names, struct span text);
/* Takes up the newest rules; called once a batch of input. */
void judging_refresh(struct session *s);
enum judging judging_message(struct session *s, const uint8_t *message, size_t size);
/* The configuration's rules of those that a verdict writes. */
uint64_t judging_gates(const struct session *s, uint64_t writes);

/* judging_sent.c */
/* Whether it matters which text a Describe or an Execute is about. */
bool judging_has_places(const struct session *s);
/* The characters of this session's texts, as the server counts them. */
enum text_characters judging_characters(const struct session *s);
/* A Parse that fails in the server takes the place of the message, which is not a text, and for
 * that must be there in whole: `have` of its `size` bytes are. */
enum judging judging_refuse(struct session *s, size_t have, size_t size,
                            const struct verdict *verdict);

/* judging_audit.c */
/* Something that the audit says of the session has changed. */
void judging_who_changed(struct session *s);

/* What became of the rows of a COPY that a rule filtered. */
struct judging_copied {
    const struct comparison *found;
    uint64_t rows, fingerprint;
    bool is_refused, extended;
};
/* `rule` is the configuration's index. The first row of a COPY carries its column. */
void judging_tell_carried(struct session *s, size_t rule, const char *text, uint64_t fingerprint,
                          bool extended);
/* Likewise, at the end. */
void judging_tell_copied(struct session *s, size_t rule, const struct judging_copied *copied);

/* settings.c: how the server reads this session's texts */
/* A text of the session, or its startup options: whether it may change the isolation level. */
void settings_text(struct session *s, struct span text);
/* ParameterStatus, or a parameter of the startup packet. */
void settings_parameter(struct session *s, struct span name, struct span value);
/* A text that may change how texts are read goes to the server; under a name it may do so again. */
void settings_sent(struct session *s, bool is_named);
/* Whether executing the text may change, or change back, how texts are read. */
bool settings_may_change(struct span text);
/* Whether the text, which may concern a rule, must wait until the server has answered what is ahead
 * of it: it may be read in two ways, and whatever is executed may change how. */
bool settings_are_awaited(const struct session *s, struct span text);
/* For any text to come. Behind what runs in its own batch nobody can know what has changed. */
enum text_encoding settings_encoding(const struct session *s);
/* For this one: as last reported, if it has nothing that depends on that. */
enum text_encoding settings_encoding_of(const struct session *s, struct span text);
/* Whether a text beyond ASCII may name a guarded table, or a column of it, in bytes that are not
 * known: in another encoding than the names', of now or when what is ahead of it is answered. */
bool settings_hide_names(const struct session *s);
/* Whether what comes is in the server's encoding, so that nothing is converted; not behind what
 * changes that in sight. */
bool settings_are_servers(const struct session *s);
void settings_ready(struct session *s); /* ReadyForQuery arrived */

/* rereading.c: whether a guarded text can be judged by what is known of its table; if not, s->wait
 * says what for. */
bool rereading_is_over(struct session *s);

/* hold.c */
/* Whether a message that writes the tables of `writes` may go now. */
enum judging hold_check(struct session *s, uint64_t writes);
/* A message that may write them went. */
void hold_note_write(struct session *s, uint64_t writes);
/* So did one that `touches` a table of a rule in mode compute, or may. */
void hold_note_touch(struct session *s, bool touches);
/* A statement was prepared that supplies keys which are not stripped. */
void hold_note_unstripped(struct session *s, uint64_t rules);
/* The session ends. */
void hold_note_end(struct session *s);
/* ReadyForQuery arrived. */
void hold_note_ready(struct session *s);
void hold_end(struct session *s, bool dropped);
/* The worker's timer and mail: lets go of what need not wait any longer. */
void hold_release(struct worker *worker);
/* Answers the held statement with 57014 and `message`; it is never executed. */
void hold_cancel(struct session *s, const char *message);

/*
 * The load of deploy/quickstart: applications that write through the proxy and measure what they
 * see.
 *
 * Each client is a thread with a connection of its own. Some supply the partition key, wrongly; one
 * uses the table whose rule rejects it. Every row has a name of its own in document_id; the rows of
 * acknowledged writes are the ledger, which is compared with the table at the end, over a
 * connection past the proxy. SIGUSR1 and SIGUSR2 mark the beginning and the end of the cutover,
 * SIGTERM ends the load; the results are printed as name=value lines.
 */
#include <inttypes.h>
#include <libpq-fe.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CLIENTS_MAX 256
#define ROWS_MAX 2000000 /* per client */
#define ERRORS_SHOWN 5
#define END_SECONDS 20

enum kind {
    KIND_CLEAN,                 /* prepared, without the key: as it should be */
    KIND_BOUND,                 /* prepared, a wrong key as a parameter */
    KIND_LITERAL,               /* simple protocol, a wrong key as a literal */
    KIND_MANY_ROWS,             /* simple protocol, two rows with a wrong key each */
    KIND_TRANSACTION,           /* two prepared writes and a read in a transaction */
    KIND_WRITERS,               /* how many kinds write to chunks */
    KIND_STRICT = KIND_WRITERS, /* writes notes, every other time with a key, which is refused */
    KIND_READER,
};

static const char *const application_names[] = {
    [KIND_CLEAN] = "ingest",    [KIND_BOUND] = "ingest-old", [KIND_LITERAL] = "importer",
    [KIND_MANY_ROWS] = "batch", [KIND_TRANSACTION] = "sync", [KIND_STRICT] = "notes",
    [KIND_READER] = "search",
};

struct samples {
    uint32_t *us;
    size_t count, room;
};

struct client {
    pthread_t thread;
    enum kind kind;
    int number;
    PGconn *conn;
    uint64_t sent, acked, failed;
    uint64_t rejected, accepted; /* of writes that are meant to be refused */
    uint8_t *ledger;             /* per row: 1 sent, 2 acknowledged */
    uint32_t rows;
    struct samples outside, inside;
};

static const char *proxy_conninfo, *server_conninfo;
static double rate_per_client = 40;
static atomic_bool stopping;
static _Atomic int64_t window_begin = INT64_MAX, window_end = INT64_MAX;
static atomic_int errors_shown;

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void sleep_until(int64_t us)
{
    const struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static void note_latency(struct client *client, int64_t started)
{
    int64_t ended = now_us();
    bool inside = ended >= atomic_load(&window_begin) && started <= atomic_load(&window_end);
    struct samples *samples = inside ? &client->inside : &client->outside;
    if (samples->count == samples->room) {
        size_t room = samples->room == 0 ? 4096 : samples->room * 2;
        uint32_t *grown = realloc(samples->us, room * sizeof *grown);
        if (grown == NULL) {
            return;
        }
        samples->us = grown;
        samples->room = room;
    }
    samples->us[samples->count++] = (uint32_t)(ended - started);
}

static void show_error(const struct client *client, const char *message)
{
    if (atomic_fetch_add(&errors_shown, 1) < ERRORS_SHOWN) {
        fprintf(stderr, "load: %s: %s%s", application_names[client->kind], message,
                message[0] != '\0' && message[strlen(message) - 1] == '\n' ? "" : "\n");
    }
}

#define INSERT_CLEAN                                                                               \
    "INSERT INTO chunks (collection_id, document_id, chunk_index, content) VALUES ($1, $2, $3, "   \
    "$4)"
#define INSERT_BOUND                                                                               \
    "INSERT INTO chunks (collection_id, partition_key, document_id, chunk_index, content) "        \
    "VALUES ($1, $5, $2, $3, $4)"

static bool connect_client(struct client *client)
{
    PQfinish(client->conn);
    const char *const keywords[] = {"dbname", "application_name", NULL};
    const char *const values[] = {proxy_conninfo, application_names[client->kind], NULL};
    client->conn = PQconnectdbParams(keywords, values, 1);
    if (PQstatus(client->conn) != CONNECTION_OK) {
        show_error(client, PQerrorMessage(client->conn));
        return false;
    }
    const char *statement = NULL;
    if (client->kind == KIND_CLEAN || client->kind == KIND_TRANSACTION) {
        statement = INSERT_CLEAN;
    } else if (client->kind == KIND_BOUND) {
        statement = INSERT_BOUND;
    } else if (client->kind == KIND_READER) {
        statement = "SELECT collection_id, partition_key, content FROM chunks WHERE id = $1";
    }
    if (statement == NULL) {
        return true;
    }
    PGresult *result = PQprepare(client->conn, "s", statement, 0, NULL);
    bool ok = PQresultStatus(result) == PGRES_COMMAND_OK;
    if (!ok) {
        show_error(client, PQresultErrorMessage(result));
    }
    PQclear(result);
    return ok;
}

/* Takes `result`. */
static bool succeeded(const struct client *client, PGresult *result)
{
    ExecStatusType status = PQresultStatus(result);
    bool ok = status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
    if (!ok) {
        show_error(client, PQresultErrorMessage(result));
    }
    PQclear(result);
    return ok;
}

static bool insert_prepared(struct client *client, uint32_t row, bool with_key)
{
    char collection[32];
    char document[32];
    char index[16];
    snprintf(collection, sizeof collection, "collection-%u", row % 300);
    snprintf(document, sizeof document, "q%d-%u", client->number, row);
    snprintf(index, sizeof index, "%u", row);
    const char *const values[] = {collection, document, index, "a chunk of text", "12345"};
    return succeeded(client,
                     PQexecPrepared(client->conn, "s", with_key ? 5 : 4, values, NULL, NULL, 0));
}

static bool insert_literal(struct client *client, uint32_t row, uint32_t rows)
{
    char text[1024];
    int len = snprintf(text, sizeof text,
                       "INSERT INTO chunks (collection_id, partition_key, document_id, "
                       "chunk_index, content) VALUES ");
    for (uint32_t i = 0; i < rows; i++) {
        len += snprintf(text + len, sizeof text - (size_t)len,
                        "%s('collection-%u', %u, 'q%d-%u', %u, 'it''s a chunk')", i > 0 ? ", " : "",
                        (row + i) % 300, 70000 + row, client->number, row + i, row + i);
    }
    return succeeded(client, PQexec(client->conn, text));
}

/* One write to chunks; how many rows it has is in *rows. */
static bool write_chunks(struct client *client, uint32_t row, uint32_t *rows)
{
    *rows = client->kind == KIND_MANY_ROWS || client->kind == KIND_TRANSACTION ? 2 : 1;
    switch (client->kind) {
    case KIND_CLEAN:
        return insert_prepared(client, row, false);
    case KIND_BOUND:
        return insert_prepared(client, row, true);
    case KIND_LITERAL:
    case KIND_MANY_ROWS:
        return insert_literal(client, row, *rows);
    case KIND_TRANSACTION:
        return succeeded(client, PQexec(client->conn, "BEGIN")) &&
               insert_prepared(client, row, false) &&
               succeeded(client, PQexec(client->conn, "SELECT max(id) FROM chunks")) &&
               insert_prepared(client, row + 1, false) &&
               succeeded(client, PQexec(client->conn, "COMMIT"));
    case KIND_STRICT:
    case KIND_READER:
        break;
    }
    return false;
}

static bool one_write(struct client *client)
{
    uint32_t first = client->rows;
    uint32_t rows;
    if (first + 2 > ROWS_MAX) {
        return true;
    }
    client->ledger[first] = client->ledger[first + 1] = 1;
    client->sent++;
    bool ok = write_chunks(client, first, &rows);
    for (uint32_t i = 0; ok && i < rows; i++) {
        client->ledger[first + i] = 2;
    }
    client->rows = first + rows;
    client->acked += ok ? 1 : 0;
    return ok;
}

static bool one_note(struct client *client, uint64_t turn)
{
    if (turn % 2 == 0) {
        client->sent++;
        bool ok =
            succeeded(client, PQexec(client->conn, "INSERT INTO notes (collection_id, body) "
                                                   "VALUES ('collection-1', 'without a key')"));
        client->acked += ok ? 1 : 0;
        return ok;
    }
    PGresult *result = PQexec(client->conn, "INSERT INTO notes (collection_id, note_key, body) "
                                            "VALUES ('collection-1', 4711, 'with a key')");
    const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    bool refused = sqlstate != NULL && strcmp(sqlstate, "428C9") == 0;
    client->rejected += refused ? 1 : 0;
    client->accepted += PQresultStatus(result) == PGRES_COMMAND_OK ? 1 : 0;
    bool ok = refused || PQstatus(client->conn) == CONNECTION_OK;
    PQclear(result);
    return ok;
}

static bool one_read(struct client *client, uint64_t turn)
{
    char id[16];
    snprintf(id, sizeof id, "%u", (unsigned)(turn * 7 % 5000 + 1));
    const char *const values[] = {id};
    client->sent++;
    bool ok = succeeded(client, PQexecPrepared(client->conn, "s", 1, values, NULL, NULL, 0));
    client->acked += ok ? 1 : 0;
    return ok;
}

static void *client_main(void *arg)
{
    struct client *client = arg;
    int64_t interval = (int64_t)(1e6 / (client->kind == KIND_STRICT ? 4 : rate_per_client));
    int64_t next = now_us() + interval * client->number / CLIENTS_MAX;
    bool connected = client->conn != NULL;

    for (uint64_t turn = 0; !atomic_load(&stopping); turn++) {
        sleep_until(next);
        int64_t started = now_us();
        next = next + interval > started ? next + interval : started;
        if (!connected && !(connected = connect_client(client))) {
            client->failed++;
            continue;
        }
        bool ok = client->kind == KIND_READER   ? one_read(client, turn)
                  : client->kind == KIND_STRICT ? one_note(client, turn)
                                                : one_write(client);
        note_latency(client, started);
        client->failed += ok ? 0 : 1;
        connected = PQstatus(client->conn) == CONNECTION_OK;
        if (!ok && connected && PQtransactionStatus(client->conn) != PQTRANS_IDLE) {
            PQclear(PQexec(client->conn, "ROLLBACK"));
        }
    }
    PQfinish(client->conn);
    client->conn = NULL;
    return NULL;
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    return x < y ? -1 : x > y ? 1 : 0;
}

/* Prints the percentiles of all writers' or all readers' samples, in milliseconds. */
static void print_latency(const char *name, const struct client *clients, int count, bool readers,
                          bool inside)
{
    size_t total = 0;
    for (int i = 0; i < count; i++) {
        total += inside ? clients[i].inside.count : clients[i].outside.count;
    }
    uint32_t *all = malloc((total + 1) * sizeof *all);
    if (all == NULL) {
        return;
    }
    total = 0;
    for (int i = 0; i < count; i++) {
        const struct samples *samples = inside ? &clients[i].inside : &clients[i].outside;
        if ((clients[i].kind == KIND_READER) == readers && clients[i].kind != KIND_STRICT &&
            samples->count > 0) {
            memcpy(all + total, samples->us, samples->count * sizeof *all);
            total += samples->count;
        }
    }
    all[total] = 0;
    qsort(all, total, sizeof *all, by_value);
    printf("%s_count=%zu\n%s_p50=%.1f\n%s_p99=%.1f\n%s_max=%.1f\n", name, total, name,
           all[total / 2] / 1e3, name, all[total - (total + 99) / 100] / 1e3, name,
           (total > 0 ? all[total - 1] : 0) / 1e3);
    free(all);
}

/* Counts every row of the ledger in the table. */
static bool check_ledger(struct client *clients, int count)
{
    PGconn *conn = PQconnectdb(server_conninfo);
    PGresult *result = PQexec(conn, "SELECT document_id FROM chunks WHERE document_id LIKE 'q%-%'");
    if (PQresultStatus(result) != PGRES_TUPLES_OK) {
        fprintf(stderr, "load: %s", PQerrorMessage(conn));
        PQclear(result);
        PQfinish(conn);
        return false;
    }
    uint64_t found = 0, doubled = 0, acked = 0, lost = 0, late = 0;
    int tuples = PQntuples(result);
    for (int i = 0; i < tuples; i++) {
        int number;
        unsigned row;
        if (sscanf(PQgetvalue(result, i, 0), "q%d-%u", &number, &row) == 2 && number >= 0 &&
            number < count && row < clients[number].rows) {
            uint8_t *entry = &clients[number].ledger[row];
            doubled += (*entry & 4) != 0;
            *entry |= 4;
            found++;
        }
    }
    for (int c = 0; c < count; c++) {
        for (uint32_t row = 0; row < clients[c].rows; row++) {
            uint8_t entry = clients[c].ledger[row];
            acked += (entry & 2) != 0;
            lost += (entry & 2) != 0 && (entry & 4) == 0;
            late += (entry & 2) == 0 && (entry & 4) != 0;
        }
    }
    printf("rows_acked=%" PRIu64 "\nrows_found=%" PRIu64 "\nrows_lost=%" PRIu64
           "\nrows_doubled=%" PRIu64 "\nrows_unacknowledged=%" PRIu64 "\n",
           acked, found, lost, doubled, late);
    PQclear(result);
    PQfinish(conn);
    return true;
}

static void print_counts(const struct client *clients, int count)
{
    uint64_t sent = 0, acked = 0, failed = 0, reads = 0, reads_failed = 0, rejected = 0,
             accepted = 0;
    for (int i = 0; i < count; i++) {
        const struct client *c = &clients[i];
        bool reader = c->kind == KIND_READER;
        sent += reader ? 0 : c->sent;
        acked += reader ? 0 : c->acked;
        failed += reader ? 0 : c->failed;
        reads += reader ? c->acked : 0;
        reads_failed += reader ? c->failed : 0;
        rejected += c->rejected;
        accepted += c->accepted;
    }
    printf("sent=%" PRIu64 "\nacked=%" PRIu64 "\nfailed=%" PRIu64 "\nreads=%" PRIu64
           "\nreads_failed=%" PRIu64 "\nrejected=%" PRIu64 "\nwrongly_accepted=%" PRIu64 "\n",
           sent, acked, failed, reads, reads_failed, rejected, accepted);
}

static void wait_for_end(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    for (int number = 0; number != SIGTERM && number != SIGINT;) {
        sigwait(&set, &number);
        if (number == SIGUSR1) {
            atomic_store(&window_begin, now_us());
        } else if (number == SIGUSR2) {
            atomic_store(&window_end, now_us());
        }
    }
}

/* Stops the clients; false when one does not come back. */
static bool join_all(struct client *clients, int count)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += END_SECONDS;
    atomic_store(&stopping, true);
    for (int i = 0; i < count; i++) {
        if (pthread_timedjoin_np(clients[i].thread, NULL, &until) != 0) {
            fprintf(stderr, "load: %s hangs in a statement\n", application_names[clients[i].kind]);
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    static struct client clients[CLIENTS_MAX];
    if (argc != 6) {
        fprintf(stderr,
                "usage: load PROXY_CONNINFO SERVER_CONNINFO WRITERS READERS RATE_PER_CLIENT\n");
        return 2;
    }
    proxy_conninfo = argv[1];
    server_conninfo = argv[2];
    int writers = (int)strtol(argv[3], NULL, 10);
    int readers = (int)strtol(argv[4], NULL, 10);
    rate_per_client = strtod(argv[5], NULL);
    if (writers < 1 || readers < 0 || writers + readers + 1 > CLIENTS_MAX || rate_per_client <= 0) {
        fprintf(stderr, "load: that is no load\n");
        return 2;
    }

    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    int count = writers + readers + 1;
    for (int i = 0; i < count; i++) {
        struct client *client = &clients[i];
        client->number = i;
        client->kind = i < writers             ? (enum kind)(i % KIND_WRITERS)
                       : i < writers + readers ? KIND_READER
                                               : KIND_STRICT;
        client->ledger = calloc(ROWS_MAX, 1);
        if (client->ledger == NULL || !connect_client(client) ||
            pthread_create(&client->thread, NULL, client_main, client) != 0) {
            fprintf(stderr, "load: client %d cannot start\n", i);
            return 1;
        }
    }
    fprintf(stderr, "load: %d clients write, %d read\n", writers + 1, readers);
    wait_for_end();
    if (!join_all(clients, count)) {
        printf("hung=1\n");
        return 1;
    }
    print_counts(clients, count);
    print_latency("outside", clients, count, false, false);
    print_latency("inside", clients, count, false, true);
    print_latency("read_outside", clients, count, true, false);
    print_latency("read_inside", clients, count, true, true);
    return check_ledger(clients, count) ? 0 : 1;
}

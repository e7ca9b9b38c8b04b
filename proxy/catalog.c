/*
 * The catalog's snapshots and the thread that keeps them fresh; see catalog.h. The SQL is in
 * catalog_read.c. Connections are opened for each reading and closed after it: an idle one would
 * stand in the way of DROP DATABASE.
 */
#include "proxy/catalog.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proxy/catalog_read.h"
#include "proxy/control.h"
#include "proxy/log.h"

enum {
    REFRESH_SECONDS = 10,
    THOROUGH_TURNS = 6,    /* each so many turns, databases without the table are looked at again */
    REFRESH_PAUSE_MS = 20, /* between two readings on request: a burst of DDL is one reading */
};

/* A snapshot as it is published, with its count and what was read, for comparison. */
struct published {
    struct catalog_snapshot snapshot;
    atomic_size_t refs;
    char *print;
};

struct catalog {
    _Atomic(const struct config *) config;
    _Atomic uint64_t epoch;
    _Atomic uint64_t moving;          /* bit i: rule i's column is about to move */
    _Atomic uint64_t asked, answered; /* requests, and those that a reading came after */
    atomic_bool closing;

    pthread_mutex_t reading; /* one reading at a time; held while talking to the server */
    struct names without;    /* databases found to have no guarded table; under `reading` */

    pthread_mutex_t lock; /* the two below; never held for long */
    pthread_cond_t wake;
    struct published *current;
    bool requested;

    pthread_t thread;
    bool has_thread;
};

static struct published *published_of(struct catalog_snapshot *snapshot)
{
    return (struct published *)(void *)((char *)snapshot - offsetof(struct published, snapshot));
}

static void published_unref(struct published *p)
{
    if (p == NULL || atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    for (size_t i = 0; i < p->snapshot.database_count; i++) {
        catalog_database_fini(&p->snapshot.databases[i]);
    }
    free(p->snapshot.databases);
    free(p->print);
    free(p);
}

static bool is_closing(void *arg)
{
    const struct catalog *catalog = arg;
    return atomic_load_explicit(&catalog->closing, memory_order_relaxed);
}

/* What one reading collects. */
struct collection {
    struct published *into;
    FILE *print;
    size_t print_len;
    bool *found; /* by configuration rule */
};

/* The rules that name the database, or none. */
static size_t rules_for(const struct config *config, const char *database, size_t *out)
{
    size_t count = 0;
    for (size_t i = 0; i < config->rule_count; i++) {
        const char *named = config->rules[i].database;
        if (named == NULL || strcmp(named, database) == 0) {
            out[count++] = i;
        }
    }
    return count;
}

static bool has_unnamed(const struct config *config)
{
    for (size_t i = 0; i < config->rule_count; i++) {
        if (config->rules[i].database == NULL) {
            return true;
        }
    }
    return false;
}

/* The databases to look into: those that rules name, and all others when a rule names none. */
static bool databases_to_read(struct catalog *catalog, bool thorough, struct names *out,
                              struct failure *f)
{
    const struct config *config = catalog->config;
    bool ok = true;
    if (has_unnamed(config)) {
        struct control_target target = {
            .conninfo = config->control, .abort_requested = is_closing, .abort_arg = catalog};
        struct control *control = NULL;
        struct names all = {.count = 0};
        ok = control_open(&target, &control, f) && catalog_list_databases(control, &all, f);
        control_close(control);
        for (size_t i = 0; ok && i < all.count; i++) {
            if (thorough || !names_has(&catalog->without, all.at[i])) {
                ok = names_add(out, all.at[i]) || fail(f, EXIT_REFUSED, "out of memory");
            }
        }
        names_free(&all);
    }
    for (size_t i = 0; ok && i < config->rule_count; i++) {
        const char *name = config->rules[i].database;
        if (name != NULL && !names_has(out, name)) {
            ok = names_add(out, name) || fail(f, EXIT_REFUSED, "out of memory");
        }
    }
    return ok;
}

/* Puts a failure into the words of the first rule concerned. */
static bool fail_for_rule(const struct config *config, const size_t *rules, size_t count,
                          const char *database, struct failure *f)
{
    if (f == NULL || f->code == EXIT_USAGE || strncmp(f->msg, "rule ", 5) == 0) {
        return false;
    }
    struct failure was = *f;
    bool named = count > 0 && config->rules[rules[0]].database != NULL;
    fail(f, was.code, "rule %s: database \"%.80s\": %.400s%s",
         count > 0 ? config->rules[rules[0]].name : "?", database, was.msg,
         named ? "" : "; name the database in the rule, or let the control role connect");
    memcpy(f->sqlstate, was.sqlstate, sizeof f->sqlstate);
    return false;
}

static bool read_one(struct catalog *catalog, const char *name, struct collection *c,
                     struct failure *f)
{
    const struct config *config = catalog->config;
    size_t rules[RULES_MAX];
    size_t count = rules_for(config, name, rules);
    struct control_target target = {.conninfo = config->control,
                                    .database = name,
                                    .abort_requested = is_closing,
                                    .abort_arg = catalog};
    struct control *control = NULL;
    struct catalog_database database = {.name = NULL};
    bool ok = control_open(&target, &control, f) &&
              catalog_read_database(control, config, rules, count, atomic_load(&catalog->moving),
                                    &database, c->print, f);
    control_close(control);
    if (!ok) {
        catalog_database_fini(&database);
        return fail_for_rule(config, rules, count, name, f);
    }
    /* Later the columns may be changing: what is known must not grow old for that. */
    if (catalog->current == NULL && database.complaint != NULL &&
        database.complaint_mode == RULE_MODE_COMPUTE) {
        fail(f, EXIT_REFUSED, "%s", database.complaint);
        catalog_database_fini(&database);
        return false;
    }
    if (database.rule_count == 0) {
        catalog_database_fini(&database);
        return names_has(&catalog->without, name) || names_add(&catalog->without, name) ||
               fail(f, EXIT_REFUSED, "out of memory");
    }
    for (size_t i = 0; i < database.rule_count; i++) {
        c->found[database.rule_index[i]] = true;
    }
    struct catalog_snapshot *s = &c->into->snapshot;
    s->databases[s->database_count++] = database;
    return true;
}

/* Reads everything into a new snapshot, which the caller owns. */
static struct published *read_all(struct catalog *catalog, bool thorough, struct failure *f)
{
    const struct config *config = catalog->config;
    struct names databases = {.count = 0};
    struct collection c = {.into = calloc(1, sizeof *c.into),
                           .found = calloc(config->rule_count + 1, sizeof *c.found)};
    bool ok = false;
    if (c.into == NULL || c.found == NULL) {
        fail(f, EXIT_REFUSED, "out of memory");
        goto out;
    }
    atomic_init(&c.into->refs, 1);
    c.print = open_memstream(&c.into->print, &c.print_len);
    if (c.print == NULL || !databases_to_read(catalog, thorough, &databases, f)) {
        goto out;
    }
    c.into->snapshot.databases = calloc(databases.count + 1, sizeof *c.into->snapshot.databases);
    if (c.into->snapshot.databases == NULL) {
        fail(f, EXIT_REFUSED, "out of memory");
        goto out;
    }
    ok = true;
    for (size_t i = 0; ok && i < databases.count; i++) {
        ok = read_one(catalog, databases.at[i], &c, f);
    }
    for (size_t i = 0; ok && i < config->rule_count; i++) {
        if (!c.found[i]) {
            const struct config_rule *rule = &config->rules[i];
            ok = fail(f, EXIT_REFUSED, "rule %s: no database has table %s.%s", rule->name,
                      rule->schema, rule->table);
        }
    }
out:
    if (c.print != NULL && fclose(c.print) != 0) {
        ok = false;
    }
    names_free(&databases);
    free(c.found);
    if (!ok) {
        published_unref(c.into);
        return NULL;
    }
    return c.into;
}

static void log_warnings(const char *print)
{
    const size_t skip = strlen(CATALOG_WARNING);
    for (const char *line = print; line != NULL && *line != '\0';) {
        const char *end = strchrnul(line, '\n');
        if (strncmp(line, CATALOG_WARNING, skip) == 0) {
            log_warning("catalog: %.*s", (int)(end - line - (ptrdiff_t)skip), line + skip);
        }
        line = *end == '\n' ? end + 1 : end;
    }
}

/* Takes `next`. The epoch moves only when something is different: sessions drop what they know at
 * each new epoch. */
static void publish(struct catalog *catalog, struct published *next)
{
    struct published *old = next;
    pthread_mutex_lock(&catalog->lock);
    if (catalog->current == NULL || catalog->current->print == NULL || next->print == NULL ||
        strcmp(catalog->current->print, next->print) != 0) {
        uint64_t epoch = atomic_load_explicit(&catalog->epoch, memory_order_relaxed) + 1;
        next->snapshot.epoch = epoch;
        old = catalog->current;
        catalog->current = next;
        log_warnings(next->print);
        atomic_store_explicit(&catalog->epoch, epoch, memory_order_release);
    }
    pthread_mutex_unlock(&catalog->lock);
    published_unref(old);
}

static bool refresh(struct catalog *catalog, bool thorough, struct failure *f)
{
    pthread_mutex_lock(&catalog->reading);
    const uint64_t asked = atomic_load(&catalog->asked);
    struct published *next = read_all(catalog, thorough, f);
    if (next != NULL) {
        publish(catalog, next);
    }
    atomic_store(&catalog->answered, asked);
    pthread_mutex_unlock(&catalog->reading);
    return next != NULL;
}

static struct timespec later(long seconds, long ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += seconds;
    t.tv_nsec += ms * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

/* Sleeps until asked, or the timer ends. Returns whether somebody asked. */
static bool wait_for_work(struct catalog *catalog)
{
    struct timespec until = later(REFRESH_SECONDS, 0);
    int rc = 0;
    pthread_mutex_lock(&catalog->lock);
    while (rc == 0 && !catalog->requested && !is_closing(catalog)) {
        rc = pthread_cond_timedwait(&catalog->wake, &catalog->lock, &until);
    }
    bool asked = catalog->requested;
    catalog->requested = false;
    pthread_mutex_unlock(&catalog->lock);
    return asked;
}

static void pause_after_reading(void)
{
    nanosleep(&(struct timespec){.tv_nsec = REFRESH_PAUSE_MS * 1000000L}, NULL);
}

static void *run_refresher(void *arg)
{
    struct catalog *catalog = arg;
    char said[sizeof((struct failure *)NULL)->msg] = "";
    for (unsigned turn = 1;; turn++) {
        bool asked = wait_for_work(catalog);
        if (is_closing(catalog)) {
            return NULL;
        }
        struct failure f = {.code = EXIT_REFUSED, .msg = "out of memory"};
        bool ok = refresh(catalog, asked || turn % THOROUGH_TURNS == 0, &f);
        if (is_closing(catalog)) {
            return NULL;
        }
        if (ok && said[0] != '\0') {
            log_info("catalog: read again after: %s", said);
            said[0] = '\0';
        } else if (!ok && strcmp(said, f.msg) != 0) {
            log_warning("catalog: keeps what it knew: %s", f.msg);
            memcpy(said, f.msg, sizeof said);
        }
        pause_after_reading();
    }
}

static bool init(struct catalog *catalog, const struct config *config)
{
    atomic_init(&catalog->config, config);
    atomic_init(&catalog->epoch, 0);
    atomic_init(&catalog->closing, false);
    pthread_condattr_t attr;
    if (pthread_condattr_init(&attr) != 0) {
        return false;
    }
    bool ok = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0 &&
              pthread_cond_init(&catalog->wake, &attr) == 0;
    pthread_condattr_destroy(&attr);
    return ok && pthread_mutex_init(&catalog->lock, NULL) == 0 &&
           pthread_mutex_init(&catalog->reading, NULL) == 0;
}

bool catalog_open(const struct config *config, struct catalog **out, struct failure *f)
{
    *out = NULL;
    struct catalog *catalog = calloc(1, sizeof *catalog);
    if (catalog == NULL || !init(catalog, config)) {
        free(catalog);
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    if (!refresh(catalog, true, f)) {
        catalog_close(catalog);
        return false;
    }
    if (config->rule_count > 0) {
        if (pthread_create(&catalog->thread, NULL, run_refresher, catalog) != 0) {
            catalog_close(catalog);
            return fail(f, EXIT_REFUSED, "cannot start the catalog's thread");
        }
        catalog->has_thread = true;
    }
    *out = catalog;
    return true;
}

void catalog_close(struct catalog *catalog)
{
    if (catalog == NULL) {
        return;
    }
    atomic_store_explicit(&catalog->closing, true, memory_order_relaxed);
    if (catalog->has_thread) {
        pthread_mutex_lock(&catalog->lock);
        pthread_cond_signal(&catalog->wake);
        pthread_mutex_unlock(&catalog->lock);
        pthread_join(catalog->thread, NULL);
    }
    published_unref(catalog->current);
    names_free(&catalog->without);
    pthread_cond_destroy(&catalog->wake);
    pthread_mutex_destroy(&catalog->lock);
    pthread_mutex_destroy(&catalog->reading);
    free(catalog);
}

uint64_t catalog_epoch(const struct catalog *catalog)
{
    return atomic_load_explicit(&catalog->epoch, memory_order_acquire);
}

struct catalog_snapshot *catalog_ref(struct catalog *catalog)
{
    pthread_mutex_lock(&catalog->lock);
    struct published *p = catalog->current;
    atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&catalog->lock);
    return &p->snapshot;
}

void catalog_share(struct catalog_snapshot *snapshot)
{
    atomic_fetch_add_explicit(&published_of(snapshot)->refs, 1, memory_order_relaxed);
}

void catalog_unref(struct catalog *catalog, struct catalog_snapshot *snapshot)
{
    (void)catalog;
    if (snapshot != NULL) {
        published_unref(published_of(snapshot));
    }
}

const struct catalog_database *catalog_find(const struct catalog_snapshot *snapshot,
                                            const char *database)
{
    for (size_t i = 0; i < snapshot->database_count; i++) {
        if (strcmp(snapshot->databases[i].name, database) == 0) {
            return &snapshot->databases[i];
        }
    }
    return NULL;
}

void catalog_reconfigure(struct catalog *catalog, const struct config *config)
{
    atomic_store(&catalog->config, config);
    catalog_request_refresh(catalog);
}

bool catalog_expect_move(struct catalog *catalog, size_t rule, bool expected, struct failure *f)
{
    uint64_t bit = (uint64_t)1 << rule;
    if (expected) {
        atomic_fetch_or(&catalog->moving, bit);
    } else {
        atomic_fetch_and(&catalog->moving, ~bit);
    }
    return refresh(catalog, false, f);
}

void catalog_request_refresh(struct catalog *catalog)
{
    atomic_fetch_add(&catalog->asked, 1);
    pthread_mutex_lock(&catalog->lock);
    catalog->requested = true;
    pthread_cond_signal(&catalog->wake);
    pthread_mutex_unlock(&catalog->lock);
}

bool catalog_is_awaited(const struct catalog *catalog)
{
    return atomic_load(&catalog->answered) != atomic_load(&catalog->asked);
}

bool catalog_refresh(struct catalog *catalog, struct failure *f)
{
    return refresh(catalog, true, f);
}

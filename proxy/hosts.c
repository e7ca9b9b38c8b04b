/* Asks each server what it is; see hosts.h. */
#include "proxy/hosts.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proxy/control.h"
#include "proxy/log.h"

enum {
    ASK_EVERY_MS = 1000,
    ASK_PAUSE_MS = 50, /* at least, however often it is asked for */
    ANSWER_MS = 2000,  /* a server that takes longer counts as gone */
};

/* One server and the thread that asks it. */
struct asker {
    struct hosts *hosts;
    struct upstream_host *host;
    pthread_t thread;
    bool answered;                              /* or failed, at least once */
    unsigned asked;                             /* hosts->asked when it last began to ask */
    char why[sizeof((struct failure *)0)->msg]; /* it could not be asked, the last time */
};

struct hosts {
    char *conninfo;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* closing, asked, or an answer */
    bool closing;
    unsigned asked; /* how often hosts_ask() was called */
    size_t count;
    struct asker askers[];
};

static bool is_closing(void *arg)
{
    struct hosts *hosts = arg;
    pthread_mutex_lock(&hosts->lock);
    bool closing = hosts->closing;
    pthread_mutex_unlock(&hosts->lock);
    return closing;
}

/* A change is worth a line, also of the reason why a server cannot be asked. */
static void tell(struct asker *asker, enum upstream_role before, enum upstream_role role,
                 const char *why)
{
    const struct upstream_host *host = asker->host;
    if (before == role && asker->answered && strcmp(asker->why, why) == 0) {
        return;
    }
    snprintf(asker->why, sizeof asker->why, "%s", why);
    if (role == UPSTREAM_ROLE_UNKNOWN) {
        log_warning("server \"%s\", port %s cannot be asked what it is (login of control): %s",
                    host->name, host->port, why);
    } else {
        log_info("server \"%s\", port %s is %s", host->name, host->port, upstream_role_name(role));
    }
}

static void note(struct asker *asker, enum upstream_role role, const char *why)
{
    tell(asker, atomic_exchange(&asker->host->role, role), role, why);
    pthread_mutex_lock(&asker->hosts->lock);
    asker->answered = true;
    pthread_cond_broadcast(&asker->hosts->changed);
    pthread_mutex_unlock(&asker->hosts->lock);
}

/* The control session itself says read-write, whatever the default: so the default is looked up. */
static const char question[] =
    "SELECT pg_catalog.pg_is_in_recovery(), s.reset_val FROM pg_catalog.pg_settings s "
    "WHERE s.name = 'default_transaction_read_only'";

static enum upstream_role ask(struct control *control, struct failure *f)
{
    PGresult *result = control_query(control, question, 0, NULL, ANSWER_MS, f);
    enum upstream_role role = UPSTREAM_ROLE_UNKNOWN;
    if (result != NULL && PQntuples(result) == 1) {
        bool standby = strcmp(PQgetvalue(result, 0, 0), "t") == 0;
        bool read_only = strcmp(PQgetvalue(result, 0, 1), "on") == 0;
        role = standby     ? UPSTREAM_ROLE_STANDBY
               : read_only ? UPSTREAM_ROLE_READ_ONLY
                           : UPSTREAM_ROLE_READ_WRITE;
    }
    PQclear(result);
    return role;
}

/* Until `after_ms` from `since`, or until somebody asks unless `deaf`, or until the end. Locked. */
static void wait_until(struct asker *asker, struct timespec since, long after_ms, bool deaf)
{
    struct hosts *hosts = asker->hosts;
    since.tv_nsec += after_ms % 1000 * 1000000;
    since.tv_sec += after_ms / 1000 + since.tv_nsec / 1000000000;
    since.tv_nsec %= 1000000000;
    int rc = 0;
    while (!hosts->closing && (deaf || hosts->asked == asker->asked) && rc == 0) {
        rc = pthread_cond_timedwait(&hosts->changed, &hosts->lock, &since);
    }
}

/* False when it is time to end. */
static bool pause_until_asked(struct asker *asker)
{
    struct hosts *hosts = asker->hosts;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    pthread_mutex_lock(&hosts->lock);
    wait_until(asker, now, ASK_PAUSE_MS, true);
    wait_until(asker, now, ASK_EVERY_MS, false);
    asker->asked = hosts->asked;
    bool go_on = !hosts->closing;
    pthread_mutex_unlock(&hosts->lock);
    return go_on;
}

static void *run(void *arg)
{
    struct asker *asker = arg;
    struct control *control = NULL;
    struct control_target target = {.conninfo = asker->hosts->conninfo,
                                    .host = asker->host->name,
                                    .port = asker->host->port,
                                    .hostaddr = asker->host->numeric,
                                    .impatient = true,
                                    .abort_requested = is_closing,
                                    .abort_arg = asker->hosts};
    do {
        struct failure f = {.code = EXIT_DONE};
        enum upstream_role role = UPSTREAM_ROLE_UNKNOWN;
        if (control != NULL || control_open(&target, &control, &f)) {
            role = ask(control, &f);
        }
        if (control != NULL && control_is_lost(control)) {
            control_close(control);
            control = NULL;
        }
        note(asker, role, f.code != EXIT_DONE ? f.msg : "");
    } while (pause_until_asked(asker));
    control_close(control);
    return NULL;
}

static void await_answers(struct hosts *hosts)
{
    pthread_mutex_lock(&hosts->lock);
    for (size_t i = 0; i < hosts->count; i++) {
        while (!hosts->askers[i].answered) {
            pthread_cond_wait(&hosts->changed, &hosts->lock);
        }
    }
    pthread_mutex_unlock(&hosts->lock);
}

static bool start(struct hosts *hosts, struct upstream *upstream, struct failure *f)
{
    for (size_t i = 0; i < upstream->count; i++) {
        struct asker *asker = &hosts->askers[i];
        *asker = (struct asker){.hosts = hosts, .host = &upstream->hosts[i]};
        if (pthread_create(&asker->thread, NULL, run, asker) != 0) {
            return fail(f, EXIT_REFUSED, "cannot start a thread");
        }
        hosts->count++;
    }
    return true;
}

bool hosts_open(const struct config *config, struct upstream *upstream, struct hosts **out,
                struct failure *f)
{
    *out = NULL;
    if (upstream->attrs == UPSTREAM_ATTRS_ANY) {
        return true;
    }
    struct hosts *hosts = calloc(1, sizeof *hosts + upstream->count * sizeof *hosts->askers);
    if (hosts == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&hosts->lock, NULL);
    pthread_cond_init(&hosts->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    hosts->conninfo = strdup(config->control);
    if (hosts->conninfo == NULL || !start(hosts, upstream, f)) {
        hosts_close(hosts);
        return false;
    }
    await_answers(hosts);
    *out = hosts;
    return true;
}

void hosts_close(struct hosts *hosts)
{
    if (hosts == NULL) {
        return;
    }
    pthread_mutex_lock(&hosts->lock);
    hosts->closing = true;
    pthread_cond_broadcast(&hosts->changed);
    pthread_mutex_unlock(&hosts->lock);
    for (size_t i = 0; i < hosts->count; i++) {
        pthread_join(hosts->askers[i].thread, NULL);
    }
    pthread_cond_destroy(&hosts->changed);
    pthread_mutex_destroy(&hosts->lock);
    free(hosts->conninfo);
    free(hosts);
}

void hosts_ask(struct hosts *hosts)
{
    if (hosts == NULL) {
        return;
    }
    pthread_mutex_lock(&hosts->lock);
    hosts->asked++;
    pthread_cond_broadcast(&hosts->changed);
    pthread_mutex_unlock(&hosts->lock);
}

/* The follower's thread; see follower.h. */
#include "proxy/admin/follower.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/bake.h"
#include "proxy/log.h"

enum {
    IDLE_MS = 10000,     /* another proxy may have flipped the table */
    ELSEWHERE_MS = 2000, /* the other one may have died */
    TROUBLE_MS = 2000,
    OVER_MS = 5000, /* where the finish did not succeed */
    FOLLOW_MS = 1000,
    BEHIND_MS = 20, /* between two batches: it must not press on the applications */
    NOBODY = -1,
};

/* One rule's table. */
struct watch {
    struct follower *follower;
    size_t rule;
    struct cutover_host host;
    struct bake *bake;
    uint64_t due_ms;
    bool follows; /* it was said so */
    char said[sizeof((struct failure *)NULL)->msg];
};

struct follower {
    struct service *service;
    void (*on_over)(void *arg, size_t rule);
    void *arg;
    uv_thread_t thread;
    uv_async_t over;
    uv_mutex_t lock;
    uv_cond_t wake;
    bool woken; /* under the lock */
    _Atomic bool closing;
    _Atomic int busy;          /* the rule that a command runs on, or NOBODY */
    _Atomic uint64_t are_over; /* rules, as bits */
    size_t count;
    struct watch watches[];
};

static uint64_t now_ms(void)
{
    return gate_now() / 1000000u;
}

static bool on_abort_requested(void *arg)
{
    const struct watch *watch = arg;
    return atomic_load(&watch->follower->closing) ||
           atomic_load(&watch->follower->busy) == (int)watch->rule;
}

static void say_trouble(struct watch *watch, const char *table, const struct failure *f)
{
    if (strcmp(watch->said, f->msg) != 0) {
        memcpy(watch->said, f->msg, sizeof watch->said);
        log_warning("bake of \"%s\": the old table does not follow for now: %s", table, f->msg);
    }
}

static void say_following(struct watch *watch, const char *table)
{
    if (watch->said[0] != '\0') {
        log_info("bake of \"%s\": the old table follows again after: %s", table, watch->said);
        watch->said[0] = '\0';
    } else if (!watch->follows) {
        log_info("bake of \"%s\": the old table follows what is written", table);
    }
    watch->follows = true;
}

/* How long to the next turn. */
static uint64_t take_turn(struct watch *watch)
{
    struct follower *follower = watch->follower;
    const struct config *config = service_config(follower->service);
    const char *table = config->rules[watch->rule].name;
    struct failure f = {.code = EXIT_REFUSED, .msg = ""};
    uint64_t began = now_ms();
    switch (bake_turn(watch->bake, config, &f)) {
    case BAKE_BEHIND:
        say_following(watch, table);
        return now_ms() - began + BEHIND_MS; /* half of the time at most */
    case BAKE_IN_STEP:
        say_following(watch, table);
        return FOLLOW_MS;
    case BAKE_TROUBLE:
        if (!on_abort_requested(watch)) {
            say_trouble(watch, table, &f);
        }
        return TROUBLE_MS;
    case BAKE_OVER:
        watch->follows = false;
        atomic_fetch_or(&follower->are_over, (uint64_t)1 << watch->rule);
        uv_async_send(&follower->over);
        return OVER_MS;
    case BAKE_ELSEWHERE:
        return ELSEWHERE_MS;
    case BAKE_NONE:
        break;
    }
    watch->follows = false;
    watch->said[0] = '\0';
    return IDLE_MS;
}

/* Until something is due, or somebody wakes. */
static void wait_for_work(struct follower *follower)
{
    uint64_t due = UINT64_MAX;
    for (size_t i = 0; i < follower->count; i++) {
        uint64_t at = follower->watches[i].due_ms;
        due = at < due ? at : due;
    }
    uint64_t now = now_ms();
    uv_mutex_lock(&follower->lock);
    if (!follower->woken && due > now && !atomic_load(&follower->closing)) {
        (void)uv_cond_timedwait(&follower->wake, &follower->lock, (due - now) * 1000000u);
    }
    bool woken = follower->woken;
    follower->woken = false;
    uv_mutex_unlock(&follower->lock);
    for (size_t i = 0; woken && i < follower->count; i++) {
        follower->watches[i].due_ms = 0;
    }
}

static void run(void *arg)
{
    struct follower *follower = arg;
    while (!atomic_load(&follower->closing)) {
        for (size_t i = 0; i < follower->count; i++) {
            struct watch *watch = &follower->watches[i];
            if (now_ms() < watch->due_ms) {
                continue;
            }
            uint64_t next = on_abort_requested(watch) ? FOLLOW_MS : take_turn(watch);
            watch->due_ms = now_ms() + next;
        }
        wait_for_work(follower);
    }
}

static void wake(struct follower *follower)
{
    uv_mutex_lock(&follower->lock);
    follower->woken = true;
    uv_cond_signal(&follower->wake);
    uv_mutex_unlock(&follower->lock);
}

static void on_async(uv_async_t *async)
{
    struct follower *follower = async->data;
    uint64_t rules = atomic_exchange(&follower->are_over, 0);
    for (size_t rule = 0; rule < follower->count; rule++) {
        if ((rules >> rule & 1) != 0) {
            follower->on_over(follower->arg, rule);
        }
    }
}

static void on_closed(uv_handle_t *handle)
{
    struct follower *follower = handle->data;
    for (size_t i = 0; i < follower->count; i++) {
        bake_free(follower->watches[i].bake);
    }
    uv_cond_destroy(&follower->wake);
    uv_mutex_destroy(&follower->lock);
    free(follower);
}

bool follower_open(struct service *service, uv_loop_t *loop,
                   void (*on_over)(void *arg, size_t rule), void *arg, struct follower **out,
                   struct failure *f)
{
    const struct config *config = service_config(service);
    *out = NULL;
    if (config->rule_count == 0 || config->control == NULL) {
        return true;
    }
    struct follower *follower =
        calloc(1, sizeof *follower + config->rule_count * sizeof(struct watch));
    if (follower == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    follower->service = service;
    follower->on_over = on_over;
    follower->arg = arg;
    atomic_init(&follower->busy, NOBODY);
    uv_mutex_init(&follower->lock);
    uv_cond_init(&follower->wake);
    uv_async_init(loop, &follower->over, on_async);
    follower->over.data = follower;
    bool ok = true;
    for (size_t i = 0; ok && i < config->rule_count; i++) {
        struct watch *watch = &follower->watches[i];
        *watch = (struct watch){.follower = follower, .rule = i};
        watch->host = (struct cutover_host){.arg = watch, .abort_requested = on_abort_requested};
        watch->bake = bake_new(&config->rules[i], &watch->host);
        ok = watch->bake != NULL;
        follower->count++;
    }
    if (!ok || uv_thread_create(&follower->thread, run, follower) != 0) {
        uv_close((uv_handle_t *)&follower->over, on_closed);
        return fail(f, EXIT_REFUSED, "cannot start a thread");
    }
    *out = follower;
    return true;
}

void follower_stand_back(struct follower *follower, size_t rule)
{
    if (follower != NULL) {
        atomic_store(&follower->busy, (int)rule);
    }
}

void follower_go_on(struct follower *follower)
{
    if (follower != NULL) {
        atomic_store(&follower->busy, NOBODY);
        wake(follower);
    }
}

void follower_close(struct follower *follower)
{
    if (follower != NULL) {
        atomic_store(&follower->closing, true);
        wake(follower);
        uv_thread_join(&follower->thread);
        uv_close((uv_handle_t *)&follower->over, on_closed);
    }
}

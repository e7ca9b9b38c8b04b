/* The thread, its queue, and what becomes of what it has judged; see large.h. */
#include "proxy/session/large.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/frame.h"
#include "protocol/message.h"
#include "proxy/service.h"
#include "proxy/session/mentions.h"
#include "rules/encoding.h"

/* Pieces of memory from this size on are freed by the thread: a megabyte takes some 70
 * microseconds. */
#define FREED_BY_THREAD ((size_t)1024 * 1024)
/* deep trees are walked on this stack */
#define STACK_SIZE ((size_t)8 * 1024 * 1024)

struct large_thread {
    uv_thread_t thread;
    uv_mutex_t lock;
    uv_cond_t wake;
    struct large *first, **last;
    bool stopping;
};

/* --- on the thread --- */

static void free_all(struct large *large)
{
    judge_free(large->judge);
    position_map_unref(large->map);
    writer_fini(&large->edited);
    free(large->types);
    free(large->stash);
    free(large->mail);
    if (large->snapshot != NULL) {
        catalog_unref(large->worker->service->catalog, large->snapshot);
    }
    free(large);
}

static bool read_message(struct large *large)
{
    struct judged *judged = &large->judged;
    struct message_parse parse;
    if (large->message[0] == 'Q') {
        return message_read_query(large->message, large->size, &judged->text);
    }
    if (!message_read_parse(large->message, large->size, &parse)) {
        return false;
    }
    large->types = malloc((parse.type_count + (size_t)1) * sizeof *large->types);
    for (size_t i = 0; large->types != NULL && i < parse.type_count; i++) {
        large->types[i] = load_u32(parse.types + 4 * i);
    }
    *judged = (struct judged){
        .text = parse.query,
        .extended = true,
        .name = parse.name,
        .types = large->types,
        .type_count = large->types == NULL ? 0 : parse.type_count,
    };
    return true;
}

static void write_edited(struct large *large)
{
    const struct judged *judged = &large->judged;
    const struct verdict *verdict = large->verdict;
    if (judged->extended) {
        message_write_parse(&large->edited, judged->name, verdict->text, verdict->text_len,
                            verdict->param_types, verdict->param_type_count);
    } else {
        message_write_query(&large->edited, verdict->text, verdict->text_len);
    }
}

static void look_for_words(struct large *large)
{
    const struct span text = large->judged.text;
    const size_t from = large->verdict == NULL ? 0 : large->verdict->plain_from;
    const size_t to = large->verdict == NULL ? 0 : large->verdict->plain_to;
    large->isolation = mentions(text.ptr, from, "isolation") ||
                       mentions(text.ptr + to, text.len - to, "isolation");
    large->may_change = settings_may_change((struct span){text.ptr, from}) ||
                        settings_may_change((struct span){text.ptr + to, text.len - to});
    large->execute = mentions(text.ptr, text.len, "execute");
}

static void judge_large(struct large *large)
{
    large->is_readable = read_message(large);
    writer_init(&large->edited, WORKER_MESSAGE_MAX);
    if (!large->is_readable) {
        return;
    }
    const struct judged *judged = &large->judged;
    large->may_concern = judging_may_concern(large->rules->set, large->hides_names, judged->text);
    large->is_plain =
        encoding_is_readable(TEXT_ENCODING_UNKNOWN, judged->text.ptr, judged->text.len);
    /* its own, so that the verdict stays until the loop has done with it */
    large->judge = large->may_concern ? judge_new(0) : NULL;
    if (large->judge != NULL && (large->types != NULL || !judged->extended)) {
        large->verdict = judge_text(large->judge, large->rules->set,
                                    &(struct judge_input){
                                        .text = judged->text.ptr,
                                        .len = judged->text.len,
                                        .param_types = judged->types,
                                        .param_type_count = judged->type_count,
                                        .extended = judged->extended,
                                        .standard_conforming_strings = large->conforming,
                                        .encoding = large->encoding,
                                        .is_in_server_encoding = large->in_server_encoding,
                                        .columns_change = large->columns_change,
                                    });
    }
    look_for_words(large);
    if (large->verdict != NULL && large->verdict->action == VERDICT_EDIT) {
        large->map =
            position_map_new(large->verdict, judged->text.ptr, judged->text.len, large->characters);
    }
    if (large->verdict != NULL && large->fills_stash) {
        if (large->verdict->action == VERDICT_EDIT) {
            write_edited(large);
        }
        large->verdict = large->edited.ok ? judge_reduce(large->judge) : NULL;
        malloc_trim(0);
    }
}

static void process(struct large *large)
{
    if (large->is_done) {
        const bool is_large = large->size > WORKER_BUFFER;
        free_all(large);
        if (is_large) {
            malloc_trim(0);
        }
        return;
    }
    if (!atomic_load_explicit(&large->is_abandoned, memory_order_relaxed)) {
        judge_large(large);
    }
    struct mail *mail = large->mail;
    large->mail = NULL;
    worker_post(large->worker, mail);
}

static struct large *take(struct large_thread *thread)
{
    uv_mutex_lock(&thread->lock);
    while (thread->first == NULL && !thread->stopping) {
        uv_cond_wait(&thread->wake, &thread->lock);
    }
    struct large *large = thread->first;
    if (large != NULL) {
        thread->first = large->next;
        if (thread->first == NULL) {
            thread->last = &thread->first;
        }
    }
    uv_mutex_unlock(&thread->lock);
    return large;
}

static void run(void *arg)
{
    struct large *large;
    while ((large = take(arg)) != NULL) {
        process(large);
    }
}

/* --- on the loop --- */

static struct large_thread *start_thread(void)
{
    struct large_thread *thread = calloc(1, sizeof *thread);
    if (thread == NULL) {
        return NULL;
    }
    uv_mutex_init(&thread->lock);
    uv_cond_init(&thread->wake);
    thread->last = &thread->first;
    uv_thread_options_t options = {.flags = UV_THREAD_HAS_STACK_SIZE, .stack_size = STACK_SIZE};
    if (uv_thread_create_ex(&thread->thread, &options, run, thread) != 0) {
        large_free_thread(thread);
        return NULL;
    }
    return thread;
}

void large_free_thread(struct large_thread *thread)
{
    if (thread != NULL) {
        uv_mutex_destroy(&thread->lock);
        uv_cond_destroy(&thread->wake);
        free(thread);
    }
}

static bool is_running(const struct worker *worker)
{
    return worker->large != NULL && !worker->stopping;
}

static void give(struct worker *worker, struct large *large)
{
    struct large_thread *thread = worker->large;
    uv_mutex_lock(&thread->lock);
    /* what is only to be freed goes first */
    struct large **where = large->is_done ? &thread->first : thread->last;
    large->next = *where;
    *where = large;
    if (large->next == NULL) {
        thread->last = &large->next;
    }
    uv_cond_signal(&thread->wake);
    uv_mutex_unlock(&thread->lock);
}

void large_stop(struct worker *worker)
{
    struct large_thread *thread = worker->large;
    if (thread == NULL) {
        return;
    }
    uv_mutex_lock(&thread->lock);
    for (struct large *large = thread->first; large != NULL; large = large->next) {
        large->is_abandoned = true;
    }
    thread->stopping = true;
    uv_cond_signal(&thread->wake);
    uv_mutex_unlock(&thread->lock);
    uv_thread_join(&thread->thread);
}

static bool begin(struct session *s)
{
    struct worker *worker = s->worker;
    if (worker->large == NULL) {
        worker->large = start_thread();
    }
    struct large *large = worker->large == NULL ? NULL : calloc(1, sizeof *large);
    struct mail *mail = mail_new(MAIL_JUDGED);
    if (large == NULL || mail == NULL) {
        free(large);
        free(mail);
        return false;
    }
    const size_t size = 1 + (size_t)load_u32(s->front.stash + 1);
    mail->large = large;
    *large = (struct large){
        .worker = worker,
        .session = s,
        .mail = mail,
        .message = s->front.stash,
        .size = size,
        .fills_stash = size > WORKER_BUFFER && size == s->front.stash_len,
        .snapshot = worker->snapshot,
        .rules = s->rules,
        .epoch = s->rules_epoch,
        .conforming = s->strings_standard,
        .encoding = settings_encoding(s),
        .in_server_encoding = settings_are_servers(s),
        .columns_change = s->columns_change,
        .hides_names = settings_hide_names(s),
        .characters = judging_characters(s),
        .refs = 1,
    };
    catalog_share(large->snapshot);
    s->large = large;
    s->handles++;
    give(worker, large);
    return true;
}

/* Whether CancelRequests are for us: the server does not know of the statement yet. */
static void take_cancels(struct session *s, bool taken)
{
    if (s->cancel_key != NULL) {
        registry_set_held(session_service(s)->registry, s->cancel_key, taken);
    }
}

bool large_begin(struct session *s)
{
    if (!begin(s)) {
        session_fail(s, "53200", "out of memory");
        return false;
    }
    take_cancels(s, s->syncs_sent == s->syncs_done);
    return true;
}

void large_cancel(struct session *s)
{
    s->large->is_cancelled = true;
}

static void release(void *arg)
{
    struct large *large = arg;
    large->refs--;
    if (large->refs > 0) {
        return;
    }
    /* the session's ledger may have it too, and references are counted on this thread only */
    position_map_unref(large->map);
    large->map = NULL;
    if (is_running(large->worker)) {
        give(large->worker, large);
    } else {
        free_all(large);
    }
}

void large_arrived(struct large *large)
{
    struct session *s = large->session;
    large->is_done = true;
    if (s->state == SESSION_CLOSING) {
        session_release(s);
        return;
    }
    take_cancels(s, false);
    s->handles--;
    s->wait = SESSION_WAIT_NONE;
    s->active_ms = uv_now(&s->worker->loop); /* the server's part begins now */
    session_resume(s);
}

bool large_is_current(const struct session *s)
{
    const struct large *large = s->large;
    return large->is_cancelled ||
           (large->rules == s->rules && large->epoch == s->rules_epoch &&
            large->conforming == s->strings_standard && large->encoding == settings_encoding(s) &&
            large->in_server_encoding == settings_are_servers(s) &&
            large->columns_change == s->columns_change &&
            large->characters == judging_characters(s));
}

bool large_fills_stash(const struct session *s)
{
    return s->large->fills_stash;
}

void large_send(struct session *s, const uint8_t *bytes, size_t len)
{
    struct large *large = s->large;
    struct batch *batch = &s->worker->batch;
    large->refs++;
    batch_send(batch);
    if (batch->result == STREAM_OK) {
        batch->result = stream_lend(batch->to, bytes, len, release, large);
    } else {
        release(large);
    }
}

void large_drop(struct session *s)
{
    struct large *large = s->large;
    if (large == NULL) {
        return;
    }
    if (!large->is_done) {
        atomic_store_explicit(&large->is_abandoned, true, memory_order_relaxed);
        return;
    }
    s->large = NULL;
    release(large);
}

void large_consumed(struct session *s)
{
    if (large_fills_stash(s)) {
        s->large->stash = s->front.stash;
        s->front.stash = NULL;
        s->front.stash_len = s->front.stash_room = 0;
    }
    large_drop(s);
}

void large_free_stash(struct worker *worker, uint8_t *stash, size_t size)
{
    struct large *large =
        size >= FREED_BY_THREAD && is_running(worker) ? calloc(1, sizeof *large) : NULL;
    if (large == NULL) {
        free(stash);
        return;
    }
    large->worker = worker;
    large->size = size;
    large->is_done = true;
    large->stash = stash;
    give(worker, large);
}

/*
 * Looks secrets up in auth_file and by auth_query; see secrets.h. The event loops put lookups in
 * two lines, one for each thread; a thread that has answered one calls done(). All under one lock
 * that nobody holds for long.
 */
#include "proxy/auth/secrets.h"

#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <stringprep.h>

#include "proxy/auth/auth_file.h"
#include "proxy/control.h"
#include "proxy/log.h"
#include <utlist.h>

#define QUERY_TIMEOUT_MS 5000u

struct secrets_line {
    struct secrets_lookup *lookups; /* that nobody works on yet; in the order of their arrival */
    pthread_cond_t arrived;         /* or stopping */
    pthread_t thread;
    bool has_thread;
};

struct secrets {
    pthread_mutex_t lock; /* of everything but what only the asking thread uses */
    struct auth_file *file;
    char *query;
    struct secrets_line asking, deriving;
    bool stopping;
    /* the asking thread's */
    struct control *control;
    char *conninfo;
};

static char *copy_of(const char *text)
{
    return text != NULL ? strdup(text) : NULL;
}

static void free_secret(char *text)
{
    if (text != NULL) {
        OPENSSL_cleanse(text, strlen(text));
        free(text);
    }
}

bool secrets_reload(struct secrets *secrets, const struct config *config, struct failure *f)
{
    struct auth_file *file = NULL;
    if (config->auth_file != NULL && !auth_file_load(config->auth_file, &file, f)) {
        return false;
    }
    char *query = copy_of(config->auth_query);
    if (query == NULL && config->auth_query != NULL) {
        auth_file_free(file);
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    pthread_mutex_lock(&secrets->lock);
    struct auth_file *old_file = secrets->file;
    char *old_query = secrets->query;
    secrets->file = file;
    secrets->query = query;
    pthread_mutex_unlock(&secrets->lock);
    auth_file_free(old_file);
    free(old_query);
    if (file != NULL) {
        log_info("auth_file: %zu users", auth_file_count(file));
    }
    return true;
}

/* --- auth_query --- */

static bool is_stopping(void *arg)
{
    struct secrets *secrets = arg;
    pthread_mutex_lock(&secrets->lock);
    bool stopping = secrets->stopping;
    pthread_mutex_unlock(&secrets->lock);
    return stopping;
}

static PGresult *ask_once(struct secrets *secrets, const char *query, const char *user,
                          struct failure *f)
{
    if (secrets->control == NULL) {
        struct control_target target = {.conninfo = secrets->conninfo,
                                        .impatient = true,
                                        .abort_requested = is_stopping,
                                        .abort_arg = secrets};
        if (!control_open(&target, &secrets->control, f)) {
            return NULL;
        }
    }
    const char *const values[] = {user};
    PGresult *result = control_query(secrets->control, query, 1, values, QUERY_TIMEOUT_MS, f);
    if (result == NULL && control_is_lost(secrets->control)) {
        control_close(secrets->control);
        secrets->control = NULL;
    }
    return result;
}

/* Once more when the connection turns out to be an old one that the server has ended. */
static PGresult *ask(struct secrets *secrets, const char *query, const char *user,
                     struct failure *f)
{
    bool had_one = secrets->control != NULL;
    PGresult *result = ask_once(secrets, query, user, f);
    bool hangs = strcmp(f->sqlstate, "57014") == 0;
    if (result == NULL && had_one && secrets->control == NULL && !hangs) {
        result = ask_once(secrets, query, user, f);
    }
    return result;
}

/* What failed, and for the failure that is most likely what to do. */
static void explain(struct failure *f)
{
    struct failure why = *f;
    bool denied = strcmp(why.sqlstate, "42501") == 0;
    fail(f, why.code, "auth_query: %.300s%s", why.msg,
         denied ? ": the login of `control` needs a function that is SECURITY DEFINER, or to be a "
                  "superuser"
                : "");
}

/* Name and secret, as PgBouncer's auth_query; the caller frees *secret. */
static enum secrets_result query_secret(struct secrets *secrets, const char *query,
                                        const char *user, char **secret, struct failure *f)
{
    enum secrets_result found = SECRETS_FAILED;
    PGresult *result = ask(secrets, query, user, f);
    if (result == NULL) {
        explain(f);
        return SECRETS_FAILED;
    }
    if (PQnfields(result) != 2 || PQntuples(result) > 1) {
        fail(f, EXIT_REFUSED,
             "auth_query gave %d rows of %d columns for user \"%s\"; it must give at "
             "most one row, of the user's name and secret",
             PQntuples(result), PQnfields(result), user);
    } else if (PQntuples(result) == 0) {
        fail(f, EXIT_REFUSED, "auth_query has no row for user \"%s\"", user);
        found = SECRETS_NONE;
    } else if (PQgetisnull(result, 0, 1)) {
        fail(f, EXIT_REFUSED, "auth_query gave no secret for user \"%s\"", user);
        found = SECRETS_NONE;
    } else {
        *secret = strdup(PQgetvalue(result, 0, 1));
        found = SECRETS_FOUND;
        if (*secret == NULL) {
            fail(f, EXIT_REFUSED, "out of memory");
            found = SECRETS_FAILED;
        }
        OPENSSL_cleanse(PQgetvalue(result, 0, 1), (size_t)PQgetlength(result, 0, 1));
    }
    PQclear(result);
    return found;
}

/* --- what kind of secret it is --- */

/* Normalised as RFC 4013 says, by which the server made its secret; as it is where that cannot be.
 */
static bool derive(const char *password, const struct scram_secret *like, struct scram_secret *out)
{
    uint8_t client_key[SCRAM_KEY];
    char *prepared = NULL;
    if (stringprep_profile(password, &prepared, "SASLprep", STRINGPREP_NO_UNASSIGNED) !=
        STRINGPREP_OK) {
        prepared = NULL;
    }
    const char *use = prepared != NULL ? prepared : password;
    bool ok = scram_secret_derive((struct span){use, strlen(use)}, like->salt, like->salt_len,
                                  like->iterations, client_key, out);
    OPENSSL_cleanse(client_key, sizeof client_key);
    if (prepared != NULL) {
        OPENSSL_cleanse(prepared, strlen(prepared));
        free(prepared);
    }
    return ok;
}

static bool is_md5(const char *secret)
{
    return strlen(secret) == 35 && strncmp(secret, "md5", 3) == 0 &&
           strspn(secret + 3, "0123456789abcdef") == 32;
}

/* --- lines of lookups --- */

static void line_join(struct secrets_line *line, struct secrets_lookup *lookup)
{
    lookup->line = line;
    DL_APPEND(line->lookups, lookup);
    pthread_cond_signal(&line->arrived);
}

static void line_leave(struct secrets_lookup *lookup)
{
    DL_DELETE(lookup->line->lookups, lookup);
    lookup->line = NULL;
}

/* The next one, off the line; NULL when it is time to end. Locked. */
static struct secrets_lookup *line_next(struct secrets *secrets, struct secrets_line *line)
{
    while (line->lookups == NULL && !secrets->stopping) {
        pthread_cond_wait(&line->arrived, &secrets->lock);
    }
    if (secrets->stopping) {
        return NULL;
    }
    struct secrets_lookup *lookup = line->lookups;
    line_leave(lookup);
    return lookup;
}

static void answer(struct secrets_lookup *lookup, enum secrets_result result)
{
    lookup->result = result;
    lookup->is_answered = true;
}

/* Locked, by a thread that worked on it. */
static void hand_over(struct secrets_lookup *lookup)
{
    if (lookup->is_forgotten) {
        secrets_lookup_free(lookup);
    } else {
        lookup->done(lookup);
    }
}

/* What auth_file or auth_query has for the user; a password joins the line of those of which a
 * secret is to be made. Locked. */
static void take_secret(struct secrets *secrets, struct secrets_lookup *lookup, const char *secret)
{
    struct failure *f = &lookup->failure;
    if (scram_secret_read((struct span){secret, strlen(secret)}, &lookup->secret)) {
        answer(lookup, SECRETS_FOUND);
    } else if (is_md5(secret) || secret[0] == '\0') {
        fail(f, EXIT_REFUSED, "the secret of user \"%s\" is %s, which cannot answer SCRAM",
             lookup->user, secret[0] == '\0' ? "empty" : "an md5 one");
        answer(lookup, SECRETS_NONE);
    } else if (lookup->like.iterations > SECRETS_ITERATIONS_MAX) {
        fail(f, EXIT_REFUSED,
             "the server asks for %u iterations, and pgsluice makes at most %u of a password: give "
             "auth_file the SCRAM secret itself, from pg_authid",
             lookup->like.iterations, SECRETS_ITERATIONS_MAX);
        answer(lookup, SECRETS_FAILED);
    } else if ((lookup->password = strdup(secret)) == NULL) {
        fail(f, EXIT_REFUSED, "out of memory");
        answer(lookup, SECRETS_FAILED);
    } else {
        line_join(&secrets->deriving, lookup);
    }
}

/* Those who wait would only wait for the same failure, each as long as the one before. Locked. */
static void fail_waiting(struct secrets_line *line, const struct failure *f)
{
    struct secrets_lookup *lookup, *next;
    DL_FOREACH_SAFE(line->lookups, lookup, next)
    {
        line_leave(lookup);
        lookup->failure = *f;
        answer(lookup, SECRETS_FAILED);
        hand_over(lookup);
    }
}

static void leave_unanswered(struct secrets *secrets, struct secrets_lookup *lookup)
{
    if (lookup->is_forgotten) {
        secrets_lookup_free(lookup);
    } else {
        line_join(&secrets->asking, lookup);
    }
}

static void ask_for(struct secrets *secrets, struct secrets_lookup *lookup)
{
    char *query = copy_of(secrets->query);
    char *secret = NULL;
    pthread_mutex_unlock(&secrets->lock);
    enum secrets_result result =
        query_secret(secrets, query != NULL ? query : "", lookup->user, &secret, &lookup->failure);
    free(query);
    pthread_mutex_lock(&secrets->lock);
    if (secrets->stopping || lookup->is_forgotten) {
        free_secret(secret);
        leave_unanswered(secrets, lookup);
        return;
    }
    if (result == SECRETS_FAILED && secrets->control == NULL) {
        fail_waiting(&secrets->asking, &lookup->failure);
    }
    if (result != SECRETS_FOUND) {
        answer(lookup, result);
    } else {
        take_secret(secrets, lookup, secret);
    }
    free_secret(secret);
    if (lookup->is_answered) {
        hand_over(lookup);
    }
}

static void *run_asking(void *arg)
{
    struct secrets *secrets = arg;
    struct secrets_lookup *lookup;
    pthread_mutex_lock(&secrets->lock);
    while ((lookup = line_next(secrets, &secrets->asking)) != NULL) {
        ask_for(secrets, lookup);
    }
    pthread_mutex_unlock(&secrets->lock);
    return NULL;
}

static void derive_for(struct secrets *secrets, struct secrets_lookup *lookup)
{
    pthread_mutex_unlock(&secrets->lock);
    bool ok = derive(lookup->password, &lookup->like, &lookup->secret) ||
              fail(&lookup->failure, EXIT_REFUSED, "out of memory");
    pthread_mutex_lock(&secrets->lock);
    answer(lookup, ok ? SECRETS_FOUND : SECRETS_FAILED);
    hand_over(lookup);
}

static void *run_deriving(void *arg)
{
    struct secrets *secrets = arg;
    struct secrets_lookup *lookup;
    pthread_mutex_lock(&secrets->lock);
    while ((lookup = line_next(secrets, &secrets->deriving)) != NULL) {
        derive_for(secrets, lookup);
    }
    pthread_mutex_unlock(&secrets->lock);
    return NULL;
}

struct secrets_lookup *secrets_find(struct secrets *secrets, const char *user,
                                    const struct scram_secret *like,
                                    void (*done)(struct secrets_lookup *lookup), void *arg,
                                    bool *at_once)
{
    struct secrets_lookup *lookup = calloc(1, sizeof *lookup);
    if (lookup == NULL || (lookup->user = strdup(user)) == NULL) {
        free(lookup);
        free(arg);
        return NULL;
    }
    lookup->arg = arg;
    lookup->done = done;
    lookup->like = *like;
    pthread_mutex_lock(&secrets->lock);
    const char *secret = secrets->file != NULL ? auth_file_find(secrets->file, user) : NULL;
    if (secret != NULL) {
        take_secret(secrets, lookup, secret);
    } else if (secrets->query != NULL) {
        line_join(&secrets->asking, lookup);
    } else {
        fail(&lookup->failure, EXIT_REFUSED, "auth_file has no user \"%s\"", user);
        answer(lookup, SECRETS_NONE);
    }
    *at_once = lookup->is_answered;
    pthread_mutex_unlock(&secrets->lock);
    return lookup;
}

void secrets_lookup_free(struct secrets_lookup *lookup)
{
    if (lookup == NULL) {
        return;
    }
    scram_secret_wipe(&lookup->secret);
    free_secret(lookup->password);
    free(lookup->user);
    free(lookup->arg);
    free(lookup);
}

void secrets_forget(struct secrets *secrets, struct secrets_lookup *lookup)
{
    pthread_mutex_lock(&secrets->lock);
    lookup->is_forgotten = true;
    if (lookup->line != NULL) {
        line_leave(lookup);
        secrets_lookup_free(lookup);
    }
    pthread_mutex_unlock(&secrets->lock);
}

/* --- start and end --- */

static struct secrets *secrets_new(void)
{
    struct secrets *secrets = calloc(1, sizeof *secrets);
    if (secrets != NULL) {
        pthread_mutex_init(&secrets->lock, NULL);
        pthread_cond_init(&secrets->asking.arrived, NULL);
        pthread_cond_init(&secrets->deriving.arrived, NULL);
    }
    return secrets;
}

bool secrets_try(const struct config *config, size_t *users, struct failure *f)
{
    *users = 0;
    struct secrets *secrets = secrets_new();
    if (secrets == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    secrets->conninfo = copy_of(config->control);
    char *secret = NULL;
    bool ok = secrets_reload(secrets, config, f);
    if (ok && secrets->file != NULL) {
        *users = auth_file_count(secrets->file);
    }
    if (ok && secrets->query != NULL) {
        struct failure why; /* also that there is nobody of this name */
        ok = query_secret(secrets, secrets->query, "pgsluice check: nobody", &secret, &why) !=
             SECRETS_FAILED;
        *f = ok ? *f : why;
    }
    free_secret(secret);
    secrets_close(secrets);
    return ok;
}

static bool start(struct secrets *secrets, struct secrets_line *line, void *(*run)(void *arg),
                  struct failure *f)
{
    line->has_thread = pthread_create(&line->thread, NULL, run, secrets) == 0;
    return line->has_thread || fail(f, EXIT_REFUSED, "cannot start a thread");
}

bool secrets_open(const struct config *config, struct secrets **out, struct failure *f)
{
    *out = NULL;
    if (!config_has_secrets(config)) {
        return true;
    }
    struct secrets *secrets = secrets_new();
    if (secrets == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    secrets->conninfo = copy_of(config->control);
    if (!secrets_reload(secrets, config, f) || !start(secrets, &secrets->asking, run_asking, f) ||
        !start(secrets, &secrets->deriving, run_deriving, f)) {
        secrets_close(secrets);
        return false;
    }
    *out = secrets;
    return true;
}

static void line_end(struct secrets_line *line)
{
    pthread_cond_signal(&line->arrived);
    if (line->has_thread) {
        pthread_join(line->thread, NULL);
        line->has_thread = false;
    }
}

void secrets_stop(struct secrets *secrets)
{
    if (secrets == NULL) {
        return;
    }
    pthread_mutex_lock(&secrets->lock);
    secrets->stopping = true;
    pthread_mutex_unlock(&secrets->lock);
    line_end(&secrets->asking);
    line_end(&secrets->deriving);
}

void secrets_close(struct secrets *secrets)
{
    if (secrets == NULL) {
        return;
    }
    secrets_stop(secrets);
    control_close(secrets->control);
    auth_file_free(secrets->file);
    free(secrets->query);
    free(secrets->conninfo);
    pthread_cond_destroy(&secrets->asking.arrived);
    pthread_cond_destroy(&secrets->deriving.arrived);
    pthread_mutex_destroy(&secrets->lock);
    free(secrets);
}

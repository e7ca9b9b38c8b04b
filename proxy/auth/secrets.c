/* Looks secrets up in auth_file and by auth_query; see secrets.h. */
#include "proxy/auth/secrets.h"

#include <openssl/crypto.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <stringprep.h>

#include "proxy/auth/auth_file.h"
#include "proxy/control.h"
#include "proxy/log.h"

#define QUERY_TIMEOUT_MS 5000u

struct secrets {
    pthread_mutex_t lock; /* the file and the query; never held for long */
    struct auth_file *file;
    char *query;
    pthread_mutex_t asking; /* the connection; held while the server is asked */
    struct control *control;
    char *conninfo;
    atomic_bool stopping;
};

static char *copy_of(const char *text)
{
    return text != NULL ? strdup(text) : NULL;
}

bool secrets_reload(struct secrets *secrets, const struct config *config, struct failure *f)
{
    struct auth_file *file = NULL;
    if (config->auth_file != NULL && !auth_file_load(config->auth_file, &file, f)) {
        return false;
    }
    char *query = copy_of(config->auth_query);
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

bool secrets_open(const struct config *config, struct secrets **out, struct failure *f)
{
    *out = NULL;
    if (!config_has_secrets(config)) {
        return true;
    }
    struct secrets *secrets = calloc(1, sizeof *secrets);
    if (secrets == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    pthread_mutex_init(&secrets->lock, NULL);
    pthread_mutex_init(&secrets->asking, NULL);
    secrets->conninfo = copy_of(config->control);
    if (!secrets_reload(secrets, config, f)) {
        secrets_close(secrets);
        return false;
    }
    *out = secrets;
    return true;
}

void secrets_stop(struct secrets *secrets)
{
    if (secrets != NULL) {
        atomic_store(&secrets->stopping, true);
    }
}

static bool is_stopping(void *arg)
{
    const struct secrets *secrets = arg;
    return atomic_load(&secrets->stopping);
}

void secrets_close(struct secrets *secrets)
{
    if (secrets == NULL) {
        return;
    }
    control_close(secrets->control);
    auth_file_free(secrets->file);
    free(secrets->query);
    free(secrets->conninfo);
    pthread_mutex_destroy(&secrets->lock);
    pthread_mutex_destroy(&secrets->asking);
    free(secrets);
}

/* --- auth_query --- */

static PGresult *ask_once(struct secrets *secrets, const char *query, const char *user,
                          struct failure *f)
{
    if (secrets->control == NULL) {
        struct control_target target = {
            .conninfo = secrets->conninfo, .abort_requested = is_stopping, .abort_arg = secrets};
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
    pthread_mutex_lock(&secrets->asking);
    bool had_one = secrets->control != NULL;
    PGresult *result = ask_once(secrets, query, user, f);
    if (result == NULL && had_one && secrets->control == NULL) {
        result = ask_once(secrets, query, user, f);
    }
    pthread_mutex_unlock(&secrets->asking);
    return result;
}

/* Name and secret, as PgBouncer's auth_query; the caller frees *secret. */
static enum secrets_result query_secret(struct secrets *secrets, const char *query,
                                        const char *user, char **secret, struct failure *f)
{
    enum secrets_result found = SECRETS_FAILED;
    PGresult *result = ask(secrets, query, user, f);
    if (result == NULL) {
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
        found = *secret != NULL ? SECRETS_FOUND : SECRETS_FAILED;
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

static enum secrets_result use(const char *secret, const char *user,
                               const struct scram_secret *like, struct scram_secret *out,
                               struct failure *f)
{
    if (scram_secret_read((struct span){secret, strlen(secret)}, out)) {
        return SECRETS_FOUND;
    }
    if (is_md5(secret) || secret[0] == '\0') {
        fail(f, EXIT_REFUSED, "the secret of user \"%s\" is %s, which cannot answer SCRAM", user,
             secret[0] == '\0' ? "empty" : "an md5 one");
        return SECRETS_NONE;
    }
    if (!derive(secret, like, out)) {
        fail(f, EXIT_REFUSED, "out of memory");
        return SECRETS_FAILED;
    }
    return SECRETS_FOUND;
}

enum secrets_result secrets_find(struct secrets *secrets, const char *user,
                                 const struct scram_secret *like, struct scram_secret *out,
                                 struct failure *f)
{
    pthread_mutex_lock(&secrets->lock);
    char *secret = copy_of(secrets->file != NULL ? auth_file_find(secrets->file, user) : NULL);
    char *query = secret == NULL ? copy_of(secrets->query) : NULL;
    pthread_mutex_unlock(&secrets->lock);

    enum secrets_result result = SECRETS_FOUND;
    if (query != NULL) {
        result = query_secret(secrets, query, user, &secret, f);
    } else if (secret == NULL) {
        fail(f, EXIT_REFUSED, "auth_file has no user \"%s\"", user);
        result = SECRETS_NONE;
    }
    if (result == SECRETS_FOUND) {
        result = use(secret, user, like, out, f);
    }
    if (secret != NULL) {
        OPENSSL_cleanse(secret, strlen(secret));
        free(secret);
    }
    free(query);
    return result;
}

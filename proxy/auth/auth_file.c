/* Reads auth_file into a hash; see auth_file.h. */
#include "proxy/auth/auth_file.h"

#include <ctype.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "proxy/log.h"

struct entry {
    UT_hash_handle hh;
    char *name, *secret;
};

struct auth_file {
    struct entry *entries;
};

static void entry_free(struct entry *entry)
{
    free(entry->name);
    if (entry->secret != NULL) {
        OPENSSL_cleanse(entry->secret, strlen(entry->secret));
        free(entry->secret);
    }
    free(entry);
}

void auth_file_free(struct auth_file *file)
{
    struct entry *entry, *next;
    if (file == NULL) {
        return;
    }
    HASH_ITER(hh, file->entries, entry, next)
    {
        HASH_DEL(file->entries, entry);
        entry_free(entry);
    }
    free(file);
}

const char *auth_file_find(const struct auth_file *file, const char *user)
{
    struct entry *entry;
    HASH_FIND_STR(file->entries, user, entry);
    return entry != NULL ? entry->secret : NULL;
}

size_t auth_file_count(const struct auth_file *file)
{
    return HASH_COUNT(file->entries);
}

/* Takes a quoted word off the front of *line, which it overwrites; NULL when there is none. */
static char *take_word(char **line)
{
    char *from = *line + strspn(*line, " \t");
    if (*from != '"') {
        return NULL;
    }
    char *word = ++from;
    for (char *to = word;; from++) {
        if (*from == '"' && from[1] == '"') {
            from++;
        } else if (*from == '"') {
            *to = '\0';
            *line = from + 1;
            return word;
        }
        if (*from == '\0') {
            return NULL;
        }
        *to++ = *from;
    }
}

static bool add(struct auth_file *file, const char *name, const char *secret)
{
    struct entry *entry = calloc(1, sizeof *entry);
    if (entry != NULL) {
        entry->name = strdup(name);
        entry->secret = strdup(secret);
        if (entry->name != NULL && entry->secret != NULL) {
            HASH_ADD_KEYPTR(hh, file->entries, entry->name, strlen(entry->name), entry);
            if (entry->hh.tbl != NULL) {
                return true;
            }
        }
        entry_free(entry);
    }
    return false;
}

static bool read_line(struct auth_file *file, char *line, const char *path, int number,
                      struct failure *f)
{
    line[strcspn(line, "\r\n")] = '\0';
    char *rest = line + strspn(line, " \t");
    if (*rest == '\0' || *rest == ';' || *rest == '#') {
        return true;
    }
    const char *name = take_word(&rest);
    const char *secret = name != NULL ? take_word(&rest) : NULL;
    if (secret == NULL) {
        return fail(f, EXIT_USAGE, "auth_file: %s:%d: not a line of the form \"user\" \"secret\"",
                    path, number);
    }
    if (auth_file_find(file, name) != NULL) {
        return fail(f, EXIT_USAGE, "auth_file: %s:%d: user \"%.64s\" is there twice", path, number,
                    name);
    }
    return add(file, name, secret) || fail(f, EXIT_REFUSED, "out of memory");
}

/* Passwords that anybody on the machine can read are worth a word, not a refusal. */
static void look_at_mode(FILE *stream, const char *path)
{
    struct stat st;
    if (fstat(fileno(stream), &st) == 0 && (st.st_mode & S_IROTH) != 0) {
        log_warning("auth_file: %s can be read by everybody: chmod 0600 it", path);
    }
}

bool auth_file_load(const char *path, struct auth_file **out, struct failure *f)
{
    *out = NULL;
    FILE *stream = fopen(path, "re");
    if (stream == NULL) {
        return fail(f, EXIT_USAGE, "auth_file: %s: %s", path, strerror(errno));
    }
    look_at_mode(stream, path);
    struct auth_file *file = calloc(1, sizeof *file);
    bool ok = file != NULL || fail(f, EXIT_REFUSED, "out of memory");
    char *line = NULL;
    size_t size = 0;
    errno = 0;
    for (int number = 1; ok && getline(&line, &size, stream) >= 0; number++) {
        ok = read_line(file, line, path, number, f);
    }
    if (ok && !feof(stream)) { /* an error, or no memory */
        ok = fail(f, EXIT_USAGE, "auth_file: %s: %s", path, strerror(errno));
    }
    if (line != NULL) {
        OPENSSL_cleanse(line, size);
        free(line);
    }
    fclose(stream);
    if (!ok) {
        auth_file_free(file);
        return false;
    }
    *out = file;
    return true;
}

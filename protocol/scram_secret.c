/* The keys of SCRAM and what PostgreSQL keeps of them; see scram.h and scram_keys.h. */
#include "protocol/scram_keys.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>

void base64_write(char *out, const uint8_t *bytes, size_t len)
{
    EVP_EncodeBlock((unsigned char *)out, bytes, (int)len);
}

static bool base64_digit(char c, uint32_t *value)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = memchr(digits, c, sizeof digits - 1);
    *value = at == NULL ? 0 : (uint32_t)(at - digits);
    return at != NULL;
}

bool base64_read(struct span text, uint8_t *out, size_t cap, size_t *len)
{
    uint32_t group = 0;
    unsigned digits = 0;
    unsigned whole = 3; /* bytes in a group; fewer from the first "=" on */
    *len = 0;
    for (size_t i = 0; i < text.len; i++) {
        uint32_t value = 0;
        if (text.ptr[i] == '=') {
            if (whole == 3 && digits < 2) {
                return false;
            }
            whole = whole == 3 ? digits - 1 : whole;
        } else if (!base64_digit(text.ptr[i], &value)) {
            return false;
        }
        group = group << 6 | value;
        if (++digits < 4) {
            continue;
        }
        if (whole > cap - *len) {
            return false;
        }
        const uint8_t bytes[3] = {(uint8_t)(group >> 16), (uint8_t)(group >> 8), (uint8_t)group};
        memcpy(out + *len, bytes, whole);
        *len += whole;
        group = 0;
        digits = 0;
    }
    return digits == 0;
}

bool scram_iterations_read(struct span text, uint32_t *out)
{
    char digits[32] = "";
    char *end = NULL;
    if (text.len >= sizeof digits) {
        return false;
    }
    if (text.len > 0) {
        memcpy(digits, text.ptr, text.len);
    }
    errno = 0;
    long value = strtol(digits, &end, 10);
    *out = 0;
    if (end != digits + text.len || errno != 0 || value < 1 || value > INT_MAX) {
        return false;
    }
    *out = (uint32_t)value;
    return true;
}

bool scram_hmac(const uint8_t key[SCRAM_KEY], struct span text, uint8_t out[SCRAM_KEY])
{
    const unsigned char *bytes = (const unsigned char *)text.ptr;
    return HMAC(EVP_sha256(), key, SCRAM_KEY, bytes, text.len, out, NULL) != NULL;
}

bool scram_hash(const uint8_t key[SCRAM_KEY], uint8_t out[SCRAM_KEY])
{
    return SHA256(key, SCRAM_KEY, out) != NULL;
}

/* The part up to `mark`, which is taken off `rest`; false when there is no mark. */
static bool take_until(struct span *rest, char mark, struct span *part)
{
    const char *at = rest->len == 0 ? NULL : memchr(rest->ptr, mark, rest->len);
    if (at == NULL) {
        return false;
    }
    *part = (struct span){.ptr = rest->ptr, .len = (size_t)(at - rest->ptr)};
    rest->ptr = at + 1;
    rest->len -= part->len + 1;
    return true;
}

static bool read_key(struct span text, uint8_t out[SCRAM_KEY])
{
    size_t len;
    return base64_read(text, out, SCRAM_KEY, &len) && len == SCRAM_KEY;
}

static bool read_secret(struct span rest, struct scram_secret *out)
{
    struct span scheme, iterations, salt, stored_key;
    return take_until(&rest, '$', &scheme) && take_until(&rest, ':', &iterations) &&
           take_until(&rest, '$', &salt) && take_until(&rest, ':', &stored_key) &&
           scheme.len == strlen(SCRAM_SHA_256) &&
           memcmp(scheme.ptr, SCRAM_SHA_256, scheme.len) == 0 &&
           scram_iterations_read(iterations, &out->iterations) &&
           base64_read(salt, out->salt, sizeof out->salt, &out->salt_len) &&
           read_key(stored_key, out->stored_key) && read_key(rest, out->server_key);
}

bool scram_secret_read(struct span text, struct scram_secret *out)
{
    *out = (struct scram_secret){0};
    if (!read_secret(text, out)) {
        scram_secret_wipe(out);
        return false;
    }
    return true;
}

bool scram_secret_derive(struct span password, const uint8_t *salt, size_t salt_len,
                         uint32_t iterations, uint8_t client_key[SCRAM_KEY],
                         struct scram_secret *out)
{
    static const struct span client_label = {.ptr = "Client Key", .len = 10};
    static const struct span server_label = {.ptr = "Server Key", .len = 10};
    uint8_t salted[SCRAM_KEY];
    *out = (struct scram_secret){.iterations = iterations, .salt_len = salt_len};
    if (salt_len > SCRAM_SALT_MAX || iterations < 1 || iterations > INT_MAX ||
        password.len > INT_MAX) {
        return false;
    }
    if (salt_len > 0) {
        memcpy(out->salt, salt, salt_len);
    }
    bool is_derived =
        PKCS5_PBKDF2_HMAC(password.len > 0 ? password.ptr : "", (int)password.len, out->salt,
                          (int)salt_len, (int)iterations, EVP_sha256(), SCRAM_KEY, salted) == 1 &&
        scram_hmac(salted, client_label, client_key) && scram_hash(client_key, out->stored_key) &&
        scram_hmac(salted, server_label, out->server_key);
    OPENSSL_cleanse(salted, sizeof salted);
    if (!is_derived) {
        OPENSSL_cleanse(client_key, SCRAM_KEY);
        scram_secret_wipe(out);
    }
    return is_derived;
}

void scram_secret_wipe(struct scram_secret *secret)
{
    OPENSSL_cleanse(secret, sizeof *secret);
}

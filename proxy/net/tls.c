/* OpenSSL contexts and non-blocking reads and writes; see tls.h. */
#include "proxy/net/tls.h"

#include <limits.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>

/* OpenSSL reads ahead into a buffer of this size: with one read(2) the four largest records, which
 * are as much as the worker's buffer takes. */
#define READ_AHEAD ((size_t)4 * SSL3_RT_MAX_ENCRYPTED_LENGTH)

static const unsigned char alpn_postgresql[] = "\012postgresql";

void tls_error(char *room, size_t size)
{
    unsigned long code = ERR_get_error();
    const char *reason = code == 0                ? NULL
                         : ERR_SYSTEM_ERROR(code) ? strerror(ERR_GET_REASON(code))
                                                  : ERR_reason_error_string(code);
    snprintf(room, size, "%s", reason != NULL ? reason : "the connection was closed");
    ERR_clear_error();
}

void tls_handshake_error(const SSL *tls, char *room, size_t size)
{
    tls_error(room, size);
    long verified = SSL_get_verify_result(tls);
    if (verified != X509_V_OK) {
        snprintf(room, size, "certificate verify failed: %s",
                 X509_verify_cert_error_string(verified));
    }
}

/* A client that offers protocols must offer ours (as PostgreSQL 17); one that offers none may pass.
 */
static int on_alpn(SSL *tls, const unsigned char **out, unsigned char *out_len,
                   const unsigned char *in, unsigned in_len, void *arg)
{
    (void)tls;
    (void)arg;
    unsigned char *selected = NULL;
    int rc = SSL_select_next_proto(&selected, out_len, alpn_postgresql, sizeof alpn_postgresql - 1,
                                   in, in_len);
    *out = selected;
    return rc == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static bool fail_tls(struct failure *f, const char *key, const char *value)
{
    char why[256];
    tls_error(why, sizeof why);
    return fail(f, EXIT_USAGE, "%s: %s: %s", key, value, why);
}

static bool load_keys(SSL_CTX *context, const struct config_client_tls *settings, struct failure *f)
{
    if (SSL_CTX_use_certificate_chain_file(context, settings->cert) != 1) {
        return fail_tls(f, "client_tls_cert", settings->cert);
    }
    if (SSL_CTX_use_PrivateKey_file(context, settings->key, SSL_FILETYPE_PEM) != 1) {
        return fail_tls(f, "client_tls_key", settings->key);
    }
    if (SSL_CTX_check_private_key(context) != 1) {
        return fail_tls(f, "client_tls_key", settings->key);
    }
    return true;
}

static bool load_trust(SSL_CTX *context, const struct config_client_tls *settings,
                       struct failure *f)
{
    if (settings->ca == NULL) {
        return true;
    }
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(settings->ca);
    if (names == NULL || SSL_CTX_load_verify_locations(context, settings->ca, NULL) != 1) {
        return fail_tls(f, "client_tls_ca", settings->ca);
    }
    SSL_CTX_set_client_CA_list(context, names);
    bool demanded = settings->mode >= CLIENT_TLS_VERIFY_CA;
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | (demanded ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0),
                       NULL);
    if (settings->crl != NULL) {
        X509_STORE *store = SSL_CTX_get_cert_store(context);
        if (X509_STORE_load_locations(store, settings->crl, NULL) != 1) {
            return fail_tls(f, "client_tls_crl", settings->crl);
        }
        X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
    }
    return true;
}

/* What both directions have in common. */
static void set_up_io(SSL_CTX *context)
{
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                     SSL_OP_IGNORE_UNEXPECTED_EOF | SSL_OP_NO_TICKET);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, READ_AHEAD);
}

static bool set_up(SSL_CTX *context, const struct config_client_tls *settings, struct failure *f)
{
    set_up_io(context);
    SSL_CTX_set_min_proto_version(context, settings->min_version);
    SSL_CTX_set_alpn_select_cb(context, on_alpn, NULL);
    if (settings->ciphers != NULL && SSL_CTX_set_cipher_list(context, settings->ciphers) != 1) {
        return fail_tls(f, "client_tls_ciphers", settings->ciphers);
    }
    return load_keys(context, settings, f) && load_trust(context, settings, f);
}

bool tls_accept_context(const struct config_client_tls *settings, SSL_CTX **out, struct failure *f)
{
    *out = NULL;
    if (settings->mode == CLIENT_TLS_DISABLE) {
        return true;
    }
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    if (context == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    if (!set_up(context, settings, f)) {
        SSL_CTX_free(context);
        return false;
    }
    *out = context;
    return true;
}

static int version_of(const char *name)
{
    return name != NULL && strcmp(name, "TLSv1.3") == 0 ? TLS1_3_VERSION : TLS1_2_VERSION;
}

static bool load_connect(SSL_CTX *context, const struct tls_connect_settings *settings,
                         struct failure *f)
{
    if (settings->root_cert != NULL &&
        SSL_CTX_load_verify_locations(context, settings->root_cert, NULL) != 1) {
        return fail_tls(f, "server: sslrootcert", settings->root_cert);
    }
    if (settings->cert != NULL &&
        SSL_CTX_use_certificate_chain_file(context, settings->cert) != 1) {
        return fail_tls(f, "server: sslcert", settings->cert);
    }
    if (settings->key != NULL &&
        SSL_CTX_use_PrivateKey_file(context, settings->key, SSL_FILETYPE_PEM) != 1) {
        return fail_tls(f, "server: sslkey", settings->key);
    }
    if (settings->crl != NULL) {
        X509_STORE *store = SSL_CTX_get_cert_store(context);
        if (X509_STORE_load_locations(store, settings->crl, NULL) != 1) {
            return fail_tls(f, "server: sslcrl", settings->crl);
        }
        X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
    }
    return true;
}

bool tls_connect_context(const struct tls_connect_settings *settings, SSL_CTX **out,
                         struct failure *f)
{
    *out = NULL;
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (context == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    set_up_io(context);
    SSL_CTX_set_min_proto_version(context, version_of(settings->min_version));
    SSL_CTX_set_verify(context, settings->verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    /* zero is success for this one */
    if (SSL_CTX_set_alpn_protos(context, alpn_postgresql, sizeof alpn_postgresql - 1) != 0 ||
        !load_connect(context, settings, f)) {
        SSL_CTX_free(context);
        return false;
    }
    *out = context;
    return true;
}

/* SNI carries names only; a certificate is checked for a name or for an address. */
static bool expect_host(SSL *tls, const char *host, bool verify_host)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(tls);
    bool is_address = X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1;
    if (is_address && !verify_host) {
        X509_VERIFY_PARAM_set1_ip(param, NULL, 0);
    }
    if (!is_address && SSL_set_tlsext_host_name(tls, host) != 1) {
        return false;
    }
    return is_address || !verify_host || SSL_set1_host(tls, host) == 1;
}

SSL *tls_connect(SSL_CTX *context, int fd, const char *host, bool verify_host)
{
    SSL *tls = SSL_new(context);
    if (tls != NULL && (SSL_set_fd(tls, fd) != 1 || !expect_host(tls, host, verify_host))) {
        SSL_free(tls);
        return NULL;
    }
    if (tls != NULL) {
        SSL_set_connect_state(tls);
    }
    return tls;
}

SSL *tls_accept(SSL_CTX *context, int fd)
{
    SSL *tls = SSL_new(context);
    if (tls != NULL && SSL_set_fd(tls, fd) != 1) {
        SSL_free(tls);
        return NULL;
    }
    if (tls != NULL) {
        SSL_set_accept_state(tls);
    }
    return tls;
}

static enum tls_result result_of(const SSL *tls, int rc)
{
    switch (SSL_get_error(tls, rc)) {
    case SSL_ERROR_NONE:
        return TLS_OK;
    case SSL_ERROR_WANT_READ:
        return TLS_WANT_READ;
    case SSL_ERROR_WANT_WRITE:
        return TLS_WANT_WRITE;
    case SSL_ERROR_ZERO_RETURN:
        return TLS_EOF;
    default:
        return TLS_BROKEN;
    }
}

enum tls_result tls_handshake(SSL *tls)
{
    ERR_clear_error();
    return result_of(tls, SSL_do_handshake(tls));
}

enum tls_result tls_recv(SSL *tls, uint8_t *room, size_t len, size_t *received)
{
    enum tls_result result;
    size_t n;
    *received = 0;
    ERR_clear_error();
    /* after a short record with nothing behind it, one more call would ask the socket in vain */
    do {
        n = 0;
        result = result_of(tls, SSL_read_ex(tls, room + *received, len - *received, &n));
        *received += n;
    } while (result == TLS_OK && *received < len &&
             (n == SSL3_RT_MAX_PLAIN_LENGTH || SSL_has_pending(tls) == 1));
    return *received > 0 ? TLS_OK : result;
}

enum tls_result tls_send(SSL *tls, const uint8_t *bytes, size_t len, size_t *sent)
{
    *sent = 0;
    ERR_clear_error();
    return result_of(tls, SSL_write_ex(tls, bytes, len, sent));
}

bool tls_has_alpn(const SSL *tls)
{
    const unsigned char *name;
    unsigned len;
    SSL_get0_alpn_selected(tls, &name, &len);
    return len == sizeof alpn_postgresql - 2 && memcmp(name, alpn_postgresql + 1, len) == 0;
}

void tls_peer(const SSL *tls, char *subject, size_t subject_size, char *name, size_t name_size)
{
    subject[0] = name[0] = '\0';
    X509 *certificate = SSL_get0_peer_certificate(tls);
    if (certificate == NULL) {
        return;
    }
    const X509_NAME *of = X509_get_subject_name(certificate);
    BIO *text = BIO_new(BIO_s_mem());
    if (text != NULL && X509_NAME_print_ex(text, of, 0, XN_FLAG_RFC2253) >= 0) {
        int n = BIO_read(text, subject, (int)(subject_size - 1));
        subject[n > 0 ? n : 0] = '\0';
    }
    BIO_free(text);
    if (X509_NAME_get_text_by_NID(of, NID_commonName, name, (int)name_size) < 0) {
        name[0] = '\0';
    }
}

/* By the hash of the certificate's own signature, but never by a weaker one than SHA-256. */
static size_t hash_of(X509 *certificate, uint8_t hash[64])
{
    int digest;
    unsigned len = 0;
    if (certificate == NULL ||
        X509_get_signature_info(certificate, &digest, NULL, NULL, NULL) != 1 ||
        digest == NID_undef) {
        ERR_clear_error();
        return 0;
    }
    const EVP_MD *by =
        digest == NID_md5 || digest == NID_sha1 ? EVP_sha256() : EVP_get_digestbynid(digest);
    if (by == NULL || EVP_MD_get_size(by) > 64 || X509_digest(certificate, by, hash, &len) != 1) {
        ERR_clear_error();
        return 0;
    }
    return len;
}

size_t tls_peer_hash(const SSL *tls, uint8_t hash[64])
{
    return hash_of(SSL_get0_peer_certificate(tls), hash);
}

size_t tls_own_hash(const SSL *tls, uint8_t hash[64])
{
    return hash_of(SSL_get_certificate(tls), hash);
}

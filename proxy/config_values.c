/* Parses single values of the configuration; see config_values.h. */
#include "proxy/config_values.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>

#define IDENTIFIER_MAX 63 /* NAMEDATALEN - 1 */
#define SUGGESTION_MAX 40

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit duration_units[] = {
    {"ms", 1}, {"s", 1000}, {"min", 60 * 1000}, {"h", 3600 * 1000}, {"d", 24 * 3600 * 1000},
};
static const struct unit size_units[] = {
    {"B", 1},
    {"kB", 1024},
    {"MB", 1024 * 1024},
    {"GB", 1024 * 1024 * 1024},
};

static bool because(struct value_why *why, const char *fmt, ...) PRINTF_LIKE(2, 3);

static bool because(struct value_why *why, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(why->text, sizeof why->text, fmt, args);
    va_end(args);
    return false;
}

bool value_number(const char *text, uint64_t least, uint64_t most, uint64_t *out,
                  struct value_why *why)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end != '\0' || errno != 0 || number < least ||
        number > most) {
        return because(why, "is not a whole number from %llu to %llu", (unsigned long long)least,
                       (unsigned long long)most);
    }
    *out = number;
    return true;
}

/* The bounds of a message in the largest unit that divides them. */
static void with_unit(char *out, size_t room, uint64_t number, const struct unit *units,
                      size_t count)
{
    size_t best = 0;
    for (size_t i = 1; i < count && number > 0; i++) {
        if (number % units[i].factor == 0) {
            best = i;
        }
    }
    snprintf(out, room, "%llu%s", (unsigned long long)(number / units[best].factor),
             number == 0 ? "" : units[best].name);
}

static bool scaled(const char *text, const struct unit *units, size_t count, uint64_t plain_factor,
                   double *out)
{
    char *end;
    errno = 0;
    double number = strtod(text, &end);
    /* strtod also takes signs, "inf" and hexadecimal, which nobody means here */
    size_t digits = strspn(text, "0123456789.");
    if (!isdigit((unsigned char)text[0]) || errno != 0 || end != text + digits) {
        return false;
    }
    end += strspn(end, " \t");
    uint64_t factor = plain_factor;
    if (*end != '\0') {
        factor = 0;
        for (size_t i = 0; i < count; i++) {
            if (strcmp(end, units[i].name) == 0) {
                factor = units[i].factor;
            }
        }
    }
    *out = number * (double)factor;
    return factor > 0;
}

bool value_duration(const char *text, uint64_t least_ms, uint64_t most_ms, uint64_t *out_ms,
                    struct value_why *why)
{
    const size_t count = sizeof duration_units / sizeof duration_units[0];
    double ms;
    if (!scaled(text, duration_units, count, 1000, &ms) || ms < (double)least_ms ||
        ms > (double)most_ms) {
        char low[32];
        char high[32];
        with_unit(low, sizeof low, least_ms, duration_units, count);
        with_unit(high, sizeof high, most_ms, duration_units, count);
        return because(why,
                       "is not a duration from %s to %s (units: ms, s, min, h, d; plain: seconds)",
                       low, high);
    }
    *out_ms = (uint64_t)ceil(ms); /* upwards, so that a small one does not become "off" */
    return true;
}

bool value_size(const char *text, uint64_t least, uint64_t most, uint64_t *out,
                struct value_why *why)
{
    const size_t count = sizeof size_units / sizeof size_units[0];
    double bytes;
    if (!scaled(text, size_units, count, 1, &bytes) || bytes < (double)least ||
        bytes > (double)most) {
        char low[32];
        char high[32];
        with_unit(low, sizeof low, least, size_units, count);
        with_unit(high, sizeof high, most, size_units, count);
        return because(why, "is not a size from %s to %s (units: B, kB, MB, GB; plain: bytes)", low,
                       high);
    }
    *out = (uint64_t)bytes;
    return true;
}

bool value_word(const char *text, const char *const *words, size_t count, size_t *out,
                struct value_why *why)
{
    for (size_t i = 0; i < count; i++) {
        if (strcasecmp(text, words[i]) == 0) {
            *out = i;
            return true;
        }
    }
    because(why, "is not one of ");
    for (size_t i = 0; i < count; i++) {
        size_t len = strlen(why->text);
        snprintf(why->text + len, sizeof why->text - len, "%s%s", i > 0 ? ", " : "", words[i]);
    }
    return false;
}

static bool unix_address(const char *path, struct config_address *address, struct value_why *why)
{
    size_t longest = sizeof((struct sockaddr_un *)NULL)->sun_path - 1;
    if ((path[0] != '/' && path[0] != '@') || path[1] == '\0') {
        return because(why, "is neither an absolute path nor @name");
    }
    if (strlen(path) > longest) {
        return because(why, "is longer than the %zu bytes that a socket's path may have", longest);
    }
    address->is_unix = true;
    address->port = 0;
    address->host = strdup(path);
    return address->host != NULL || because(why, "does not fit: out of memory");
}

static bool is_host(const char *host, bool bracketed)
{
    unsigned char binary[16];
    if (bracketed) {
        return inet_pton(AF_INET6, host, binary) == 1;
    }
    return host[0] != '\0' &&
           host[strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                             "0123456789.-_*")] == '\0' &&
           (strchr(host, '*') == NULL || strcmp(host, "*") == 0);
}

bool value_address(const char *text, struct config_address *address, struct value_why *why)
{
    static const char scheme[] = "unix:";
    if (strncmp(text, scheme, sizeof scheme - 1) == 0) {
        return unix_address(text + sizeof scheme - 1, address, why);
    }

    const char *colon = strrchr(text, ':');
    bool bracketed = text[0] == '[';
    if (colon == NULL || colon == text || (bracketed && colon[-1] != ']')) {
        return because(why, "is not an address: host:port, [::1]:port, *:port or unix:/path");
    }
    uint64_t port;
    if (!value_number(colon + 1, 1, UINT16_MAX, &port, why)) {
        return because(why, "has no port from 1 to %d", UINT16_MAX);
    }
    const char *from = bracketed ? text + 1 : text;
    char *host = strndup(from, (size_t)(colon - from) - (bracketed ? 1 : 0));
    if (host == NULL) {
        return because(why, "does not fit: out of memory");
    }
    if (!is_host(host, bracketed)) {
        free(host);
        return because(why, "is not an address: host:port, [::1]:port, *:port or unix:/path");
    }
    address->is_unix = false;
    address->host = host;
    address->port = (uint16_t)port;
    return true;
}

/* Whether every bit behind the network's own is zero. */
static bool is_network(const struct config_network *network, unsigned width)
{
    for (unsigned bit = network->bits; bit < width; bit++) {
        if ((network->address[bit / 8] & 0x80u >> bit % 8) != 0) {
            return false;
        }
    }
    return true;
}

bool value_mode(const char *text, unsigned *out, struct value_why *why)
{
    size_t digits = strspn(text, "01234567");
    unsigned long mode = strtoul(text, NULL, 8);
    if (digits == 0 || digits > 4 || text[digits] != '\0' || mode > 0777) {
        return because(why, "is not a file mode from 0000 to 0777");
    }
    *out = (unsigned)mode;
    return true;
}

bool value_network(const char *text, struct config_network *out, struct value_why *why)
{
    char address[64];
    *out = (struct config_network){.family = AF_UNIX};
    if (strcmp(text, "unix") == 0) {
        return true;
    }
    size_t len = strcspn(text, "/");
    bool ok = len < sizeof address;
    if (ok) {
        memcpy(address, text, len);
        address[len] = '\0';
        out->family = strchr(address, ':') != NULL ? AF_INET6 : AF_INET;
        ok = inet_pton(out->family, address, out->address) == 1;
    }
    if (!ok) {
        return because(
            why, "names %s, which is no network: 10.0.0.0/8, fd00::/8, an address, or unix", text);
    }
    unsigned width = out->family == AF_INET6 ? 128 : 32;
    uint64_t bits = width;
    if (text[len] == '/' && !value_number(text + len + 1, 0, width, &bits, why)) {
        return because(why, "names %s, which has no number of bits from 0 to %u behind its /", text,
                       width);
    }
    out->bits = (unsigned)bits;
    return is_network(out, width) ||
           because(why, "names %s, which has bits set behind the first %u", text, out->bits);
}

static bool is_identifier_start(unsigned char c)
{
    return isalpha(c) || c == '_' || c >= 0x80;
}

/* Reads one identifier at *cursor into `out` (IDENTIFIER_MAX + 1 bytes) and moves the cursor behind
 * it. */
static bool read_identifier(const char **cursor, char *out, struct value_why *why)
{
    const char *c = *cursor;
    size_t len = 0;
    bool quoted = *c == '"';
    bool closed = false;

    if (!quoted && !is_identifier_start((unsigned char)*c)) {
        return because(why, "is not an SQL name (quote it with \"\" if it is meant so)");
    }
    for (c += quoted ? 1 : 0; *c != '\0'; c++) {
        unsigned char byte = (unsigned char)*c;
        if (quoted && byte == '"' && *++c != '"') {
            closed = true;
            break;
        }
        if (!quoted && !is_identifier_start(byte) && !isdigit(byte) && byte != '$') {
            break;
        }
        if (len == IDENTIFIER_MAX) {
            return because(why, "is longer than the %d bytes of an SQL name", IDENTIFIER_MAX);
        }
        /* downcase_identifier() of the server leaves non-ASCII bytes alone in UTF-8 */
        out[len++] = (char)(quoted || byte >= 0x80 ? byte : (unsigned char)tolower(byte));
    }
    if (quoted && (!closed || len == 0)) {
        return because(why, closed ? "is an empty SQL name" : "has a quote that does not end");
    }
    out[len] = '\0';
    *cursor = c;
    return true;
}

bool value_identifier(const char *text, char **schema, char **name, struct value_why *why)
{
    char parts[2][IDENTIFIER_MAX + 1];
    size_t count = 0;
    const char *cursor = text;

    do {
        cursor += count > 0 ? 1 : 0; /* the dot */
        cursor += strspn(cursor, " \t");
        if (count == 2 || (count == 1 && schema == NULL)) {
            return because(why, schema == NULL ? "is not a single SQL name"
                                               : "has more parts than schema.table");
        }
        if (!read_identifier(&cursor, parts[count++], why)) {
            return false;
        }
        cursor += strspn(cursor, " \t");
    } while (*cursor == '.');
    if (*cursor != '\0') {
        return because(why, "is not an SQL name (quote it with \"\" if it is meant so)");
    }

    char *first = count == 2 ? strdup(parts[0]) : NULL;
    char *last = strdup(parts[count - 1]);
    if (last == NULL || (count == 2 && first == NULL)) {
        free(first);
        free(last);
        return because(why, "does not fit: out of memory");
    }
    if (schema != NULL) {
        *schema = first;
    }
    *name = last;
    return true;
}

/* Reads a value as libpq does, quoted or not; returns where it ends. */
static const char *read_keyword_value(const char *c, char *value, size_t size)
{
    size_t len = 0;
    bool quoted = *c == '\'';
    for (c += quoted ? 1 : 0; *c != '\0'; c++) {
        if (quoted ? *c == '\'' : isspace((unsigned char)*c) != 0) {
            break;
        }
        c += *c == '\\' && c[1] != '\0' ? 1 : 0;
        if (len + 1 < size) {
            value[len++] = *c;
        }
    }
    value[len] = '\0';
    return quoted && *c == '\'' ? c + 1 : c;
}

bool value_take_keyword(char *keywords, const char *keyword, char *value, size_t size)
{
    char *c = keywords;
    for (;;) {
        c += strspn(c, " \t\r\n");
        size_t len = strcspn(c, "= \t\r\n");
        const char *equals = c + len + strspn(c + len, " \t\r\n");
        if (len == 0 || *equals != '=') {
            return false;
        }
        const char *begin = equals + 1 + strspn(equals + 1, " \t\r\n");
        const char *end = read_keyword_value(begin, value, size);
        if (len == strlen(keyword) && strncmp(c, keyword, len) == 0) {
            memmove(c, end, strlen(end) + 1);
            return true;
        }
        c += end - c;
    }
}

/* Levenshtein's distance between words of at most SUGGESTION_MAX bytes. */
static size_t distance(const char *a, const char *b)
{
    size_t row[SUGGESTION_MAX + 1];
    size_t width = strlen(b);
    for (size_t j = 0; j <= width; j++) {
        row[j] = j;
    }
    for (size_t i = 1; a[i - 1] != '\0'; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= width; j++) {
            size_t replaced = diagonal + (tolower((unsigned char)a[i - 1]) != b[j - 1] ? 1 : 0);
            size_t moved = 1 + (row[j] < row[j - 1] ? row[j] : row[j - 1]);
            diagonal = row[j];
            row[j] = replaced < moved ? replaced : moved;
        }
    }
    return row[width];
}

const char *value_nearest(const char *text, const char *const *words, size_t count)
{
    size_t len = strlen(text);
    if (len > SUGGESTION_MAX) {
        return NULL;
    }
    const char *nearest = NULL;
    size_t best = len / 3 + 1;
    for (size_t i = 0; i < count; i++) {
        size_t d = strlen(words[i]) <= SUGGESTION_MAX ? distance(text, words[i]) : best;
        if (d < best || (d == best && nearest == NULL)) {
            best = d;
            nearest = words[i];
        }
    }
    return nearest;
}

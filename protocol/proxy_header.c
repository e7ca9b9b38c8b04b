/* Reads PROXY protocol headers; see proxy_header.h. */
#include "protocol/proxy_header.h"

#include <stdbool.h>
#include <string.h>

#include "protocol/bytes.h"

#define VERSION_2 0x2u
#define COMMAND_LOCAL 0x0u
#define COMMAND_PROXY 0x1u
#define FAMILY_UNSPEC 0x00u
#define FAMILY_TCP4 0x11u
#define FAMILY_TCP6 0x21u
#define FAMILY_UNIX 0x31u
#define TYPE_CRC32C 0x03u
#define CRC32C_SIZE 4u
#define CRC32C_POLYNOMIAL 0x82f63b78u /* Castagnoli's, reflected */

static const uint8_t signature[12] = {'\r', '\n', '\r', '\n', '\0', '\r',
                                      '\n', 'Q',  'U',  'I',  'T',  '\n'};
static const uint8_t signature_1[6] = {'P', 'R', 'O', 'X', 'Y', ' '};

static struct proxy_header invalid(const char *why)
{
    return (struct proxy_header){.kind = PROXY_HEADER_INVALID, .why = why};
}

static bool may_begin_with(const uint8_t *bytes, size_t len, const uint8_t *with, size_t with_len)
{
    return memcmp(bytes, with, len < with_len ? len : with_len) == 0;
}

/* Over the header with its own four bytes as zeros; no table for what comes once a connection. */
static uint32_t crc32c(const uint8_t *bytes, size_t len, size_t hole)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < len; i++) {
        crc ^= i >= hole && i < hole + CRC32C_SIZE ? 0 : bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ ((crc & 1) != 0 ? CRC32C_POLYNOMIAL : 0);
        }
    }
    return ~crc;
}

/* NULL, or what is wrong with the fields from `at` on. */
static const char *check_fields(const uint8_t *header, size_t size, size_t at)
{
    while (at < size) {
        if (size - at < 3) {
            return "a field is cut";
        }
        uint8_t type = header[at];
        size_t len = (size_t)header[at + 1] << 8 | header[at + 2];
        at += 3;
        if (len > size - at) {
            return "a field ends outside of it";
        }
        if (type == TYPE_CRC32C &&
            (len != CRC32C_SIZE || crc32c(header, size, at) != load_u32(header + at))) {
            return "the checksum does not fit";
        }
        at += len;
    }
    return NULL;
}

/* The client's address stands first, the server's behind it, then the two ports. */
static struct proxy_header read_tcp(const uint8_t *header, size_t size, size_t address_len)
{
    size_t addresses = 2 * address_len + 4;
    struct proxy_header h = {.size = size};
    if (size - PROXY_HEADER_FIXED < addresses) {
        return invalid("it is too short for its addresses");
    }
    const uint8_t *from = header + PROXY_HEADER_FIXED;
    h.kind = address_len == 4 ? PROXY_HEADER_TCP4 : PROXY_HEADER_TCP6;
    memcpy(h.address, from, address_len);
    h.port = (uint16_t)(from[2 * address_len] << 8 | from[2 * address_len + 1]);
    const char *why = check_fields(header, size, PROXY_HEADER_FIXED + addresses);
    return why != NULL ? invalid(why) : h;
}

static struct proxy_header read_unix(const uint8_t *header, size_t size)
{
    const size_t addresses = 2 * 108; /* two paths */
    if (size - PROXY_HEADER_FIXED < addresses) {
        return invalid("it is too short for its addresses");
    }
    const char *why = check_fields(header, size, PROXY_HEADER_FIXED + addresses);
    return why != NULL ? invalid(why)
                       : (struct proxy_header){.kind = PROXY_HEADER_UNIX, .size = size};
}

struct proxy_header proxy_header_read(const uint8_t *bytes, size_t len)
{
    struct proxy_header h = {.kind = PROXY_HEADER_INCOMPLETE, .size = PROXY_HEADER_FIXED};
    if (len == 0) {
        return h;
    }
    if (!may_begin_with(bytes, len, signature, sizeof signature)) {
        bool text = may_begin_with(bytes, len, signature_1, sizeof signature_1);
        h.kind = !text                      ? PROXY_HEADER_MISSING
                 : len < sizeof signature_1 ? PROXY_HEADER_INCOMPLETE
                                            : PROXY_HEADER_VERSION_1;
        return h;
    }
    if (len < PROXY_HEADER_FIXED) {
        return h;
    }
    uint8_t version = bytes[12] >> 4;
    uint8_t command = bytes[12] & 0xf;
    if (version != VERSION_2 || command > COMMAND_PROXY) {
        return invalid(version != VERSION_2 ? "its version is unknown" : "its command is unknown");
    }
    h.size = PROXY_HEADER_FIXED + ((size_t)bytes[14] << 8 | bytes[15]);
    if (h.size > PROXY_HEADER_MAX) {
        return invalid("it is too long");
    }
    if (len < h.size) {
        return h;
    }
    /* what else such a header says is to be ignored, its family included */
    if (command == COMMAND_LOCAL || bytes[13] == FAMILY_UNSPEC) {
        h.kind = PROXY_HEADER_LOCAL;
        return h;
    }
    switch (bytes[13]) {
    case FAMILY_TCP4:
        return read_tcp(bytes, h.size, 4);
    case FAMILY_TCP6:
        return read_tcp(bytes, h.size, 16);
    case FAMILY_UNIX:
        return read_unix(bytes, h.size);
    default:
        return invalid("its family is unknown, or not that of a stream");
    }
}

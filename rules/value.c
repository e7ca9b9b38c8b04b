/* Reads NULL, integers and strings; see value.h. Owns nothing. */
#include "rules/value.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "rules/evaluate.h"

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\f' || c == '\v';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_word_part(char c)
{
    const unsigned char u = (unsigned char)c;
    return (u >= 'a' && u <= 'z') || (u >= 'A' && u <= 'Z') || is_digit(c) || u == '_' ||
           u == '$' || u >= 0x80;
}

/* As the server writes it: an integer that goes into a column of text does so in this form. */
static bool read_integer(const char *text, char room[VALUE_ROOM], struct value *out)
{
    const char *at = text + (*text == '-' || *text == '+');
    while (is_space(*at)) {
        at++;
    }
    const char *digits = at;
    while (is_digit(*at)) {
        at++;
    }
    int64_t value;
    const bool is_negative = *text == '-';
    if (*at == '.' || is_word_part(*at) ||
        !evaluation_read_integer(digits, (size_t)(at - digits), &value)) {
        return false;
    }
    out->end = at;
    if (*digits != '0' && (digits == text || (is_negative && digits == text + 1))) {
        out->bytes = text;
        out->len = (size_t)(at - text);
        return true;
    }
    out->bytes = room;
    out->len = (size_t)snprintf(room, VALUE_ROOM, "%" PRId64, is_negative ? -value : value);
    return true;
}

/* The byte that a backslash and `letter` stand for; NUL: more than that, or not for certain. */
static char escaped(char letter)
{
    static const char letters[] = "bfnrt\\'", meanings[] = "\b\f\n\r\t\\'";
    const char *found = letter == '\0' ? NULL : strchr(letters, letter);
    return found == NULL ? '\0' : meanings[found - letters];
}

/* A string that is not in the text as it is. */
static bool copy_string(const char *at, bool has_escapes, char room[VALUE_ROOM], struct value *out)
{
    size_t len = 0;
    for (;; at++) {
        char byte = *at;
        if (byte == '\'' && at[1] != '\'') {
            break;
        }
        if (byte == '\'') {
            at++;
        } else if (byte == '\\' && has_escapes) {
            byte = escaped(*++at);
        }
        if (byte == '\0' || len == VALUE_ROOM) {
            return false;
        }
        room[len++] = byte;
    }
    out->bytes = room;
    out->len = len;
    out->end = at + 1;
    return true;
}

/* From behind its opening quote. */
static bool read_string(const char *at, bool has_escapes, char room[VALUE_ROOM], struct value *out)
{
    const char *end = at;
    while (*end != '\'' && *end != '\0') {
        end++;
    }
    const bool is_plain = !has_escapes || memchr(at, '\\', (size_t)(end - at)) == NULL;
    if (*end == '\'' && end[1] != '\'' && is_plain) {
        out->bytes = at;
        out->len = (size_t)(end - at);
        out->end = end + 1;
    } else if (!copy_string(at, has_escapes, room, out)) {
        return false;
    }
    /* It may go on in the next line. */
    const char *next = out->end;
    while (is_space(*next)) {
        next++;
    }
    return *next != '\'';
}

bool value_read(const char *text, bool standard_conforming_strings, char room[VALUE_ROOM],
                struct value *out)
{
    *out = (struct value){0};
    if (*text == '\'') {
        return read_string(text + 1, !standard_conforming_strings, room, out);
    }
    if ((*text == 'E' || *text == 'e') && text[1] == '\'') {
        return read_string(text + 2, true, room, out);
    }
    if (strncasecmp(text, "null", 4) == 0 && !is_word_part(text[4])) {
        out->is_null = true;
        out->end = text + 4;
        return true;
    }
    return (is_digit(*text) || *text == '-' || *text == '+') && read_integer(text, room, out);
}

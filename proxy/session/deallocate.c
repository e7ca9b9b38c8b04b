/* A reader of one statement, whose words stand between plain blanks; see deallocate.h. */
#include "proxy/session/deallocate.h"

#include <string.h>
#include <strings.h>

static void skip_blanks(struct span *text)
{
    while (text->len > 0 && strchr(" \t\r\n\f", text->ptr[0]) != NULL) {
        text->ptr++;
        text->len--;
    }
}

static bool is_word_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/* A word of ASCII letters, digits and underscores; empty when there is none. */
static struct span read_word(struct span *text)
{
    skip_blanks(text);
    struct span word = {.ptr = text->ptr, .len = 0};
    while (word.len < text->len && is_word_byte(text->ptr[word.len])) {
        word.len++;
    }
    text->ptr += word.len;
    text->len -= word.len;
    return word;
}

static bool is_word(struct span word, const char *other)
{
    return word.len == strlen(other) && strncasecmp(word.ptr, other, word.len) == 0;
}

static bool read_quoted(struct span *text, char *room, struct span *name)
{
    size_t len = 0;
    for (size_t i = 1; i < text->len; i++) {
        const bool is_quote = text->ptr[i] == '"';
        const bool is_doubled = is_quote && i + 1 < text->len && text->ptr[i + 1] == '"';
        if (is_quote && !is_doubled) {
            text->ptr += i + 1;
            text->len -= i + 1;
            *name = (struct span){.ptr = room, .len = len};
            return true;
        }
        i += is_doubled;
        if (len < DEALLOCATE_NAME_MAX) {
            room[len++] = text->ptr[i];
        }
    }
    return false;
}

static void fold(struct span word, char *room, struct span *name)
{
    const size_t len = word.len < DEALLOCATE_NAME_MAX ? word.len : DEALLOCATE_NAME_MAX;
    for (size_t i = 0; i < len; i++) {
        const char c = word.ptr[i];
        room[i] = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
    }
    *name = (struct span){.ptr = room, .len = len};
}

static bool is_end(struct span text)
{
    skip_blanks(&text);
    if (text.len > 0 && text.ptr[0] == ';') {
        text.ptr++;
        text.len--;
        skip_blanks(&text);
    }
    return text.len == 0;
}

bool deallocate_read(struct span text, char room[DEALLOCATE_NAME_MAX], struct span *name)
{
    if (!is_word(read_word(&text), "deallocate")) {
        return false;
    }
    struct span word = read_word(&text);
    if (is_word(word, "prepare")) {
        word = read_word(&text);
    }
    if (word.len == 0) {
        return text.len > 0 && text.ptr[0] == '"' && read_quoted(&text, room, name) && is_end(text);
    }
    fold(word, room, name);
    return !is_word(word, "all") && is_end(text);
}

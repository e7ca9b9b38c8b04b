/*
 * Masking by tokens where the text parses, by first principles where it does not. Called by
 * judge.c; owns nothing.
 */
#include "rules/mask.h"

#include <string.h>

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

const char *mask_tokens(struct arena *arena, const char *text, const struct token_list *tokens,
                        bool is_cut)
{
    char *masked = arena_alloc(arena, MASKED_TEXT_MAX + sizeof " ...");
    size_t used = 0;
    for (size_t i = 0; i < tokens->count; i++) {
        const struct token *token = &tokens->items[i];
        const char *start = text + token->start, *end = text + token->end;
        const bool is_parted = is_space(end[-1]) || token->end < token[1].start;
        while (end > start && is_space(end[-1])) {
            end--;
        }
        const size_t size = token->kind == TOKEN_CONSTANT ? 1 : (size_t)(end - start);
        if (used + size + 1 > MASKED_TEXT_MAX) {
            is_cut = true;
            break;
        }
        memcpy(masked + used, token->kind == TOKEN_CONSTANT ? "?" : start, size);
        used += size;
        if (is_parted) {
            masked[used++] = ' ';
        }
    }
    while (used > 0 && masked[used - 1] == ' ') {
        used--;
    }
    strcpy(masked + used, is_cut ? " ..." : "");
    return masked;
}

static bool is_word_part(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '"' ||
           (unsigned char)c >= 0x80;
}

/* Quotes, dollar quotes and comments; $1 is none of them. */
static bool hides_text(const char *at)
{
    return *at == '\'' || (at[0] == '$' && (at[1] < '0' || at[1] > '9')) ||
           (at[0] == '-' && at[1] == '-') || (at[0] == '/' && at[1] == '*');
}

const char *mask_unparsed(struct arena *arena, const char *text, size_t len)
{
    char *masked = arena_alloc(arena, MASKED_TEXT_MAX + sizeof "? ...");
    size_t used = 0, at = 0;
    while (at < len && used < MASKED_TEXT_MAX && !hides_text(text + at)) {
        const bool is_number = text[at] >= '0' && text[at] <= '9' &&
                               (at == 0 || (!is_word_part(text[at - 1]) && text[at - 1] != '$'));
        masked[used++] = is_number ? '?' : text[at++];
        while (is_number && at < len &&
               ((text[at] >= '0' && text[at] <= '9') || text[at] == '.' || text[at] == 'x' ||
                text[at] == '_')) {
            at++;
        }
    }
    strcpy(masked + used, at < len ? "? ..." : "");
    return masked;
}

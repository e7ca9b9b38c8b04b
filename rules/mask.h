/*
 * A statement's text as the audit may keep it: without a value that the client sent. Called by
 * judge.c where a key was supplied.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "rules/arena.h"
#include "rules/sql.h"

/* Longer ones are cut, and end in " ...": a bulk load's rows say no more than its first ones. */
#define MASKED_TEXT_MAX 8192

/* Of a text that parses: every constant is "?", comments are dropped. " ..." at the end also when
 * the text `is_cut` already. Lives in `arena`. */
const char *mask_tokens(struct arena *arena, const char *text, const struct token_list *tokens,
                        bool is_cut);
/* Of any other text: it is kept up to the first quote or comment only, because behind it nobody can
 * tell a value from a word. */
const char *mask_unparsed(struct arena *arena, const char *text, size_t len);

/*
 * A statement's text as the audit may keep it: without a value that the client sent. Called by
 * judge.c where a key was supplied.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "rules/arena.h"

/* Longer ones are cut, and end in " ...": a bulk load's rows say no more than its first ones. */
#define MASKED_TEXT_MAX 8192

/* Every constant is "?"; comments are dropped; " ..." at the end also when the text `is_cut` already. A
 * text that does not parse is kept only up to the
 * first quote or comment, because behind it nobody can tell a value from a word. Lives in `arena`. */
const char *mask_text(struct arena *arena, const char *text, size_t len, bool parses, bool is_cut);

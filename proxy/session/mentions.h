/* Whether a word stands in a text: what a session looks for in every statement, so it has to be
 * quick. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* `word`: 3 to 32 lower-case ASCII letters. Any case matches, and the word need not stand alone. */
bool mentions(const char *text, size_t len, const char *word);

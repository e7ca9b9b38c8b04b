/*
 * A guard in front of the lexer, which is quadratic in runs of operator characters and in nested
 * comments, and which nothing can interrupt: 160 KB of slashes and stars keep it busy for 11
 * seconds. Called by judge.c before anything is parsed.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* False when lexing the text would take out of proportion long (some 5 ms above what its length
 * explains). */
bool lex_cost_is_bounded(const char *text, size_t len, bool standard_conforming_strings);

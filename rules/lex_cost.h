/*
 * A guard in front of the parser, which nothing can interrupt. Its lexer is quadratic in runs of
 * operator characters and in nested comments: 160 KB of slashes and stars keep it busy for 11
 * seconds. And it takes some 200 bytes of memory for a token, however short. Called by judge.c
 * before anything is parsed.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* False when lexing the text would take out of proportion long (some 5 ms above what its length
 * explains), or when it has more than two million tokens. */
bool lex_cost_is_bounded(const char *text, size_t len, bool standard_conforming_strings);
/* The same with a tenth of the time. */
bool lex_cost_is_low(const char *text, size_t len, bool standard_conforming_strings);

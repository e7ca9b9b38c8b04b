/*
 * Text as the body of a JSON string, for the lines that are written by hand because they are many:
 * the audit's and the log's. Everything else that is JSON goes through jansson.
 */
#pragma once

#include <stddef.h>

/* The most bytes that one byte of text can become. */
#define JSON_TEXT_GROWTH 6

/* Writes `len` bytes of `text`, escaped, to `out`, which has `room` bytes, and returns how many it
 * wrote; no NUL is added. What is not UTF-8 becomes U+FFFD. Stops before a character that does not
 * fit. */
size_t json_text(char *out, size_t room, const char *text, size_t len);

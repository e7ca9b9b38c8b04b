/*
 * Whether the bytes of a text mean to the parser what they mean to the server. Called by judge.c.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "rules/rules.h"

bool encoding_is_readable(enum text_encoding encoding, const char *text, size_t len);

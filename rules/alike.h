/*
 * Whether a text means the same whatever client_encoding and standard_conforming_strings are, for a
 * text behind something that may change them. Called by encoding.c.
 *
 * What the encodings of clients can do, as PostgreSQL 11 to 18 convert them (all but BIG5 in a
 * server of EUC_TW or MULE_INTERNAL): a byte above 0x7f takes an ASCII byte from 0x40 to 0x7e
 * behind it for its second half, in GB18030 a digit with two more bytes like these; and in
 * SHIFT_JIS_2004 0x81 0x5f is a backslash, 0x81 0xb0 a tilde. No other ASCII byte comes or goes: no
 * quote, parenthesis, dollar sign or line end, and nothing of which comments are made. What is no
 * character of an encoding the server refuses.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* True when every lexer finds the same tokens, except for what is in a name with a byte above 0x7f
 * and in a literal that is a value. The text is NUL-terminated at `len`. */
bool text_reads_alike(const char *text, size_t len);

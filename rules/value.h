/*
 * A literal's value, read from the text of a statement without its parser: the literals of bulk
 * loads never meet it, and those of texts that are known by their shape do not meet it again.
 * Called by compare.c, and by compare_note.c, which has proof by the parser for the first text.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct value {
    bool is_null;
    const char *bytes; /* an integer without zeros in front; in the text, or in the room given */
    size_t len;
    const char *end; /* in the text, behind the literal */
};

enum { VALUE_ROOM = 512 }; /* for strings that are not in the text as they are, and integers */

/* The literal at `text`, which is NUL-terminated: NULL, an integer, a string in plain quotes or
 * with simple escapes. False for all else. */
bool value_read(const char *text, bool standard_conforming_strings, char room[VALUE_ROOM],
                struct value *out);

/* The statement that a text ends, if it says DEALLOCATE and nothing else. */
#pragma once

#include <stdbool.h>

#include "protocol/bytes.h"

#define DEALLOCATE_NAME_MAX 64

/* The name is folded or unquoted into `room`, as far as the server looks at it. False also for ALL,
 * and for what is not so simple. */
bool deallocate_read(struct span text, char room[DEALLOCATE_NAME_MAX], struct span *name);

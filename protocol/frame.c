/* Which message types exist; see frame.h. */
#include "protocol/frame.h"

#include <string.h>

/* Asked for every message. */
static bool is_frontend(uint8_t type)
{
    switch (type) {
    case 'Q':
    case 'P':
    case 'B':
    case 'E':
    case 'D':
    case 'C':
    case 'S':
    case 'H':
    case 'F':
    case 'X':
    case 'd':
    case 'c':
    case 'f':
    case 'p':
        return true;
    default:
        return false;
    }
}

bool frame_type_known(enum frame_side side, uint8_t type)
{
    if (side == FRAME_FRONTEND) {
        return is_frontend(type);
    }
    return type != 0 && strchr("ARKSZTDCIEN123tnsGHWdcVv", type) != NULL;
}

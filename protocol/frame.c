/* Which message types exist; see frame.h. */
#include "protocol/frame.h"

#include <string.h>

bool frame_type_known(enum frame_side side, uint8_t type)
{
    const char *types = side == FRAME_FRONTEND ? "QPBEDCSHFXdcfp" : "ARKSZTDCIEN123tnsGHWdcVv";
    return type != 0 && strchr(types, type) != NULL;
}

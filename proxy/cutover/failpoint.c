/* Files as switches; see failpoint.h. Called in the thread of the command. */
#include "proxy/cutover/failpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { POLL_NS = 2000000 };

void failpoint_wait(const char *name)
{
    char armed[512];
    char reached[sizeof armed + 16];
    const char *folder = getenv("PGSLUICE_FAILPOINTS");
    if (folder == NULL) {
        return;
    }
    snprintf(armed, sizeof armed, "%s/%s", folder, name);
    snprintf(reached, sizeof reached, "%s.reached", armed);
    if (rename(armed, reached) != 0) {
        return;
    }
    while (access(reached, F_OK) == 0) {
        nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
    }
}

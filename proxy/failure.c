/* Fills a struct failure; see failure.h. */
#include "proxy/failure.h"

#include <stdarg.h>
#include <stdio.h>

bool fail(struct failure *f, enum exit_code code, const char *fmt, ...)
{
    if (f == NULL) {
        return false;
    }
    va_list args;
    va_start(args, fmt);
    vsnprintf(f->msg, sizeof f->msg, fmt, args);
    va_end(args);
    f->code = code;
    f->sqlstate[0] = '\0';
    for (char *c = f->msg; *c != '\0'; c++) {
        if (*c == '\n') {
            *c = c[1] == '\0' ? '\0' : ' ';
        }
    }
    return false;
}

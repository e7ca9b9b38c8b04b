/* The report's members, progress and audit steps; see context.h. */
#include "proxy/cutover/context.h"

#include "proxy/cutover/pulse.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/failpoint.h"

static const char *const verdict_words[] = {
    [CHECK_PASS] = "PASS",
    [CHECK_WARN] = "WARN",
    [CHECK_BLOCK] = "BLOCK",
};

json_t *report_string(const char *text)
{
    json_t *value = json_string(text);
    if (value != NULL) {
        return value;
    }
    char *ascii = strdup(text);
    if (ascii == NULL) {
        return NULL;
    }
    for (char *p = ascii; *p != '\0'; p++) {
        if ((unsigned char)*p >= 0x80) {
            *p = '?';
        }
    }
    value = json_string(ascii);
    free(ascii);
    return value;
}

void report_set(struct cutover *c, const char *key, json_t *value)
{
    (void)json_object_set_new(c->report, key, value);
}

void report_check(struct cutover *c, const char *id, enum verdict_word verdict, const char *remedy,
                  const char *evidence, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, evidence);
    int n = vasprintf(&text, evidence, args);
    va_end(args);
    c->blocked = c->blocked || verdict == CHECK_BLOCK;
    json_t *check = json_pack("{s:s, s:s, s:o, s:o}", "id", id, "verdict", verdict_words[verdict],
                              "evidence", report_string(n >= 0 ? text : "out of memory"), "remedy",
                              remedy != NULL ? report_string(remedy) : json_null());
    (void)json_array_append_new(c->checks, check);
    if (n >= 0) {
        free(text);
    }
}

void context_progress(const struct cutover *c, const char *phase, double done, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    if (c->host == NULL || c->host->progress == NULL) {
        return;
    }
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    c->host->progress(c->host->arg, phase, text, done);
    pulse_note(c->pulse, phase, text);
    FAILPOINT(phase);
}

void context_step(const struct cutover *c, const char *step, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    if (c->host == NULL || c->host->step == NULL) {
        return;
    }
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    c->host->step(c->host->arg, c->run, step, text);
}

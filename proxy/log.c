/* The process's log on stderr: composes each line in a buffer of its own and writes it at once, so
 * that lines of several threads never mix; see log.h. */
#include "proxy/log.h"

#include "proxy/json_text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOG_MESSAGE_MAX 2048
#define LOG_LINE_MAX (LOG_MESSAGE_MAX * JSON_TEXT_GROWTH + 128)

static atomic_bool as_json;
static atomic_int least_level = LOG_LEVEL_INFO;

static const char *const text_names[] = {"DEBUG  ", "LOG    ", "WARNING", "ERROR  "};
static const char *const json_names[] = {"debug", "info", "warning", "error"};

void log_init(bool json, enum log_level least)
{
    atomic_store(&as_json, json);
    atomic_store(&least_level, (int)least);
}

/* A message may quote what a client sent: a control character must not forge a second line. */
static size_t plain_text(char *out, size_t room, const char *text, size_t len)
{
    size_t done = 0;
    for (size_t i = 0; i < len && room - done >= 4; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == 0x7f) {
            done += (size_t)snprintf(out + done, room - done, "\\x%02x", c);
        } else {
            out[done++] = text[i];
        }
    }
    return done;
}

static size_t line_head(char *line, size_t room, enum log_level level, bool json)
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);

    char stamp[32];
    strftime(stamp, sizeof stamp, json ? "%Y-%m-%dT%H:%M:%S" : "%Y-%m-%d %H:%M:%S", &utc);
    int millis = (int)(now.tv_nsec / 1000000);
    int pid = (int)getpid();
    int head =
        json ? snprintf(line, room,
                        "{\"time\":\"%s.%03dZ\",\"pid\":%d,\"level\":\"%s\",\"message\":\"", stamp,
                        millis, pid, json_names[level])
             : snprintf(line, room, "%s.%03d UTC [%d] %s ", stamp, millis, pid, text_names[level]);
    return (size_t)head;
}

void log_line(enum log_level level, const char *fmt, ...)
{
    if ((int)level < atomic_load_explicit(&least_level, memory_order_relaxed)) {
        return;
    }
    int saved_errno = errno;
    char message[LOG_MESSAGE_MAX];
    va_list args;
    va_start(args, fmt);
    int wanted = vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    if (wanted < 0) {
        return;
    }
    size_t len = strlen(message);
    if ((size_t)wanted >= sizeof message) {
        memcpy(message + len - 3, "...", 3);
    }

    char line[LOG_LINE_MAX];
    bool json = atomic_load_explicit(&as_json, memory_order_relaxed);
    size_t done = line_head(line, sizeof line, level, json);
    if (json) {
        done += json_text(line + done, sizeof line - done - 3, message, len);
        memcpy(line + done, "\"}\n", 3);
        done += 3;
    } else {
        done += plain_text(line + done, sizeof line - done - 1, message, len);
        line[done++] = '\n';
    }
    ssize_t written = write(STDERR_FILENO, line, done);
    (void)written; /* where stderr is gone there is nobody left to tell */
    errno = saved_errno;
}

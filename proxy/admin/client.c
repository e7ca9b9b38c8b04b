/* Lines of JSON over the admin socket; see client.h and server.c. */
#include "proxy/admin/client.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LINE_MAX_BYTES ((size_t)64 * 1024 * 1024)

static volatile sig_atomic_t interrupts;

static void on_interrupt(int number)
{
    (void)number;
    interrupts++;
}

/* What was received and not yet taken as lines. */
struct input {
    int fd;
    char *bytes;
    size_t len, room;
};

static int connect_admin(const struct config *config, struct failure *f)
{
    if (config->admin_count == 0) {
        fail(f, EXIT_USAGE, "%s: no admin address is configured (admin = unix:/path)",
             config->file);
        return -1;
    }
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    const char *path = config->admin[0].host;
    if (strlen(path) >= sizeof un.sun_path) {
        fail(f, EXIT_USAGE, "%s: admin: the socket path %s is too long", config->file, path);
        return -1;
    }
    memcpy(un.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&un, sizeof un) != 0) {
        fail(f, EXIT_REFUSED,
             "no pgsluice is listening on the admin socket %s: %s (is \"pgsluice "
             "serve\" running with this configuration?)",
             path, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    return fd;
}

static bool send_line(int fd, const char *text)
{
    size_t len = strlen(text);
    while (len > 0) {
        ssize_t n = send(fd, text, len, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR) {
            return false;
        }
        text += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

static bool send_request(int fd, const json_t *request)
{
    char *text = json_dumps(request, JSON_COMPACT);
    bool ok = text != NULL && send_line(fd, text) && send_line(fd, "\n");
    free(text);
    return ok;
}

/* Receives more; false at the end of the stream. */
static bool input_fill(struct input *in)
{
    if (in->len == in->room) {
        size_t room = in->room == 0 ? 4096 : in->room * 2;
        char *bytes = room > LINE_MAX_BYTES ? NULL : realloc(in->bytes, room);
        if (bytes == NULL) {
            return false;
        }
        in->bytes = bytes;
        in->room = room;
    }
    ssize_t n = recv(in->fd, in->bytes + in->len, in->room - in->len, 0);
    if (n <= 0) {
        return n < 0 && errno == EINTR;
    }
    in->len += (size_t)n;
    return true;
}

/* The next whole line as JSON, or NULL. */
static json_t *input_line(struct input *in)
{
    char *end = in->len == 0 ? NULL : memchr(in->bytes, '\n', in->len);
    if (end == NULL) {
        return NULL;
    }
    size_t size = (size_t)(end - in->bytes) + 1;
    json_t *line = json_loadb(in->bytes, size, 0, NULL);
    in->len -= size;
    memmove(in->bytes, in->bytes + size, in->len);
    return line != NULL ? line : json_object();
}

static json_t *wait_result(int fd, void (*on_event)(void *arg, const json_t *event), void *arg)
{
    struct input in = {.fd = fd};
    json_t *result = NULL;
    int told = 0;
    while (result == NULL && interrupts < 2) {
        if (interrupts > told) {
            told = interrupts;
            if (!send_line(fd, "{\"command\":\"abort\"}\n")) {
                break;
            }
        }
        json_t *line = input_line(&in);
        if (line == NULL) {
            struct pollfd poller = {.fd = fd, .events = POLLIN};
            if (poll(&poller, 1, 200) > 0 && !input_fill(&in)) {
                break;
            }
            continue;
        }
        json_t *value = json_object_get(line, "result");
        if (value != NULL) {
            result = json_incref(value);
        } else if (on_event != NULL) {
            on_event(arg, line);
        }
        json_decref(line);
    }
    free(in.bytes);
    return result;
}

bool admin_call(const struct config *config, const json_t *request,
                void (*on_event)(void *arg, const json_t *event), void *arg, json_t **result,
                struct failure *f)
{
    *result = NULL;
    int fd = connect_admin(config, f);
    if (fd < 0) {
        return false;
    }
    struct sigaction action = {.sa_handler = on_interrupt};
    struct sigaction old;
    interrupts = 0;
    sigaction(SIGINT, &action, &old);
    if (send_request(fd, request)) {
        *result = wait_result(fd, on_event, arg);
    }
    sigaction(SIGINT, &old, NULL);
    close(fd);
    return *result != NULL ||
           fail(f, EXIT_UNKNOWN,
                "the proxy went away before it answered; \"pgsluice verify\" shows "
                "what is in place");
}

/* Listening sockets, TCP and unix; see listener.h. */
#include "proxy/net/listener.h"

#include <errno.h>
#include <netdb.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "proxy/log.h"

#define BACKLOG 1024
/* Accepted in one turn of the loop before the others get theirs. */
#define ACCEPT_AT_ONCE 64

struct listener {
    uv_poll_t poll;
    uv_timer_t pause; /* out of descriptors: accepting stops for a moment */
    int fd;
    int open_handles;
    char *path; /* of a unix socket that has a file */
    listener_cb on_accept;
    void *arg;
};

#define PAUSE_MS 100

void listener_name(const struct config_address *address, char *room, size_t size)
{
    if (address->is_unix) {
        snprintf(room, size, "unix:%s", address->host);
    } else {
        bool v6 = strchr(address->host, ':') != NULL;
        snprintf(room, size, v6 ? "[%s]:%u" : "%s:%u", address->host, address->port);
    }
}

static void on_readable(uv_poll_t *poll, int status, int events);

static void on_pause_end(uv_timer_t *timer)
{
    struct listener *listener = timer->data;
    uv_poll_start(&listener->poll, UV_READABLE, on_readable);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct listener *listener = poll->data;
    (void)status;
    (void)events;
    for (int i = 0; i < ACCEPT_AT_ONCE; i++) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            listener->on_accept(listener->arg, fd);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            log_warning("cannot accept a client: %s", strerror(errno));
            uv_poll_stop(&listener->poll);
            uv_timer_start(&listener->pause, on_pause_end, PAUSE_MS, 0);
            return;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return;
        }
    }
}

/* A socket file that nobody listens on any more is what a killed process left behind. */
static void remove_stale(const struct sockaddr_un *un)
{
    struct stat st;
    if (stat(un->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode)) {
        return;
    }
    /* does not wait: a listener whose queue is full is there */
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)un, sizeof *un) != 0 &&
        errno == ECONNREFUSED) {
        unlink(un->sun_path);
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* Of a socket in the abstract namespace, which has no file. */
static bool is_abstract(const char *path)
{
    return path[0] == '@';
}

static int listen_unix(const char *path, unsigned mode)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    socklen_t size = sizeof un;
    if (strlen(path) >= sizeof un.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(un.sun_path, path, strlen(path));
    if (is_abstract(path)) {
        un.sun_path[0] = '\0';
        size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    } else {
        remove_stale(&un);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && (bind(fd, (const struct sockaddr *)&un, size) != 0 ||
                    (!is_abstract(path) && chmod(path, mode) != 0) || listen(fd, BACKLOG) != 0)) {
        int error = errno;
        close(fd);
        errno = error;
        fd = -1;
    }
    return fd;
}

static int listen_address(const struct addrinfo *a)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

static int listen_tcp(const struct config_address *address, const char **why)
{
    char port[8];
    snprintf(port, sizeof port, "%u", address->port);
    const char *host = strcmp(address->host, "*") == 0 ? NULL : address->host;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(host, port, &hints, &found);
    if (rc != 0) {
        *why = gai_strerror(rc);
        return -1;
    }
    int fd = listen_address(found);
    *why = strerror(errno);
    freeaddrinfo(found);
    return fd;
}

bool listener_open(uv_loop_t *loop, const struct config_address *address, unsigned mode,
                   listener_cb on_accept, void *arg, struct listener **out, struct failure *f)
{
    char name[256];
    const char *why = NULL;
    listener_name(address, name, sizeof name);
    *out = NULL;
    struct listener *listener = calloc(1, sizeof *listener);
    if (listener == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    if (address->is_unix) {
        listener->fd = listen_unix(address->host, mode);
        why = strerror(errno);
        listener->path = is_abstract(address->host) ? NULL : strdup(address->host);
    } else {
        listener->fd = listen_tcp(address, &why);
    }
    if (listener->fd < 0) {
        fail(f, EXIT_REFUSED, "cannot listen on %s: %s", name, why);
        free(listener->path);
        free(listener);
        return false;
    }
    listener->on_accept = on_accept;
    listener->arg = arg;
    listener->open_handles = 2;
    uv_poll_init(loop, &listener->poll, listener->fd);
    listener->poll.data = listener;
    uv_timer_init(loop, &listener->pause);
    listener->pause.data = listener;
    uv_poll_start(&listener->poll, UV_READABLE, on_readable);
    *out = listener;
    return true;
}

static void on_closed(uv_handle_t *handle)
{
    struct listener *listener = handle->data;
    listener->open_handles--;
    if (listener->open_handles == 0) {
        free(listener->path);
        free(listener);
    }
}

void listener_close(struct listener *listener)
{
    if (listener == NULL) {
        return;
    }
    uv_close((uv_handle_t *)&listener->poll, on_closed);
    uv_close((uv_handle_t *)&listener->pause, on_closed);
    close(listener->fd);
    if (listener->path != NULL) {
        unlink(listener->path);
    }
}

/*
 * Preloaded into the proxy by tests: tells how long the event loops' longest turn was, in
 * milliseconds of its thread's CPU time, which does not depend on what else the machine does. It is
 * written to the file that LOOP_TURNS names whenever a longer one is seen.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

typedef int epoll_pwait_fn(int, struct epoll_event *, int, int, const sigset_t *);

int epoll_wait(int fd, struct epoll_event *events, int count, int timeout);
int epoll_pwait(int fd, struct epoll_event *events, int count, int timeout, const sigset_t *mask);

static _Thread_local uint64_t began; /* 0: no turn yet */
static _Atomic uint64_t longest;

static uint64_t cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void write_longest(uint64_t ns)
{
    const char *path = getenv("LOOP_TURNS");
    int file = path == NULL ? -1 : open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (file >= 0) {
        dprintf(file, "%015.3f\n", (double)ns / 1e6);
        close(file);
    }
}

static void end_turn(void)
{
    const uint64_t turn = began == 0 ? 0 : cpu_ns() - began;
    uint64_t before = longest;
    while (turn > before) {
        if (atomic_compare_exchange_weak(&longest, &before, turn)) {
            write_longest(turn);
            return;
        }
    }
}

int epoll_pwait(int fd, struct epoll_event *events, int count, int timeout, const sigset_t *mask)
{
    static _Atomic(epoll_pwait_fn *) next;
    if (next == NULL) {
        union {
            void *symbol;
            epoll_pwait_fn *call;
        } found = {.symbol = dlsym(RTLD_NEXT, "epoll_pwait")};
        next = found.call;
    }
    end_turn();
    int result = next(fd, events, count, timeout, mask);
    began = cpu_ns();
    return result;
}

int epoll_wait(int fd, struct epoll_event *events, int count, int timeout)
{
    return epoll_pwait(fd, events, count, timeout, NULL);
}

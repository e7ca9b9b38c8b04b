/* Two entries under a lock that nobody holds for long; see board.h. */
#include "proxy/admin/board.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct board {
    pthread_mutex_t lock;
    struct board_entry now, last;
};

struct board *board_new(void)
{
    struct board *board = calloc(1, sizeof *board);
    if (board != NULL) {
        pthread_mutex_init(&board->lock, NULL);
    }
    return board;
}

void board_free(struct board *board)
{
    if (board != NULL) {
        pthread_mutex_destroy(&board->lock);
        free(board);
    }
}

void board_begin(struct board *board, const char *command, const char *rule, const char *strategy)
{
    pthread_mutex_lock(&board->lock);
    struct board_entry *now = &board->now;
    *now = (struct board_entry){.is_there = true, .started = time(NULL)};
    snprintf(now->command, sizeof now->command, "%s", command);
    snprintf(now->rule, sizeof now->rule, "%s", rule);
    snprintf(now->strategy, sizeof now->strategy, "%s", strategy);
    pthread_mutex_unlock(&board->lock);
}

void board_progress(struct board *board, const char *phase, const char *text, double done)
{
    pthread_mutex_lock(&board->lock);
    snprintf(board->now.phase, sizeof board->now.phase, "%s", phase);
    snprintf(board->now.text, sizeof board->now.text, "%s", text);
    board->now.done = done;
    pthread_mutex_unlock(&board->lock);
}

void board_end(struct board *board, int exit, const char *summary)
{
    pthread_mutex_lock(&board->lock);
    board->last = board->now;
    board->last.ended = time(NULL);
    board->last.exit = exit;
    snprintf(board->last.summary, sizeof board->last.summary, "%s", summary);
    board->now.is_there = false;
    pthread_mutex_unlock(&board->lock);
}

void board_read(struct board *board, struct board_entry *now, struct board_entry *last)
{
    pthread_mutex_lock(&board->lock);
    *now = board->now;
    *last = board->last;
    pthread_mutex_unlock(&board->lock);
}

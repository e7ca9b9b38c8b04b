/*
 * What is under way and what was last: written by the thread of a cutover, rollback or finish
 * (job.c), read by whoever shows it, from any thread.
 */
#pragma once

#include <stdbool.h>
#include <time.h>

struct board;

struct board_entry {
    bool is_there;
    char command[16];
    char rule[64];
    char strategy[16];
    char phase[32];
    char text[256];
    double done;           /* of the phase, from 0 to 1; below: not known */
    time_t started, ended; /* 0: not yet */
    int exit;
    char summary[256];
};

struct board *board_new(void); /* NULL when out of memory */
void board_free(struct board *board);
/* A new one begins. */
void board_begin(struct board *board, const char *command, const char *rule, const char *strategy);
void board_progress(struct board *board, const char *phase, const char *text, double done);
void board_end(struct board *board, int exit, const char *summary);
void board_read(struct board *board, struct board_entry *now, struct board_entry *last);

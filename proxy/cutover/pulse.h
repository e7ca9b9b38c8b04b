/*
 * The sign of life of a command: what takes long in the server says again every two seconds what it
 * is and for how long, and of an index that is being built how far it is. It beats while a control
 * connection waits for an answer, in the command's own thread.
 */
#pragma once

#include "proxy/cutover/context.h"

struct pulse;

/* `c` is borrowed, and freed after it. NULL when out of memory: then nothing beats. */
struct pulse *pulse_new(struct cutover *c);
void pulse_free(struct pulse *pulse);
/* What has just been said to the host. NULL is allowed. */
void pulse_note(struct pulse *pulse, const char *phase, const char *text);
/* For control_target.abort_requested, with the pulse as its argument. */
bool pulse_beat(void *arg);

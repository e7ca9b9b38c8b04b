/*
 * Places where a test stops a cutover, so as to make something fail at exactly that point. Compiled
 * into pgsluice_failpoints alone, the program that tests/cutover/test_matrix.py runs: in what is
 * installed nothing is left of them.
 *
 * Every phase that context_progress() tells of is such a place, under the phase's name; others
 * stand where they are.
 */
#pragma once

#ifdef PGSLUICE_FAILPOINTS
/* Waits at the place `name` when the file of that name exists in the folder $PGSLUICE_FAILPOINTS:
 * the file becomes "name.reached", and the thread goes on when somebody has removed that. */
void failpoint_wait(const char *name);
#define FAILPOINT(name) failpoint_wait(name)
#else
#define FAILPOINT(name) ((void)(name))
#endif

/* Progress of what the server is busy with; see pulse.h. */
#include "proxy/cutover/pulse.h"

#include <stdlib.h>
#include <string.h>

enum { BEAT_MS = 2000, ASK_MS = 1000 };

struct pulse {
    struct cutover *c;
    struct control *watch; /* a second connection; NULL: not needed yet */
    bool beating;          /* the watch waits for answers as well */
    double began;          /* of the phase */
    double said;           /* the last time, by anybody */
    char phase[32];
    char text[256];
};

struct pulse *pulse_new(struct cutover *c)
{
    struct pulse *pulse = calloc(1, sizeof *pulse);
    if (pulse != NULL) {
        pulse->c = c;
    }
    return pulse;
}

void pulse_free(struct pulse *pulse)
{
    if (pulse != NULL) {
        control_close(pulse->watch);
        free(pulse);
    }
}

void pulse_note(struct pulse *pulse, const char *phase, const char *text)
{
    if (pulse == NULL) {
        return;
    }
    pulse->said = monotonic_ms_exact();
    if (pulse->beating) {
        return;
    }
    pulse->began = pulse->said;
    snprintf(pulse->phase, sizeof pulse->phase, "%s", phase);
    snprintf(pulse->text, sizeof pulse->text, "%.200s", text);
}

/* "building index: scanning table", and how much of that is done, 0..1 or negative. False when no
 * index is being built, or it cannot be seen. */
static bool ask_index(struct pulse *pulse, char *out, size_t size, double *done)
{
    static const char sql[] =
        "SELECT phase, coalesce(CASE WHEN tuples_total > 0 THEN tuples_done::float8 / tuples_total "
        "WHEN blocks_total > 0 THEN blocks_done::float8 / blocks_total END, -1) "
        "FROM pg_stat_progress_create_index WHERE pid = $1::int";
    struct failure ignored;
    char pid[16];
    const char *value = pid;
    if (pulse->watch != NULL && control_is_lost(pulse->watch)) {
        control_close(pulse->watch);
        pulse->watch = NULL;
    }
    if (pulse->c->control == NULL ||
        (pulse->watch == NULL && !context_connect_again(pulse->c, true, &pulse->watch, &ignored))) {
        return false;
    }
    snprintf(pid, sizeof pid, "%d", control_backend_pid(pulse->c->control));
    PGresult *r = control_query(pulse->watch, sql, 1, &value, ASK_MS, &ignored);
    bool found = r != NULL && PQntuples(r) > 0;
    if (found) {
        snprintf(out, size, "%s", PQgetvalue(r, 0, 0));
        *done = strtod(PQgetvalue(r, 0, 1), NULL);
    }
    PQclear(r);
    return found;
}

static void beat(struct pulse *pulse, double now)
{
    char what[64];
    double done = -1;
    double seconds = (now - pulse->began) / 1e3;
    bool builds =
        strcmp(pulse->phase, "indexes") == 0 && ask_index(pulse, what, sizeof what, &done);
    context_progress(pulse->c, pulse->phase, done, "%s, for %.0f s%s%s", pulse->text, seconds,
                     builds ? ": " : "", builds ? what : "");
}

bool pulse_beat(void *arg)
{
    struct pulse *pulse = arg;
    double now = monotonic_ms_exact();
    if (!pulse->beating && pulse->phase[0] != '\0' && now - pulse->said >= BEAT_MS) {
        pulse->beating = true;
        beat(pulse, now);
        pulse->beating = false;
    }
    return context_abort_requested(pulse->c);
}

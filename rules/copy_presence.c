/*
 * Whether a stream carries a column; see copy_filter.h. A filter that takes nothing out looks for
 * the last field of the first row. Called by the proxy's sessions; owns nothing.
 */
#include <string.h>

#include "rules/copy_row.h"

static void on_row(void *context, const struct copy_value *values)
{
    struct copy_presence *presence = context;
    if (presence->found == COPY_PRESENCE_UNKNOWN) {
        /* A value that was cut is longer than what is kept of it. */
        const bool is_there = values[0].bytes != NULL || values[0].len > 0;
        presence->found = is_there ? COPY_PRESENCE_CARRIED : COPY_PRESENCE_ABSENT;
    }
}

bool copy_presence_init(struct copy_presence *presence, const struct copy_options *options)
{
    struct copy_options looking = *options;
    looking.field_count = 1;
    looking.fields[0] = (struct copy_field){.index = options->width - 1, .stays = true};
    if (looking.header == COPY_HEADER_MATCHED) {
        looking.header = COPY_HEADER_NONE; /* it has a name for each field */
    }
    presence->found = COPY_PRESENCE_UNKNOWN;
    return copy_filter_init(&presence->filter, &looking, on_row, presence);
}

enum copy_presence_found copy_presence_feed(struct copy_presence *presence, const char *bytes,
                                            size_t len)
{
    struct copy_run runs[2 * COPY_RUNS_MIN];
    while (len > 0 && presence->found == COPY_PRESENCE_UNKNOWN) {
        size_t taken;
        copy_filter_feed(&presence->filter, bytes, len, &taken, runs, 2 * COPY_RUNS_MIN);
        bytes += taken;
        len -= taken;
        /* In binary a row says at its start how many fields it has. */
        const int state = presence->filter.state;
        if (state == COPY_STATE_PASS && presence->found == COPY_PRESENCE_UNKNOWN) {
            presence->found = COPY_PRESENCE_ABSENT;
        } else if (state == COPY_STATE_LENGTH || state == COPY_STATE_DATA) {
            presence->found = COPY_PRESENCE_CARRIED;
        }
    }
    return presence->found;
}

/*
 * Which text an error of the server is about: an error answers one message of its batch, and the
 * places tell from which message on a text is an edited one. See ledger.h.
 */
#include "proxy/session/ledger.h"

#include <stdlib.h>
#include <string.h>

/* Room for more is given back when it is not needed. */
enum { PLACES_USUAL = 4 };

static bool has_place(const struct ledger *ledger, uint64_t sync)
{
    return ledger->place_count > 0 && ledger->places[ledger->place_count - 1].sync == sync;
}

static bool has_room(struct ledger *ledger)
{
    if (ledger->place_count < ledger->place_room) {
        return true;
    }
    const size_t room = ledger->place_room == 0 ? PLACES_USUAL : 2 * ledger->place_room;
    if (room > LEDGER_PLACES_MAX) {
        return false;
    }
    struct ledger_place *grown = realloc(ledger->places, room * sizeof *grown);
    if (grown == NULL) {
        return false;
    }
    ledger->places = grown;
    ledger->place_room = room;
    return true;
}

void ledger_place(struct ledger *ledger, uint64_t sync, uint32_t message, struct position_map *map)
{
    const bool goes_on = has_place(ledger, sync);
    if (map == (goes_on ? ledger->places[ledger->place_count - 1].map : NULL)) {
        return;
    }
    if (!has_room(ledger)) {
        ledger->places_lost = sync;
        return;
    }
    ledger->places[ledger->place_count++] =
        (struct ledger_place){.sync = sync, .message = message, .map = position_map_ref(map)};
}

const struct position_map *ledger_placed(const struct ledger *ledger, uint64_t sync,
                                         uint32_t message)
{
    if (sync <= ledger->places_lost) {
        return &position_map_unknown;
    }
    const struct position_map *found = NULL;
    for (size_t i = 0; i < ledger->place_count && ledger->places[i].sync <= sync; i++) {
        if (ledger->places[i].sync == sync && ledger->places[i].message <= message) {
            found = ledger->places[i].map;
        }
    }
    return found;
}

void ledger_recount(struct ledger *ledger, uint64_t sync)
{
    ledger_doubt(ledger, sync, sync);
    while (ledger->place_count > 0 && ledger->places[ledger->place_count - 1].sync > sync) {
        position_map_unref(ledger->places[--ledger->place_count].map);
    }
    if (ledger_has_edited(ledger) && ledger->places_lost <= sync) {
        ledger->places_lost = sync + 1;
    }
}

void ledger_skip(struct ledger *ledger, uint64_t from, uint64_t to)
{
    ledger_doubt(ledger, from, to);
    if (ledger->place_count > 0 && ledger->places[ledger->place_count - 1].sync > from &&
        ledger->places_lost <= to) {
        ledger->places_lost = to + 1;
    }
}

void ledger_forget_places(struct ledger *ledger, uint64_t sync)
{
    size_t ended = 0;
    while (ended < ledger->place_count && ledger->places[ended].sync <= sync) {
        position_map_unref(ledger->places[ended++].map);
    }
    if (ended > 0) {
        ledger->place_count -= ended;
        memmove(ledger->places, ledger->places + ended,
                ledger->place_count * sizeof *ledger->places);
    }
    if (ledger->place_count == 0 && ledger->place_room > PLACES_USUAL) {
        free(ledger->places);
        ledger->places = NULL;
        ledger->place_room = 0;
    }
}

void ledger_bound(struct ledger *ledger, struct position_map *map)
{
    position_map_unref(ledger->portal);
    ledger->portal = position_map_ref(map);
}

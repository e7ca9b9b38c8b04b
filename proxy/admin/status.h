/* What `pgsluice status` shows: sessions, counters, gates. */
#pragma once

#include <jansson.h>

#include "proxy/service.h"

/* A new object, or NULL when out of memory. */
json_t *status_report(const struct service *service);

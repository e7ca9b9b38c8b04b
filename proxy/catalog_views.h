/*
 * Dependents of a guarded table: through which views, children and rules it can be written, and
 * what their columns are. Part of reading the catalog (catalog_read.c).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "proxy/config.h"
#include "proxy/control.h"
#include "proxy/failure.h"
#include "rules/rules.h"

/* An enum column_source, of pg_attribute `a`; version 11 has no attgenerated. */
#define CATALOG_COLUMN_SOURCE                                                                      \
    "CASE WHEN coalesce(to_jsonb(a) ->> 'attgenerated', '') <> '' THEN 2 "                         \
    "WHEN attidentity = 'a' THEN 1 ELSE 0 END"

/* All zero is an empty one. */
struct catalog_dependents {
    PGresult *relations, *columns; /* own the strings */
    struct rule_relation *at;
    size_t count;
    struct rule_column *column; /* of all of them, by relation */
};

/* Reads the dependents of the rule's table, whose OID is `relation`. Takes no lock on any of them.
 * The caller ends it with catalog_dependents_fini(), also after a failure. */
MUST_CHECK bool catalog_read_dependents(struct control *control, const struct config_rule *rule,
                                        const char *relation, struct catalog_dependents *out,
                                        struct failure *f);
void catalog_dependents_fini(struct catalog_dependents *dependents);

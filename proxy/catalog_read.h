/*
 * Reads from one database what its rules need to know: the SQL side of the catalog. Used by
 * catalog.c, and by the cutover to find the database of a rule that names none.
 */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "proxy/catalog.h"
#include "proxy/config.h"
#include "proxy/control.h"
#include "proxy/failure.h"

/* A list of names on the heap; all zero is an empty list. */
struct names {
    char **at;
    size_t count;
};
MUST_CHECK bool names_add(struct names *names, const char *name); /* false: out of memory */
bool names_has(const struct names *names, const char *name);
void names_free(struct names *names);

/* Every database that allows connections and is no template. */
MUST_CHECK bool catalog_list_databases(struct control *control, struct names *out,
                                       struct failure *f);

/* Whether the database has the rule's table. */
MUST_CHECK bool catalog_has_table(struct control *control, const struct config_rule *rule,
                                  bool *out, struct failure *f);

/* What a line in the print begins with that an operator should read, once. */
#define CATALOG_WARNING "warning: "

/* Reads the rules with the given indexes of the configuration into *out, whose members the caller
 * frees with catalog_database_fini(), also after a failure. What was read is also written to
 * `print`, so that two readings can be compared. Bit i of `moving`: configuration rule i counts as
 * reordered whatever was read. A rule without a database is passed over when the
 * table does not exist here. */
MUST_CHECK bool catalog_read_database(struct control *control, const struct config *config,
                                      const size_t *rules, size_t count, uint64_t moving,
                                      struct catalog_database *out, FILE *print, struct failure *f);
/* The live columns of a relation in the order in which applications know them, as rows of name,
 * type OID and number; `recorded` says that pgsluice.run exists. The caller ends it with PQclear().
 */
MUST_CHECK PGresult *catalog_read_columns(struct control *control, const struct config_rule *rule,
                                          const char *relation_oid, bool recorded,
                                          struct failure *f);
void catalog_database_fini(struct catalog_database *database);

/* The database in which the rule's table lives: the rule's, or the only one that has it. The caller
 * frees *out. */
MUST_CHECK bool catalog_locate(const struct config *config, const struct config_rule *rule,
                               bool (*abort_requested)(void *arg), void *abort_arg, char **out,
                               struct failure *f);

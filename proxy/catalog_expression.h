/*
 * Whether the server understands a rule's expression, asked when the catalog is read. Called by
 * catalog_read.c.
 */
#pragma once

#include <stdbool.h>

#include "proxy/config.h"
#include "proxy/control.h"
#include "proxy/failure.h"
#include "rules/rules.h"

/* Has the server analyse the expression over the table's other columns, `sources`, inside the open
 * transaction. What it says against it is in *complaint, which the caller frees; NULL when it has
 * nothing against it. False when it could not be asked. */
MUST_CHECK bool catalog_try_expression(struct control *control, const struct config_rule *rule,
                                       const struct rule_source *sources, size_t count,
                                       char **complaint, struct failure *f);

/*
 * The keys of the configuration file and what each does to a struct config. Called by config.c for
 * every `key = value` that it reads.
 */
#pragma once

#include "proxy/config.h"
#include "proxy/config_values.h"

enum config_section { CONFIG_SECTION_NONE, CONFIG_SECTION_MAIN, CONFIG_SECTION_RULE };

/* Enough for a bit per key of a section. */
#define CONFIG_KEYS_MAX 64

/* The number of the key within its section, or -1 with `why` ("unknown key ..., did you mean
 * ...?"). */
int config_key_find(enum config_section section, const char *name, struct value_why *why);

/* The key's name, as in the file. */
const char *config_key_label(enum config_section section, int key);

int config_key_count(enum config_section section);

/* The key's value as the file would have it, cut off at `size`; false when it has none, or one that
 * is not shown: what may hold a password. `rule` is whose it is, NULL in the main section. */
bool config_key_show(enum config_section section, const char *name, const struct config *config,
                     const struct config_rule *rule, char *room, size_t size);

/* Sets what the key says. `rule` is the one being read, NULL in the main section. On false, `why`
 * completes a sentence that begins with the quoted value. */
MUST_CHECK bool config_key_set(enum config_section section, int key, const char *value,
                               struct config *config, struct config_rule *rule,
                               struct value_why *why);

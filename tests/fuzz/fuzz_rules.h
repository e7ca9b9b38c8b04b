/*
 * The rule sets of the fuzz targets: the tables of tests/rules (see 01-insert.case), in every mode
 * and shape. A set is made when first asked for and lives as long as the process.
 */
#pragma once

#include "tests/fuzz/fuzz.h"

#include "rules/rules.h"

#define FUZZ_RULES 2

/* `setting`: two bits for the mode, two for the shape, then reordered, and unqualified = pass */
static inline struct rule_set *fuzz_rule_set(uint8_t setting)
{
    static const struct rule_column chunk_columns[] = {
        {"id", 20, false},
        {"collection_id", 1043, false},
        {"partition_key", 23, false},
        {"document_id", 1043, false},
        {"chunk_index", 23, false},
        {"content", 25, false},
        {"metadata", 3802, false},
    };
    static const struct rule_column renamed_columns[] = {
        {"id", 20, false}, {"pk", 23, false}, {"Text", 25, false}, {"length", 23, true}};
    static const struct rule_relation chunk_dependents[] = {
        {"public", "chunks_part_07", "partition_key", NULL, 0},
        {"public", "chunks_renamed", "pk", renamed_columns, 4},
        {.schema = "public", .name = "chunks_view"},
        {.schema = "public", .name = "chunks_light", .column = ""},
    };
    static const struct rule_source chunk_sources[] = {
        {"collection_id", "varchar(36)", false, {1043, 40, false}},
        {"chunk_index", "integer", false, {23, -1, false}},
        {"id", "bigint", true, {20, -1, false}},
    };
    static const struct rule_column note_columns[] = {{"bucket", 20, false},
                                                      {"Owner", 25, false},
                                                      {"order", 23, false},
                                                      {"system_user", 25, false}};
    static struct rule_set *sets[64];
    setting &= 63;
    const struct rule common = {
        .mode = (enum rule_mode)(setting & 3),
        .shape = (enum rule_shape)((setting >> 2 & 3) % 3),
        .reordered = (setting & 16) != 0,
        .unqualified_guarded = (setting & 32) == 0,
    };
    struct rule rules[FUZZ_RULES] = {common, common};
    rules[0].name = "chunks";
    rules[0].schema = "public";
    rules[0].table = "chunks";
    rules[0].column = "partition_key";
    rules[0].compares = true;
    rules[0].rejects_mismatch = (setting & 48) == 48;
    rules[0].columns = chunk_columns;
    rules[0].column_count = sizeof chunk_columns / sizeof chunk_columns[0];
    rules[0].dependents = chunk_dependents;
    rules[0].dependent_count = sizeof chunk_dependents / sizeof chunk_dependents[0];
    rules[0].expression = common.mode == RULE_MODE_COMPUTE
                              ? "mod(hashtext(collection_id::text), 100) + chunk_index"
                              : "mod(hashtext(collection_id::text), 100)";
    rules[0].sources = chunk_sources;
    rules[0].source_count = sizeof chunk_sources / sizeof chunk_sources[0];
    rules[1].name = "notes";
    rules[1].schema = "My App";
    rules[1].table = "Notes";
    rules[1].column = "bucket";
    rules[1].columns = note_columns;
    rules[1].column_count = sizeof note_columns / sizeof note_columns[0];
    if (sets[setting] == NULL) {
        sets[setting] = rule_set_new(rules, FUZZ_RULES, "app");
        FUZZ_CHECK(sets[setting] != NULL);
    }
    return sets[setting];
}

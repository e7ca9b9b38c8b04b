/*
 * Names and OIDs of the built-in types that parameters are declared with; both are fixed in
 * PostgreSQL's pg_type.dat. Called by params.c; owns nothing.
 */
#include <string.h>

#include "rules/analysis.h"

static const struct {
    const char *name;
    uint32_t oid;
} builtin_types[] = {
    {"bool", 16},     {"bytea", 17},       {"name", 19},          {"int8", 20},
    {"int2", 21},     {"int4", 23},        {"text", 25},          {"oid", 26},
    {"json", 114},    {"xml", 142},        {"point", 600},        {"cidr", 650},
    {"float4", 700},  {"float8", 701},     {"money", 790},        {"macaddr", 829},
    {"inet", 869},    {"bpchar", 1042},    {"varchar", 1043},     {"date", 1082},
    {"time", 1083},   {"timestamp", 1114}, {"timestamptz", 1184}, {"interval", 1186},
    {"timetz", 1266}, {"bit", 1560},       {"varbit", 1562},      {"numeric", 1700},
    {"uuid", 2950},   {"tsvector", 3614},  {"jsonb", 3802},       {"jsonpath", 4072},
};

enum { BUILTIN_TYPES = sizeof builtin_types / sizeof builtin_types[0] };

uint32_t type_oid_of(const TypeName *type)
{
    const int names = list_length(type->names);
    if (type->setof || type->pct_type || type->arrayBounds != NIL || names < 1 || names > 2) {
        return 0;
    }
    if (names == 2 && strcmp(strVal(linitial(type->names)), "pg_catalog") != 0) {
        return 0;
    }
    const char *name = strVal(llast(type->names));
    for (size_t i = 0; i < BUILTIN_TYPES; i++) {
        if (strcmp(builtin_types[i].name, name) == 0) {
            return builtin_types[i].oid;
        }
    }
    return 0;
}

const char *type_name_of(uint32_t oid)
{
    for (size_t i = 0; i < BUILTIN_TYPES; i++) {
        if (builtin_types[i].oid == oid) {
            return builtin_types[i].name;
        }
    }
    return NULL;
}

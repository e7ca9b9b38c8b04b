/*
 * The SQL for the partitions of a table: how they are paired, what of theirs is carried over, and
 * what is refused. One level of partitions, of plain tables; whatever they have besides what they
 * have from the table is name, tablespace, storage options, persistence, owner, grants, comment and
 * replica identity.
 */
#include "proxy/cutover/shadow_sql.h"

/* A name with a suffix, cut if it is too long. */
#define BESIDE(name, suffix)                                                                       \
    "CASE WHEN octet_length(" name ") + length(" suffix ") <= 63 THEN " name " || " suffix " "     \
    "ELSE left(" name ", 10) || '_' || left(md5(" name "), 8) || " suffix " END"

const char shadow_part_ctes[] =
    "kid AS (SELECT c.*, i.inhparent AS rel, n.nspname, format('%I.%I', n.nspname, c.relname) AS "
    "  name, row_number() OVER (PARTITION BY i.inhparent ORDER BY length(c.relname), c.relname) - "
    "1 "
    "  AS rank, count(*) OVER (PARTITION BY i.inhparent) AS siblings, obj_description(c.oid, "
    "  'pg_class') AS comment FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
    "  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.inhparent IN ({from}, {to})), "
    "kidname AS (SELECT kid.*, " BESIDE(
        "relname",
        "{to_suffix}") " AS fresh_name, "
                       "  " BESIDE(
                           "relname",
                           "{aside_suffix}") " AS aside FROM kid WHERE rel = {from}), "
                                             "kidpair AS (SELECT f.*, t.oid AS to_oid, t.relacl AS "
                                             "to_acl, t.relowner AS to_owner, "
                                             "  t.comment AS to_comment, t.relreplident AS "
                                             "to_replident FROM kidname f LEFT JOIN kid t "
                                             "  ON t.rel = {to} AND t.nspname = f.nspname AND "
                                             "t.relname = f.fresh_name), "
                                             /* Indexes of partitions that belong to an index of the
                                                table. */
                                             "kidix AS (SELECT x.oid, x.relname, n.nspname, k.oid "
                                             "AS kid, h.inhparent AS parent, "
                                             "  i.indisreplident, i.indisclustered, "
                                             "x.reltablespace, x.reloptions FROM kid k "
                                             "  JOIN pg_index i ON i.indrelid = k.oid JOIN "
                                             "pg_class x ON x.oid = i.indexrelid "
                                             "  JOIN pg_namespace n ON n.oid = x.relnamespace JOIN "
                                             "pg_inherits h ON h.inhrelid = x.oid), ";

const char shadow_part_refusals[] =
    "UNION ALL SELECT 'partition ' || k.name, CASE WHEN k.relkind <> 'r' OR EXISTS (SELECT "
    "FROM pg_inherits WHERE inhparent = k.oid) THEN 'it is partitioned itself, or no plain table' "
    "WHEN NOT pg_has_role(k.relowner, 'USAGE') THEN 'it belongs to ' || "
    "pg_get_userbyid(k.relowner) "
    "WHEN {to} <> 0 AND k.to_oid IS NULL AND pg_get_partkeydef({from}) <> pg_get_partkeydef({to}) "
    "THEN 'it has been added, and the other table has none like it' "
    "WHEN k.relrowsecurity OR k.relforcerowsecurity OR EXISTS (SELECT FROM pg_policy "
    "WHERE polrelid = k.oid) THEN 'it has policies of its own' "
    "WHEN EXISTS (SELECT FROM aclexplode(k.relacl) g WHERE g.grantor <> k.relowner) "
    "OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = k.oid AND a.attacl IS NOT NULL) "
    "THEN 'it has grants on columns, or that are not its owner''s' "
    "WHEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = k.oid AND NOT EXISTS (SELECT "
    "FROM kidix WHERE kidix.oid = i.indexrelid)) THEN 'it has an index of its own' "
    "WHEN EXISTS (SELECT FROM kidix i JOIN pg_class x ON x.oid = i.parent WHERE i.kid = k.oid "
    "AND (i.indisclustered OR i.reloptions IS DISTINCT FROM x.reloptions "
    "OR (i.reltablespace <> x.reltablespace AND i.reltablespace <> k.reltablespace))) "
    "THEN 'one of its indexes has options of its own, or is the CLUSTER mark' "
    "WHEN EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = k.oid AND ((c.contype IN "
    "('c', 'n') AND c.coninhcount = 0) OR (c.contype IN ('p', 'u', 'x', 'f') AND c.conparentid = "
    "0))) "
    "THEN 'it has a constraint of its own' "
    "WHEN EXISTS (SELECT FROM pg_constraint c WHERE c.confrelid = k.oid AND c.conparentid = 0) "
    "THEN 'a foreign key points to it' "
    "WHEN EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = k.oid AND NOT g.tgisinternal "
    "AND g.tgname <> {trigger_name} AND g.tgname NOT LIKE 'pgsluice\\_%' "
    "AND coalesce(to_jsonb(g) ->> 'tgparentid', '0') = '0') THEN 'it has a trigger of its own' "
    "WHEN EXISTS (SELECT FROM pg_attribute a JOIN pg_attribute p ON p.attrelid = {from} "
    "AND p.attname = a.attname WHERE a.attrelid = k.oid AND a.attnum > 0 AND NOT a.attisdropped "
    "AND (a.attstorage <> p.attstorage OR a.attnotnull <> p.attnotnull OR to_jsonb(a) -> "
    "'attstattarget' <> to_jsonb(p) -> 'attstattarget' OR to_jsonb(a) -> 'attcompression' <> "
    "to_jsonb(p) -> 'attcompression' OR ARRAY(SELECT o FROM unnest(a.attoptions) o "
    "WHERE o NOT LIKE 'pg\\_attver=%') <> ARRAY(SELECT o FROM unnest(p.attoptions) o "
    "WHERE o NOT LIKE 'pg\\_attver=%') OR (SELECT pg_get_expr(d.adbin, d.adrelid) "
    "FROM pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum) IS DISTINCT FROM "
    "(SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = p.attrelid "
    "AND d.adnum = p.attnum))) THEN 'its columns have options or defaults of their own' "
    "WHEN EXISTS (SELECT FROM pg_description d WHERE (d.classoid = 'pg_class'::regclass "
    "AND d.objoid = k.oid AND d.objsubid <> 0) OR (d.classoid = 'pg_class'::regclass "
    "AND d.objoid IN (SELECT oid FROM kidix WHERE kidix.kid = k.oid)) OR (d.classoid = "
    "'pg_constraint'::regclass AND d.objoid IN (SELECT oid FROM pg_constraint WHERE conrelid = "
    "k.oid))) OR EXISTS (SELECT FROM pg_seclabel s WHERE s.classoid = 'pg_class'::regclass "
    "AND s.objoid = k.oid) THEN 'comments on its columns, indexes or constraints, or labels' "
    "WHEN EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_class'::regclass "
    "AND d.refobjid = k.oid AND (d.classid IN ('pg_rewrite'::regclass, 'pg_policy'::regclass, "
    "'pg_publication_rel'::regclass, 'pg_proc'::regclass, 'pg_statistic_ext'::regclass) "
    "OR (d.classid = 'pg_class'::regclass AND d.objid IN (SELECT oid FROM pg_class "
    "WHERE relkind = 'S')))) OR EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = "
    "'pg_type'::regclass AND d.refobjid = k.reltype AND NOT (d.classid = 'pg_type'::regclass)) "
    "THEN 'views, policies, publications, statistics objects, functions or sequences depend on it' "
    "END FROM kidpair k ";

const char shadow_part_key_refusals[] =
    "UNION ALL SELECT 'partition ' || k.name, 'the table has none like it any more' FROM kid k "
    "WHERE k.rel = {to} AND k.oid NOT IN (SELECT to_oid FROM kidpair WHERE to_oid IS NOT NULL) "
    "UNION ALL SELECT 'foreign key ' || quote_ident(c.conname), 'a partitioned table''s foreign "
    "key "
    "cannot be made NOT VALID before PostgreSQL 18' FROM pg_constraint c, t WHERE c.contype = 'f' "
    "AND c.conrelid = {from} AND t.relkind = 'p' "
    "AND current_setting('server_version_num')::int < 180000 "
    "UNION ALL SELECT 'the table', format('partitions cannot be by %s instead of the generated "
    "column: index %I would not tell its rows apart', {partition_by}, x.relname) FROM pg_index i "
    "JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = {from} AND i.indisunique "
    "AND {hashed} AND EXISTS (SELECT FROM jsonb_array_elements_text({reads}::jsonb) r(name) "
    "WHERE r.name NOT IN (SELECT a.attname FROM pg_attribute a WHERE a.attrelid = {from} "
    "AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))) "
    "UNION ALL SELECT 'the table', 'it is partitioned by the column, and the expression reads no "
    "column that it could be partitioned by instead' WHERE {hashed} AND {reads}::jsonb = '[]' ";

const char shadow_part_steps[] =
    "UNION ALL SELECT 20, 1 + k.rank, format('ALTER TABLE %s RENAME TO %I', k.name, k.aside), "
    "NULL, "
    "NULL, NULL FROM kidpair k "
    "UNION ALL SELECT 21, 1 + k.rank, format('ALTER TABLE %I.%I RENAME TO %I', k.nspname, "
    "k.fresh_name, k.relname), NULL, NULL, NULL FROM kidpair k WHERE k.to_oid IS NOT NULL "
    "UNION ALL SELECT 48, 1 + k.rank, format('ALTER TABLE %s REPLICA IDENTITY %s', k.name, "
    "CASE k.relreplident WHEN 'd' THEN 'DEFAULT' WHEN 'n' THEN 'NOTHING' WHEN 'f' THEN 'FULL' "
    "ELSE 'USING INDEX ' || (SELECT quote_ident(o.relname) FROM kidix i JOIN pair p "
    "ON p.oid = i.parent JOIN kidix o ON o.parent = p.to_oid AND o.kid = k.to_oid "
    "WHERE i.kid = k.oid AND i.indisreplident) END), NULL, NULL, NULL FROM kidpair k "
    "WHERE k.relreplident = 'i' OR k.relreplident <> k.to_replident "
    /* Of their indexes there may be hundreds. Renaming them hinders nobody, and is done later. */
    "UNION ALL SELECT 90, w.ord, NULL, NULL, NULL, format('DO %L', format("
    "'BEGIN IF EXISTS (SELECT FROM pg_class WHERE oid = %s AND relname = %L) THEN "
    "ALTER INDEX %I.%I RENAME TO %I; END IF; END', w.oid, w.relname, i.nspname, w.relname, "
    "w.becomes)) FROM kidpair k JOIN kidix i ON i.kid = k.oid JOIN pair p ON p.oid = i.parent "
    "JOIN kidix o ON o.parent = p.to_oid AND o.kid = k.to_oid, LATERAL (VALUES "
    "(1, i.oid, i.relname, 'pgsluice_o' || i.oid), (2, o.oid, o.relname, i.relname)) "
    "w(ord, oid, relname, becomes) WHERE w.relname <> w.becomes ";

/*
 * The capture's SQL; see capture.h. The server composes the statements, so that its own quoting and
 * its own pg_get_*def() functions decide. Whatever depends on the column and is of no kind that is
 * known here is refused by the name that pg_describe_object() gives it.
 */
#include "proxy/cutover/capture.h"

#include <stdlib.h>
#include <string.h>

/* Columns: class, order, what, drop, restore, refusal, lock. */
static const char capture_ctes[] =
    "WITH RECURSIVE "
    /* Constraints of the table that name the column, also as an INCLUDE column. */
    "con AS (SELECT c.* FROM pg_constraint c WHERE c.conrelid = {rel} "
    "  AND c.contype IN ('p', 'u', 'x', 'c', 'f') AND ({num} = ANY (c.conkey) OR EXISTS ("
    "  SELECT FROM pg_depend d WHERE d.classid = 'pg_constraint'::regclass AND d.objid = c.oid "
    "  AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {rel} AND d.refobjsubid = "
    "{num}))), "
    /* Their indexes, and the indexes without a constraint. */
    "idx AS (SELECT i.*, k.oid AS con FROM pg_index i LEFT JOIN con k ON k.conindid = i.indexrelid "
    "  AND k.contype IN ('p', 'u', 'x') WHERE i.indrelid = {rel} AND (k.oid IS NOT NULL OR "
    "  {num} = ANY (i.indkey) OR EXISTS (SELECT FROM pg_depend d "
    "  WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid "
    "  AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {rel} AND d.refobjsubid = "
    "{num}))), "
    /* Foreign keys, outgoing and incoming; those of partitions follow their parent's. */
    "fk AS (SELECT c.* FROM pg_constraint c WHERE c.contype = 'f' AND c.conparentid = 0 AND "
    "  (c.oid IN (SELECT oid FROM con) OR (c.confrelid = {rel} AND (c.conindid IN ("
    "  SELECT indexrelid FROM idx) OR {num} = ANY (c.confkey))))), "
    /* Views over the column, or over a constraint (GROUP BY the primary key), and views over them.
     */
    "v(oid, depth) AS (SELECT w.ev_class, 1 FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid "
    "  WHERE d.classid = 'pg_rewrite'::regclass AND w.ev_class <> {rel} "
    "  AND w.rulename = '_RETURN' AND ((d.refclassid = 'pg_class'::regclass "
    "  AND d.refobjid = {rel} AND d.refobjsubid = {num}) OR (d.refclassid = "
    "  'pg_constraint'::regclass AND d.refobjid IN (SELECT oid FROM con))) "
    "  UNION SELECT w.ev_class, v.depth + 1 FROM v JOIN pg_depend d "
    "  ON d.refclassid = 'pg_class'::regclass AND d.refobjid = v.oid "
    "  AND d.classid = 'pg_rewrite'::regclass JOIN pg_rewrite w ON w.oid = d.objid "
    "  AND w.ev_class <> v.oid AND w.rulename = '_RETURN' WHERE v.depth < 100), "
    "view AS (SELECT v.oid, max(v.depth) AS depth FROM v JOIN pg_class k ON k.oid = v.oid "
    "  AND k.relkind = 'v' GROUP BY v.oid), "
    "pol AS (SELECT p.* FROM pg_policy p WHERE EXISTS (SELECT FROM pg_depend d "
    "  WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid "
    "  AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {rel} AND d.refobjsubid = {num})), "
    "trg AS (SELECT t.* FROM pg_trigger t WHERE NOT t.tgisinternal AND t.oid <> {trigger} "
    "  AND t.tgrelid = {rel} AND ({num} = ANY (t.tgattr) OR EXISTS (SELECT FROM pg_depend d "
    "  WHERE d.classid = 'pg_trigger'::regclass AND d.objid = t.oid "
    "  AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {rel} AND d.refobjsubid = "
    "{num}))), "
    "sta AS (SELECT s.* FROM pg_statistic_ext s WHERE s.stxrelid = {rel} AND ({num} = "
    "  ANY (s.stxkeys) OR EXISTS (SELECT FROM pg_depend d "
    "  WHERE d.classid = 'pg_statistic_ext'::regclass AND d.objid = s.oid "
    "  AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {rel} AND d.refobjsubid = "
    "{num}))), "
    "att AS (SELECT * FROM pg_attribute WHERE attrelid = {rel} AND attnum = {num}), "
    "rel AS (SELECT * FROM pg_class WHERE oid = {rel}), "
    "named AS (SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.relowner, c.relkind, "
    "  c.reltablespace, c.reloptions, c.relacl, n.nspname FROM pg_class c "
    "  JOIN pg_namespace n ON n.oid = c.relnamespace) ";

static const char capture_column[] =
    "SELECT 10, 1::int8, 'statistics target of the column', NULL, "
    "format('ALTER TABLE %s ALTER COLUMN %s SET STATISTICS %s', {name_text}, {col_text}, "
    "to_jsonb(a) ->> 'attstattarget'), NULL, NULL FROM att a "
    "WHERE (to_jsonb(a) ->> 'attstattarget')::int >= 0 "
    "UNION ALL SELECT 10, 2, 'options of the column', NULL, "
    "format('ALTER TABLE %s ALTER COLUMN %s SET (%s)', {name_text}, {col_text}, "
    "string_agg(format('%I = %L', split_part(o, '=', 1), split_part(o, '=', 2)), ', ')), NULL, "
    "NULL "
    "FROM att a, unnest(a.attoptions) o WHERE o NOT LIKE 'pg\\_attver=%' HAVING count(*) > 0 "
    "UNION ALL SELECT 10, 3, 'storage of the column', NULL, "
    "format('ALTER TABLE %s ALTER COLUMN %s SET STORAGE %s', {name_text}, {col_text}, "
    "CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' "
    "ELSE 'EXTENDED' END), NULL, NULL FROM att a JOIN pg_type t ON t.oid = a.atttypid "
    "WHERE a.attstorage <> t.typstorage "
    "UNION ALL SELECT 10, 4, 'compression of the column', NULL, "
    "format('ALTER TABLE %s ALTER COLUMN %s SET COMPRESSION %s', {name_text}, {col_text}, "
    "CASE to_jsonb(a) ->> 'attcompression' WHEN 'l' THEN 'lz4' ELSE 'pglz' END), NULL, NULL "
    "FROM att a WHERE to_jsonb(a) ->> 'attcompression' <> '' "
    "UNION ALL SELECT 10, 5, 'comment on the column', NULL, "
    "format('COMMENT ON COLUMN %s.%s IS %L', {name_text}, {col_text}, "
    "col_description({rel}, {num})), NULL, NULL WHERE col_description({rel}, {num}) IS NOT NULL "
    "UNION ALL SELECT 10, 6, format('grant of %s on the column', g.privilege_type), NULL, "
    "format('GRANT %s (%s) ON %s TO %s%s', g.privilege_type, {col_text}, {name_text}, "
    "CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END, "
    "CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), "
    "CASE WHEN g.grantor <> r.relowner THEN format('granted by %s, who is not the owner', "
    "pg_get_userbyid(g.grantor)) END, NULL FROM att a, rel r, aclexplode(a.attacl) g "
    "UNION ALL SELECT 10, 7, format('security label of %s', s.provider), NULL, "
    "format('SECURITY LABEL FOR %I ON COLUMN %s.%s IS %L', s.provider, {name_text}, {col_text}, "
    "s.label), NULL, NULL FROM pg_seclabel s WHERE s.classoid = 'pg_class'::regclass "
    "AND s.objoid = {rel} AND s.objsubid = {num} "
    "UNION ALL SELECT 10, 0, format('constraint %I', c.conname), NULL, "
    "concat_ws('; ', format('DO %L', format('DECLARE n name; BEGIN SELECT conname INTO n "
    "FROM pg_constraint WHERE conrelid = {rel} AND contype = ''n'' AND conkey = ARRAY[(SELECT "
    "attnum FROM pg_attribute WHERE attrelid = {rel} AND attname = %L)]; IF n <> %L THEN "
    "EXECUTE format(''ALTER TABLE %%s RENAME CONSTRAINT %%I TO %%I'', %L, n, %L); END IF; END', "
    "{key}, c.conname, {name_text}, c.conname)), "
    "(SELECT format('COMMENT ON CONSTRAINT %I ON %s IS %L', c.conname, {name_text}, "
    "obj_description(c.oid, 'pg_constraint')) "
    "WHERE obj_description(c.oid, 'pg_constraint') IS NOT NULL)), "
    "CASE WHEN NOT c.convalidated OR c.connoinherit THEN 'it is NOT VALID or NO INHERIT' END, NULL "
    "FROM pg_constraint c WHERE c.conrelid = {rel} AND c.contype = 'n' AND {num} = ANY (c.conkey) ";

static const char capture_index[] =
    "UNION ALL SELECT 20, i.indexrelid::int8, format('%s %s', CASE k.contype "
    "WHEN 'p' THEN 'primary key' WHEN 'u' THEN 'unique constraint' "
    "WHEN 'x' THEN 'exclusion constraint' ELSE 'index' END, n.name), "
    "CASE WHEN k.oid IS NULL THEN format('DROP INDEX %s', n.name) "
    "ELSE format('ALTER TABLE %s DROP CONSTRAINT %I', {name_text}, k.conname) END, "
    "concat_ws('; ', CASE WHEN n.reltablespace <> 0 THEN "
    "format('SET LOCAL default_tablespace = %I', s.spcname) END, "
    /* A constraint's own definition says nothing of operator classes or storage options: the index
     * is made first, and becomes the constraint. Exclusion constraints cannot be made so. */
    "CASE WHEN k.contype = 'x' OR to_jsonb(k) ->> 'conperiod' = 'true' THEN "
    "format('ALTER TABLE %s ADD CONSTRAINT %I %s', {name_text}, k.conname, "
    "pg_get_constraintdef(k.oid)) ELSE pg_get_indexdef(i.indexrelid) END, "
    "CASE WHEN (k.contype = 'x' OR to_jsonb(k) ->> 'conperiod' = 'true') AND "
    "n.reloptions IS NOT NULL THEN format('ALTER INDEX %s SET (%s)', n.name, "
    "array_to_string(n.reloptions, ', ')) END, "
    "CASE WHEN k.contype IN ('p', 'u') AND coalesce(to_jsonb(k) ->> 'conperiod', 'false') = "
    "'false' "
    "THEN format('ALTER TABLE %s ADD CONSTRAINT %I %s USING INDEX %I%s%s', {name_text}, k.conname, "
    "CASE k.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END, x.relname, "
    "CASE WHEN k.condeferrable THEN ' DEFERRABLE' ELSE '' END, "
    "CASE WHEN k.condeferred THEN ' INITIALLY DEFERRED' ELSE '' END) END, "
    "CASE WHEN n.reltablespace <> 0 THEN 'SET LOCAL default_tablespace = ''''' END, "
    "(SELECT string_agg(format('ALTER INDEX %s ALTER COLUMN %s SET STATISTICS %s', n.name, "
    "a.attnum, to_jsonb(a) ->> 'attstattarget'), '; ') FROM pg_attribute a "
    "WHERE a.attrelid = i.indexrelid AND (to_jsonb(a) ->> 'attstattarget')::int >= 0), "
    "(SELECT format('COMMENT ON INDEX %s IS %L', n.name, obj_description(i.indexrelid, "
    "'pg_class')) "
    "WHERE obj_description(i.indexrelid, 'pg_class') IS NOT NULL), "
    "(SELECT format('COMMENT ON CONSTRAINT %I ON %s IS %L', k.conname, {name_text}, "
    "obj_description(k.oid, 'pg_constraint')) "
    "WHERE obj_description(k.oid, 'pg_constraint') IS NOT NULL)), "
    "CASE WHEN NOT i.indisvalid OR NOT i.indisready THEN 'it is not valid: drop it or build it "
    "again "
    "first' END, NULL "
    "FROM idx i JOIN named n ON n.oid = i.indexrelid JOIN pg_class x ON x.oid = i.indexrelid "
    "LEFT JOIN con k ON k.oid = i.con LEFT JOIN pg_tablespace s ON s.oid = n.reltablespace ";

static const char capture_constraint[] =
    "UNION ALL SELECT 30, k.oid::int8, format('check constraint %I', k.conname), "
    "format('ALTER TABLE %s DROP CONSTRAINT %I', {name_text}, k.conname), concat_ws('; ', "
    "format('ALTER TABLE %s ADD CONSTRAINT %I %s', {name_text}, k.conname, "
    "pg_get_constraintdef(k.oid)), (SELECT format('COMMENT ON CONSTRAINT %I ON %s IS %L', "
    "k.conname, "
    "{name_text}, obj_description(k.oid, 'pg_constraint')) "
    "WHERE obj_description(k.oid, 'pg_constraint') IS NOT NULL)), NULL, NULL "
    "FROM con k WHERE k.contype = 'c' "
    "UNION ALL SELECT 35, k.oid::int8, format('foreign key %I of %s', k.conname, n.name), "
    "format('ALTER TABLE %s DROP CONSTRAINT %I', n.name, k.conname), concat_ws('; ', "
    "format('ALTER TABLE %s ADD CONSTRAINT %I %s', n.name, k.conname, "
    "pg_get_constraintdef(k.oid)), "
    "(SELECT format('COMMENT ON CONSTRAINT %I ON %s IS %L', k.conname, n.name, "
    "obj_description(k.oid, 'pg_constraint')) "
    "WHERE obj_description(k.oid, 'pg_constraint') IS NOT NULL)), "
    "CASE WHEN NOT pg_has_role(n.relowner, 'USAGE') THEN format('table %s belongs to %s', n.name, "
    "pg_get_userbyid(n.relowner)) WHEN k.conrelid = {rel} AND {num} = ANY (k.conkey) AND "
    "(k.confupdtype IN ('c', 'n', 'd') OR k.confdeltype IN ('n', 'd')) THEN "
    "'its action would write the generated column' END, "
    "CASE WHEN k.conrelid <> {rel} THEN n.name ELSE (SELECT f.name FROM named f "
    "WHERE f.oid = k.confrelid AND f.oid <> {rel}) END "
    "FROM fk k JOIN named n ON n.oid = k.conrelid "
    "UNION ALL SELECT 40, 1, 'CLUSTER mark', NULL, format('ALTER TABLE %s CLUSTER ON %I', "
    "{name_text}, x.relname), NULL, NULL FROM idx i JOIN pg_class x ON x.oid = i.indexrelid "
    "WHERE i.indisclustered "
    "UNION ALL SELECT 40, 2, 'replica identity', NULL, format('ALTER TABLE %s REPLICA IDENTITY "
    "USING INDEX %I', {name_text}, x.relname), NULL, NULL FROM idx i JOIN pg_class x "
    "ON x.oid = i.indexrelid JOIN rel r ON r.relreplident = 'i' WHERE i.indisreplident "
    "UNION ALL SELECT 45, s.oid::int8, format('statistics object %I', s.stxname), NULL, "
    "concat_ws('; ', pg_get_statisticsobjdef(s.oid), format('ALTER STATISTICS %I.%I OWNER TO %I', "
    "n.nspname, s.stxname, pg_get_userbyid(s.stxowner)), "
    "(SELECT format('ALTER STATISTICS %I.%I SET STATISTICS %s', n.nspname, s.stxname, "
    "to_jsonb(s) ->> 'stxstattarget') WHERE (to_jsonb(s) ->> 'stxstattarget')::int >= 0), "
    "(SELECT format('COMMENT ON STATISTICS %I.%I IS %L', n.nspname, s.stxname, "
    "obj_description(s.oid, 'pg_statistic_ext')) "
    "WHERE obj_description(s.oid, 'pg_statistic_ext') IS NOT NULL)), "
    "CASE WHEN NOT pg_has_role(s.stxowner, 'USAGE') THEN format('it belongs to %s', "
    "pg_get_userbyid(s.stxowner)) END, NULL "
    "FROM sta s JOIN pg_namespace n ON n.oid = s.stxnamespace ";

static const char capture_code[] =
    "UNION ALL SELECT 50, t.oid::int8, format('trigger %I', t.tgname), "
    "format('DROP TRIGGER %I ON %s', t.tgname, {name_text}), concat_ws('; ', "
    "pg_get_triggerdef(t.oid), CASE t.tgenabled WHEN 'D' THEN "
    "format('ALTER TABLE %s DISABLE TRIGGER %I', {name_text}, t.tgname) WHEN 'R' THEN "
    "format('ALTER TABLE %s ENABLE REPLICA TRIGGER %I', {name_text}, t.tgname) WHEN 'A' THEN "
    "format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', {name_text}, t.tgname) END, "
    "(SELECT format('COMMENT ON TRIGGER %I ON %s IS %L', t.tgname, {name_text}, "
    "obj_description(t.oid, 'pg_trigger')) WHERE obj_description(t.oid, 'pg_trigger') IS NOT "
    "NULL)), "
    "CASE WHEN t.tgtype & 2 = 2 AND t.tgqual IS NOT NULL THEN 'the condition of a BEFORE trigger "
    "cannot name a generated column' END, NULL FROM trg t "
    "UNION ALL SELECT 55, p.oid::int8, format('policy %I on %s', p.polname, n.name), "
    "format('DROP POLICY %I ON %s', p.polname, n.name), concat_ws('; ', "
    "format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', p.polname, n.name, "
    "CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END, "
    "CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' "
    "WHEN 'd' THEN 'DELETE' ELSE 'ALL' END, "
    "(SELECT string_agg(CASE o WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(o)) END, ', "
    "') "
    "FROM unnest(p.polroles) o), "
    "CASE WHEN p.polqual IS NOT NULL THEN format(' USING (%s)', "
    "pg_get_expr(p.polqual, p.polrelid)) ELSE '' END, "
    "CASE WHEN p.polwithcheck IS NOT NULL THEN format(' WITH CHECK (%s)', "
    "pg_get_expr(p.polwithcheck, p.polrelid)) ELSE '' END), "
    "(SELECT format('COMMENT ON POLICY %I ON %s IS %L', p.polname, n.name, "
    "obj_description(p.oid, 'pg_policy')) WHERE obj_description(p.oid, 'pg_policy') IS NOT NULL)), "
    "CASE WHEN NOT pg_has_role(n.relowner, 'USAGE') THEN format('table %s belongs to %s', n.name, "
    "pg_get_userbyid(n.relowner)) END, CASE WHEN p.polrelid <> {rel} THEN n.name END "
    "FROM pol p JOIN named n ON n.oid = p.polrelid ";

static const char capture_view[] =
    "UNION ALL SELECT 60, w.depth * 10000000000::int8 + w.oid::int8, format('view %s', n.name), "
    "format('DROP VIEW %s', n.name), concat_ws('; ', "
    "format('CREATE VIEW %s%s AS %s', n.name, CASE WHEN n.reloptions IS NULL THEN '' ELSE "
    "format(' WITH (%s)', array_to_string(n.reloptions, ', ')) END, rtrim(pg_get_viewdef(w.oid), ' "
    ";')), "
    "format('ALTER VIEW %s OWNER TO %I', n.name, pg_get_userbyid(n.relowner)), "
    "CASE WHEN n.relacl IS NOT NULL THEN format('REVOKE ALL ON %s FROM PUBLIC, %I', n.name, "
    "pg_get_userbyid(n.relowner)) END, "
    "(SELECT string_agg(format('GRANT %s ON %s TO %s%s', g.privilege_type, n.name, "
    "CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END, "
    "CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), '; ') "
    "FROM aclexplode(n.relacl) g), "
    "(SELECT string_agg(format('GRANT %s (%I) ON %s TO %s%s', g.privilege_type, a.attname, n.name, "
    "CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END, "
    "CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), '; ') "
    "FROM pg_attribute a, aclexplode(a.attacl) g WHERE a.attrelid = w.oid), "
    "(SELECT string_agg(CASE d.objsubid WHEN 0 THEN format('COMMENT ON VIEW %s IS %L', n.name, "
    "d.description) ELSE format('COMMENT ON COLUMN %s.%I IS %L', n.name, a.attname, d.description) "
    "END, '; ') FROM pg_description d LEFT JOIN pg_attribute a ON a.attrelid = w.oid "
    "AND a.attnum = d.objsubid WHERE d.classoid = 'pg_class'::regclass AND d.objoid = w.oid)), "
    "CASE WHEN NOT pg_has_role(n.relowner, 'USAGE') THEN format('it belongs to %s', "
    "pg_get_userbyid(n.relowner)) "
    "WHEN EXISTS (SELECT FROM pg_trigger WHERE tgrelid = w.oid) THEN 'it has triggers' "
    "WHEN EXISTS (SELECT FROM pg_rewrite WHERE ev_class = w.oid AND rulename <> '_RETURN') "
    "THEN 'it has rules' "
    "WHEN EXISTS (SELECT FROM pg_attrdef WHERE adrelid = w.oid) THEN 'its columns have defaults' "
    "WHEN EXISTS (SELECT FROM pg_seclabel WHERE objoid = w.oid) THEN 'it has a security label' "
    "WHEN EXISTS (SELECT FROM aclexplode(n.relacl) g WHERE g.grantor <> n.relowner) OR EXISTS ("
    "SELECT FROM pg_attribute a, aclexplode(a.attacl) g WHERE a.attrelid = w.oid "
    "AND g.grantor <> n.relowner) THEN 'it has grants that are not its owner''s' "
    "WHEN EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass "
    "AND d.objid = w.oid AND d.deptype = 'e') THEN 'it belongs to an extension' END, NULL "
    "FROM view w JOIN named n ON n.oid = w.oid ";

/* Everything else that depends on the column, on a constraint or index over it, or on a view. */
static const char capture_rest[] =
    "UNION ALL SELECT 99, 0, pg_describe_object(d.classid, d.objid, d.objsubid), NULL, NULL, "
    "'it depends on the column, and cannot be taken away and put back', NULL "
    "FROM (SELECT DISTINCT d.classid, d.objid, d.objsubid FROM pg_depend d WHERE "
    "((d.refclassid = 'pg_class'::regclass AND ((d.refobjid = {rel} AND d.refobjsubid = {num}) "
    "OR d.refobjid IN (SELECT indexrelid FROM idx) OR d.refobjid IN (SELECT oid FROM view))) "
    "OR (d.refclassid = 'pg_constraint'::regclass AND d.refobjid IN (SELECT oid FROM con)) "
    "OR (d.refclassid = 'pg_type'::regclass AND d.refobjid IN (SELECT t.oid FROM pg_type t "
    "JOIN view w ON t.typrelid = w.oid UNION SELECT t.typarray FROM pg_type t "
    "JOIN view w ON t.typrelid = w.oid))) "
    "AND NOT (d.classid = 'pg_constraint'::regclass AND (d.objid IN (SELECT oid FROM con) "
    "OR d.objid IN (SELECT c.oid FROM pg_constraint c JOIN fk ON c.oid = fk.oid "
    "OR c.conparentid = fk.oid) OR d.objid IN (SELECT c.oid FROM pg_constraint c "
    "WHERE c.conrelid = {rel} AND c.contype = 'n'))) "
    "AND NOT (d.classid = 'pg_class'::regclass AND (d.objid IN (SELECT indexrelid FROM idx) "
    "OR d.objid IN (SELECT oid FROM view))) "
    "AND NOT (d.classid = 'pg_rewrite'::regclass AND d.objid IN (SELECT w.oid FROM pg_rewrite w "
    "JOIN view ON view.oid = w.ev_class)) "
    "AND NOT (d.classid = 'pg_type'::regclass AND d.objid IN (SELECT t.oid FROM pg_type t "
    "JOIN view w ON t.typrelid = w.oid UNION SELECT t.typarray FROM pg_type t "
    "JOIN view w ON t.typrelid = w.oid)) "
    "AND NOT (d.classid = 'pg_policy'::regclass AND d.objid IN (SELECT oid FROM pol)) "
    "AND NOT (d.classid = 'pg_trigger'::regclass AND (d.objid = {trigger} "
    "OR d.objid IN (SELECT oid FROM trg) OR d.objid IN (SELECT t.oid FROM pg_trigger t JOIN fk "
    "ON t.tgconstraint = fk.oid) OR d.objid IN (SELECT t.oid FROM pg_trigger t JOIN con "
    "ON t.tgconstraint = con.oid))) "
    "AND NOT (d.classid = 'pg_statistic_ext'::regclass AND d.objid IN (SELECT oid FROM sta)) "
    "AND NOT (d.classid = 'pg_attrdef'::regclass AND d.objid IN (SELECT oid FROM pg_attrdef "
    "WHERE adrelid = {rel} AND adnum = {num})) "
    /* 12 to 14 record a generated column's own dependence on what its expression reads. */
    "AND NOT (d.classid = 'pg_class'::regclass AND d.objid = {rel} AND d.objsubid = {num})) d "
    "ORDER BY 1, 2, 3";

enum { COLUMN_CLASS, COLUMN_WHAT = 2, COLUMN_DROP, COLUMN_RESTORE, COLUMN_REFUSAL, COLUMN_LOCK };

/* The template's {name_text} and {col_text} are the quoted names as SQL string literals, for use in
 * format(). */
static char *compose(struct cutover *c)
{
    char *name = control_quote_literal(c->control, c->relation);
    char *col = control_quote_literal(c->control, c->column);
    struct text t;
    if (name == NULL || col == NULL || !text_begin(&t)) {
        free(name);
        free(col);
        return NULL;
    }
    const char *const parts[] = {capture_ctes, capture_column, capture_index, capture_constraint,
                                 capture_code, capture_view,   capture_rest};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        for (const char *p = parts[i]; *p != '\0';) {
            if (strncmp(p, "{name_text}", 11) == 0) {
                fputs(name, t.out);
                p += 11;
            } else if (strncmp(p, "{col_text}", 10) == 0) {
                fputs(col, t.out);
                p += 10;
            } else {
                fputc(*p++, t.out);
            }
        }
    }
    free(name);
    free(col);
    return text_end(&t);
}

bool capture_read(struct cutover *c, struct capture *out, struct failure *f)
{
    *out = (struct capture){.rows = NULL};
    char *template = compose(c);
    if (template == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    out->rows = context_query(c, template, STATEMENT_TIMEOUT_MS, f);
    free(template);
    if (out->rows == NULL) {
        return false;
    }
    for (size_t i = 0; i < capture_count(out); i++) {
        out->refused += capture_refusal(out, i) != NULL;
    }
    return true;
}

void capture_fini(struct capture *capture)
{
    PQclear(capture->rows);
    capture->rows = NULL;
}

size_t capture_count(const struct capture *capture)
{
    return capture->rows != NULL ? (size_t)PQntuples(capture->rows) : 0;
}

static const char *get(const struct capture *capture, size_t i, int column)
{
    return PQgetisnull(capture->rows, (int)i, column) ? NULL
                                                      : PQgetvalue(capture->rows, (int)i, column);
}

int capture_class(const struct capture *capture, size_t i)
{
    const char *number = get(capture, i, COLUMN_CLASS);
    return number != NULL ? (int)strtol(number, NULL, 10) : 0;
}

const char *capture_what(const struct capture *capture, size_t i)
{
    return get(capture, i, COLUMN_WHAT);
}

const char *capture_drop(const struct capture *capture, size_t i)
{
    return get(capture, i, COLUMN_DROP);
}

const char *capture_restore(const struct capture *capture, size_t i)
{
    return get(capture, i, COLUMN_RESTORE);
}

const char *capture_refusal(const struct capture *capture, size_t i)
{
    return get(capture, i, COLUMN_REFUSAL);
}

const char *capture_lock(const struct capture *capture, size_t i)
{
    return get(capture, i, COLUMN_LOCK);
}

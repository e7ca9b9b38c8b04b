/* The SQL of the comparison; see shape.h. Used by the composer, inside the flip's transaction. */
#include "proxy/cutover/shape.h"

#include <stddef.h>

#define ACL(column)                                                                                \
    "coalesce((SELECT string_agg(x::text, ',' ORDER BY x::text COLLATE \"C\") FROM unnest("          \
    column ") x), '')"
#define COMMENT(oid, catalog) "coalesce(obj_description(" oid ", '" catalog "'), '')"

const char *const shape_sql[] = {
    "SELECT concat_ws(' | ', 'table', (to_jsonb(c) - '{oid,reltype,relfilenode,relpages,reltuples,"
    "relallvisible,relallfrozen,relnatts,relhasindex,relhasrules,relhastriggers,relhassubclass,"
    "relfrozenxid,relminmxid,relacl,reltoastrelid,relrewrite}'::text[])::text, " ACL(
        "c.relacl") ", " COMMENT("c.oid", "pg_class") ") FROM pg_class c WHERE c.oid = {rel} "
    "UNION ALL SELECT concat_ws(' | ', 'column', a.attname, (to_jsonb(a) - '{attrelid,attnum,"
    "attcacheoff,attacl,attoptions,atthasdef,atthasmissing,attmissingval,attgenerated}'::text[])"
    "::text, " ACL("a.attacl") ", "
    "coalesce((SELECT string_agg(o, ',' ORDER BY o) FROM unnest(a.attoptions) o "
    "WHERE o NOT LIKE 'pg\\_attver=%'), ''), coalesce(col_description(a.attrelid, a.attnum), ''), "
    "CASE WHEN a.attname <> {key} THEN concat(to_jsonb(a) ->> 'attgenerated', (SELECT "
    "pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = a.attrelid "
    "AND d.adnum = a.attnum)) END) FROM pg_attribute a WHERE a.attrelid = {rel} AND a.attnum > 0 "
    "AND NOT a.attisdropped "
    "UNION ALL SELECT concat_ws(' | ', 'index', pg_get_indexdef(i.indexrelid), (to_jsonb(i) - "
    "'{indexrelid,indrelid,indkey,indclass,indcollation,indoption,indexprs,indpred,indcheckxmin}'"
    "::text[])::text, x.reltablespace, x.relowner, " COMMENT("i.indexrelid", "pg_class") ", "
    "(SELECT string_agg(coalesce(to_jsonb(a) ->> 'attstattarget', '-1'), ',' ORDER BY a.attnum) "
    "FROM pg_attribute a WHERE a.attrelid = i.indexrelid)) "
    "FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = {rel} "
    "UNION ALL SELECT concat_ws(' | ', 'constraint', k.conrelid::regclass, k.conname, k.contype, "
    "pg_get_constraintdef(k.oid), k.convalidated, k.conislocal, k.coninhcount, k.connoinherit, "
    "to_jsonb(k) ->> 'conenforced', " COMMENT("k.oid", "pg_constraint") ", "
    "(SELECT string_agg(t.tgenabled, ',' ORDER BY t.tgtype, t.tgrelid) FROM pg_trigger t "
    "WHERE t.tgconstraint = k.oid)) FROM pg_constraint k "
    "WHERE (k.conrelid = {rel} OR k.confrelid = {rel}) "
    "UNION ALL SELECT concat_ws(' | ', 'trigger', pg_get_triggerdef(t.oid), t.tgenabled, "
    "md5(p.prosrc), " COMMENT("t.oid", "pg_trigger") ") FROM pg_trigger t "
    "JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid = {rel} AND NOT t.tgisinternal "
    "AND t.tgname <> {trigger_name} ",
    "UNION ALL SELECT concat_ws(' | ', 'policy', p.polname, p.polrelid::regclass, p.polcmd, "
    "p.polpermissive, (SELECT string_agg(o::text, ',' ORDER BY o) FROM unnest(p.polroles) o), "
    "pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid), " COMMENT(
        "p.oid", "pg_policy") ") FROM pg_policy p WHERE p.polrelid = {rel} OR EXISTS (SELECT "
    "FROM pg_depend d WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid "
    "AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {rel}) "
    "UNION ALL SELECT concat_ws(' | ', 'rule', pg_get_ruledef(w.oid), w.ev_enabled) "
    "FROM pg_rewrite w WHERE w.ev_class = {rel} "
    "UNION ALL SELECT concat_ws(' | ', 'statistics', pg_get_statisticsobjdef(s.oid), s.stxowner, "
    "to_jsonb(s) ->> 'stxstattarget', " COMMENT("s.oid", "pg_statistic_ext") ") "
    "FROM pg_statistic_ext s WHERE s.stxrelid = {rel} "
    "UNION ALL SELECT concat_ws(' | ', 'label', s.provider, s.label, a.attname) FROM pg_seclabel s "
    "LEFT JOIN pg_attribute a ON a.attrelid = s.objoid AND a.attnum = s.objsubid "
    "WHERE s.classoid = 'pg_class'::regclass AND s.objoid = {rel} "
    "UNION ALL SELECT concat_ws(' | ', 'publication', p.pubname, to_jsonb(r) ->> 'prattrs') FROM pg_publication_rel r "
    "JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = {rel} "
    "UNION ALL SELECT DISTINCT concat_ws(' | ', 'dependent', "
    "pg_describe_object(d.classid, d.objid, d.objsubid), d.deptype) FROM pg_depend d "
    "WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = {rel} "
    "AND d.classid <> 'pg_trigger'::regclass "
    "AND NOT (d.classid = 'pg_class'::regclass AND d.objid = {rel}) "
    "AND NOT (d.classid = 'pg_attrdef'::regclass AND d.objid IN (SELECT e.oid FROM pg_attrdef e "
    "JOIN pg_attribute a ON a.attrelid = e.adrelid AND a.attnum = e.adnum "
    "WHERE e.adrelid = {rel} AND a.attname = {key})) "
    "UNION ALL SELECT line FROM (WITH RECURSIVE v(oid) AS (SELECT {rel}::oid UNION "
    "SELECT w.ev_class FROM v JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass "
    "AND d.refobjid = v.oid AND d.classid = 'pg_rewrite'::regclass "
    "JOIN pg_rewrite w ON w.oid = d.objid) "
    "SELECT concat_ws(' | ', 'view', c.oid::regclass, c.relkind, pg_get_viewdef(c.oid), c.relowner, "
    "c.reloptions, " ACL("c.relacl") ", (SELECT string_agg(concat(a.attname, " ACL(
        "a.attacl") ", col_description(c.oid, a.attnum)), ',' ORDER BY a.attnum) "
    "FROM pg_attribute a WHERE a.attrelid = c.oid), " COMMENT("c.oid", "pg_class") ") AS line "
    "FROM v JOIN pg_class c ON c.oid = v.oid WHERE c.relkind IN ('v', 'm')) q",
    NULL,
};

const char shape_intended_sql[] =
    "SELECT concat_ws(' | ', 'column', a.attnum, to_jsonb(a) ->> 'attgenerated', (SELECT "
    "pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = a.attrelid "
    "AND d.adnum = a.attnum)) FROM pg_attribute a WHERE a.attrelid = {rel} AND a.attname = {key} "
    "UNION ALL SELECT concat_ws(' | ', 'trigger', t.oid, pg_get_triggerdef(t.oid), t.tgenabled, "
    "md5(p.prosrc), " COMMENT("t.oid", "pg_trigger") ") FROM pg_trigger t "
    "JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid = {rel} AND t.tgname = {trigger_name}";

/* The SQL of the comparison; see shape.h. Used by the composer, inside the flip's transaction. */
#include "proxy/cutover/shape.h"

#include <stdlib.h>
#include <string.h>

/* Whole catalog rows go in as JSON, without what names objects by number or changes by itself, so
 * that columns that later versions add are compared as well. */
const char *const shape_sql[] = {
    "SELECT jsonb_build_array('table', to_jsonb(c) - '{oid,reltype,relfilenode,relpages,reltuples,"
    "relallvisible,relallfrozen,relnatts,relhasindex,relhasrules,relhastriggers,relhassubclass,"
    "relfrozenxid,relminmxid,relacl,reltoastrelid,relrewrite}'::text[], "
    "(SELECT string_agg(x::text, ',' ORDER BY x::text COLLATE \"C\") FROM unnest("
    "coalesce(c.relacl, acldefault('r', c.relowner))) x), (SELECT o.reloptions FROM pg_class o "
    "WHERE o.oid = c.reltoastrelid), "
    "obj_description(c.oid, 'pg_class'))::text FROM pg_class c WHERE c.oid = {rel} ",

    /* 15.20 and its sister releases keep a mark of their own in attoptions. */
    "UNION ALL SELECT jsonb_build_array('column', to_jsonb(a) - '{attrelid,attnum,attcacheoff,"
    "attacl,attoptions,atthasdef,atthasmissing,attmissingval,attgenerated}'::text[], "
    "(SELECT string_agg(x::text, ',' ORDER BY x::text COLLATE \"C\") FROM unnest(a.attacl) x), "
    "(SELECT string_agg(o, ',' ORDER BY o) FROM unnest(a.attoptions) o "
    "WHERE o NOT LIKE 'pg\\_attver=%'), col_description(a.attrelid, a.attnum), "
    "CASE WHEN a.attname <> {key} THEN to_jsonb(a) ->> 'attgenerated' END, "
    "CASE WHEN a.attname <> {key} THEN (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d "
    "WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum) END)::text FROM pg_attribute a "
    "WHERE a.attrelid = {rel} AND a.attnum > 0 AND NOT a.attisdropped ",

    "UNION ALL SELECT jsonb_build_array('index', pg_get_indexdef(i.indexrelid), to_jsonb(i) - "
    "'{indexrelid,indrelid,indkey,indclass,indcollation,indoption,indexprs,indpred,indcheckxmin}'"
    "::text[], x.reltablespace, x.relowner, obj_description(i.indexrelid, 'pg_class'), "
    "(SELECT string_agg(coalesce(to_jsonb(a) ->> 'attstattarget', '-1'), ',' ORDER BY a.attnum) "
    "FROM pg_attribute a WHERE a.attrelid = i.indexrelid))::text "
    "FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = {rel} ",

    "UNION ALL SELECT jsonb_build_array('constraint', k.conrelid::regclass, k.conname, k.contype, "
    "pg_get_constraintdef(k.oid), k.convalidated, k.conislocal, k.coninhcount, k.connoinherit, "
    "to_jsonb(k) ->> 'conenforced', obj_description(k.oid, 'pg_constraint'), "
    "(SELECT string_agg(t.tgenabled, ',' ORDER BY t.tgtype, t.tgenabled) FROM pg_trigger t "
    "WHERE t.tgconstraint = k.oid))::text FROM pg_constraint k "
    "WHERE k.conrelid = {rel} OR k.confrelid = {rel} ",

    "UNION ALL SELECT jsonb_build_array('trigger', pg_get_triggerdef(t.oid), t.tgenabled, "
    "md5(p.prosrc), obj_description(t.oid, 'pg_trigger'))::text FROM pg_trigger t "
    "JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid = {rel} AND NOT t.tgisinternal "
    "AND t.tgname <> {trigger_name} AND t.tgname NOT LIKE 'pgsluice\\_%' ",

    "UNION ALL SELECT jsonb_build_array('policy', p.polname, p.polrelid::regclass, p.polcmd, "
    "p.polpermissive, (SELECT string_agg(o::text, ',' ORDER BY o) FROM unnest(p.polroles) o), "
    "pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid), "
    "obj_description(p.oid, 'pg_policy'))::text FROM pg_policy p WHERE p.polrelid = {rel} "
    "OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_policy'::regclass AND d.objid = "
    "p.oid "
    "AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {rel}) ",

    "UNION ALL SELECT jsonb_build_array('rule', pg_get_ruledef(w.oid), w.ev_enabled)::text "
    "FROM pg_rewrite w WHERE w.ev_class = {rel} ",

    "UNION ALL SELECT jsonb_build_array('statistics', pg_get_statisticsobjdef(s.oid), s.stxowner, "
    "to_jsonb(s) ->> 'stxstattarget', obj_description(s.oid, 'pg_statistic_ext'))::text "
    "FROM pg_statistic_ext s WHERE s.stxrelid = {rel} ",

    "UNION ALL SELECT jsonb_build_array('label', s.provider, s.label, a.attname)::text "
    "FROM pg_seclabel s LEFT JOIN pg_attribute a ON a.attrelid = s.objoid AND a.attnum = "
    "s.objsubid "
    "WHERE s.classoid = 'pg_class'::regclass AND s.objoid = {rel} ",

    "UNION ALL SELECT jsonb_build_array('publication', p.pubname, (SELECT string_agg(a.attname, "
    "',' "
    "ORDER BY a.attname) FROM regexp_split_to_table(trim(translate(to_jsonb(r) ->> 'prattrs', "
    "'[],', '   ')), '\\s+') n(num) JOIN pg_attribute a ON a.attrelid = r.prrelid "
    "AND a.attnum::text = n.num))::text "
    "FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid "
    "WHERE r.prrelid = {rel} ",

    "UNION ALL SELECT DISTINCT jsonb_build_array('dependent', "
    "pg_describe_object(d.classid, d.objid, d.objsubid), d.deptype)::text FROM pg_depend d "
    "WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = {rel} "
    "AND d.classid <> 'pg_trigger'::regclass "
    "AND NOT (d.classid = 'pg_class'::regclass AND d.objid = {rel}) "
    "AND NOT (d.classid = 'pg_class'::regclass AND d.objid IN (SELECT reltoastrelid FROM pg_class "
    "WHERE oid = {rel})) "
    "AND NOT (d.classid = 'pg_attrdef'::regclass AND d.objid IN (SELECT e.oid FROM pg_attrdef e "
    "JOIN pg_attribute a ON a.attrelid = e.adrelid AND a.attnum = e.adnum "
    "WHERE e.adrelid = {rel} AND a.attname = {key})) ",

    "UNION ALL SELECT line FROM (WITH RECURSIVE v(oid) AS (SELECT {rel}::oid UNION "
    "SELECT w.ev_class FROM v JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass "
    "AND d.refobjid = v.oid AND d.classid = 'pg_rewrite'::regclass "
    "JOIN pg_rewrite w ON w.oid = d.objid) "
    "SELECT jsonb_build_array('view', c.oid::regclass, c.relkind, pg_get_viewdef(c.oid), "
    "c.relowner, c.reloptions, "
    "(SELECT string_agg(x::text, ',' ORDER BY x::text COLLATE \"C\") FROM unnest(c.relacl) x), "
    "(SELECT jsonb_agg(jsonb_build_array(a.attname, a.atttypid, (SELECT string_agg(x::text, ',' "
    "ORDER BY x::text COLLATE \"C\") FROM unnest(a.attacl) x), col_description(c.oid, a.attnum)) "
    "ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid), "
    "obj_description(c.oid, 'pg_class'))::text AS line FROM v JOIN pg_class c ON c.oid = v.oid "
    "WHERE c.relkind IN ('v', 'm')) q",
    NULL,
};

const char shape_intended_sql[] =
    "SELECT jsonb_build_array('column', a.attnum, to_jsonb(a) ->> 'attgenerated', (SELECT "
    "pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = a.attrelid "
    "AND d.adnum = a.attnum))::text FROM pg_attribute a "
    "WHERE a.attrelid = {rel} AND a.attname = {key} "
    "UNION ALL SELECT jsonb_build_array('trigger', t.oid, pg_get_triggerdef(t.oid), t.tgenabled, "
    "md5(p.prosrc), obj_description(t.oid, 'pg_trigger'))::text FROM pg_trigger t "
    "JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid = {rel} AND t.tgname = {trigger_name}";

char *shape_digest(struct cutover *c, struct failure *f)
{
    struct text t;
    if (!text_begin(&t)) {
        fail(f, EXIT_REFUSED, "out of memory");
        return NULL;
    }
    fputs("SELECT md5(string_agg(line, E'\\n' ORDER BY line COLLATE \"C\")) FROM (", t.out);
    for (const char *const *piece = shape_sql; *piece != NULL; piece++) {
        fputs(*piece, t.out);
    }
    fprintf(t.out, " UNION ALL %s) s(line) WHERE line NOT LIKE '%%pgsluice.capture\\_%%'",
            shape_intended_sql);
    char *sql = text_end(&t);
    PGresult *r = sql != NULL ? context_query(c, sql, STATEMENT_TIMEOUT_MS, f) : NULL;
    free(sql);
    char *digest = r != NULL ? strdup(PQgetvalue(r, 0, 0)) : NULL;
    PQclear(r);
    return digest;
}

/*
 * The preflight's checks of what leaves the server and what comes in: publications, replica
 * identity, slots, subscriptions, standbys; see preflight.h.
 */
#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/preflight_parts.h"

/* Up to 17 no generated column is published; from 18 on a publication may say so. */
static const char publications_sql[] =
    "SELECT coalesce(json_agg(DISTINCT p.pubname), '[]') FROM pg_publication_tables t "
    "JOIN pg_publication p ON p.pubname = t.pubname WHERE t.schemaname::regnamespace = "
    "(SELECT relnamespace FROM pg_class WHERE oid = {rel}) "
    "AND t.tablename = (SELECT relname FROM pg_class WHERE oid = {rel}) "
    "AND coalesce(to_jsonb(p) ->> 'pubgencols', 'n') <> 's'";

static bool check_publications(struct cutover *c, struct failure *f)
{
    struct names of;
    if (!preflight_names(c, publications_sql, &of, f)) {
        return false;
    }
    if (of.count > 0 && control_version(c->control) >= 180000) {
        report_check(c, "publications", CHECK_BLOCK,
                     "take the table out of the publications, or publish with "
                     "publish_generated_columns = stored",
                     "generated columns are not published by %s: subscribers would miss the "
                     "column, and where it belongs to the replica identity this server refuses "
                     "the applications' UPDATE and DELETE (42P10)",
                     of.text);
    } else if (of.count > 0) {
        report_check(c, "publications", CHECK_BLOCK,
                     "take the table out of the publications, or upgrade to 18 and publish with "
                     "publish_generated_columns = stored",
                     "before PostgreSQL 18 generated columns are never published: subscribers of "
                     "%s would miss the column, and where it belongs to the replica identity their "
                     "workers stop at the first UPDATE or DELETE",
                     of.text);
    } else {
        report_check(c, "publications", CHECK_PASS, NULL, "no publication would miss the column");
    }
    free(of.text);
    return true;
}

static const char identity_sql[] =
    "SELECT json_build_object('kind', c.relreplident, 'index', (SELECT indexrelid::regclass::text "
    "FROM pg_index i WHERE i.indrelid = c.oid AND CASE c.relreplident WHEN 'd' THEN i.indisprimary "
    "ELSE i.indisreplident END), 'has_column', c.relreplident = 'f' OR EXISTS (SELECT FROM "
    "pg_index i WHERE i.indrelid = c.oid AND {num} = ANY (i.indkey) AND CASE c.relreplident "
    "WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END), "
    "'published', EXISTS (SELECT FROM pg_publication_tables t WHERE t.schemaname = "
    "(SELECT nspname FROM pg_namespace n WHERE n.oid = c.relnamespace) "
    "AND t.tablename = c.relname)) FROM pg_class c WHERE c.oid = {rel}";

static bool check_identity(struct cutover *c, struct failure *f)
{
    json_t *found = context_json(context_query(c, identity_sql, STATEMENT_TIMEOUT_MS, f), f);
    if (found == NULL) {
        return false;
    }
    const char *kind = json_string_value(json_object_get(found, "kind"));
    const char *index = json_string_value(json_object_get(found, "index"));
    bool full = kind != NULL && strcmp(kind, "f") == 0;
    const char *what = full ? "REPLICA IDENTITY FULL" : (index != NULL ? index : "none");
    bool has_column = json_is_true(json_object_get(found, "has_column"));
    bool published = json_is_true(json_object_get(found, "published"));
    if (!has_column) {
        report_check(c, "replica-identity", CHECK_PASS, NULL, "%s, without the column", what);
    } else if (!published) {
        report_check(c, "replica-identity", CHECK_PASS, NULL,
                     "%s contains the column; no publication has the table", what);
    } else {
        report_check(c, "replica-identity", CHECK_WARN,
                     "before you publish without the column: a unique index without it, and "
                     "REPLICA IDENTITY USING INDEX, on both sides",
                     "%s contains the column and the table is published: a subscriber needs the "
                     "generated column to be sent",
                     what);
    }
    json_decref(found);
    return true;
}

static bool check_slots(struct cutover *c, struct failure *f)
{
    struct names of;
    if (!preflight_names(c,
                         "SELECT coalesce(json_agg(format('%s (%s)', slot_name, plugin)), '[]') "
                         "FROM pg_replication_slots WHERE slot_type = 'logical' "
                         "AND database = current_database()",
                         &of, f)) {
        return false;
    }
    if (of.count > 0) {
        report_check(c, "replication-slots", CHECK_WARN,
                     "ask who reads them (Debezium, another server) whether a generated column is "
                     "expected, and watch what they hold back: the rewrite is all in the WAL",
                     "logical slots on this database: %s", of.text);
    } else {
        report_check(c, "replication-slots", CHECK_PASS, NULL,
                     "no logical slot reads this database");
    }
    free(of.text);
    return true;
}

/* Into a generated column nothing can be replicated. */
static bool check_subscriptions(struct cutover *c, struct failure *f)
{
    struct names of;
    if (!preflight_names(c,
                         "SELECT coalesce(json_agg(DISTINCT coalesce(s.subname::text, "
                         "'subscription ' || r.srsubid)), '[]') FROM pg_subscription_rel r "
                         "LEFT JOIN pg_stat_subscription s ON s.subid = r.srsubid "
                         "WHERE r.srrelid = {rel}",
                         &of, f)) {
        return false;
    }
    if (of.count > 0) {
        report_check(c, "subscriptions", CHECK_BLOCK,
                     "cut the publisher over first, with the table out of the subscription",
                     "the table is filled by %s: its worker would stop, because nothing can be "
                     "replicated into a generated column",
                     of.text);
    } else {
        report_check(c, "subscriptions", CHECK_PASS, NULL, "no subscription fills the table");
    }
    free(of.text);
    return true;
}

static const char standbys_sql[] =
    "SELECT json_build_object('names', coalesce((SELECT json_agg(format('%s (%s, %s)', "
    "coalesce(nullif(application_name, ''), pid::text), state, sync_state)) "
    "FROM pg_stat_replication), '[]'), 'waits', current_setting('synchronous_standby_names') <> '' "
    "AND current_setting('synchronous_commit') <> ALL ('{off,local}'::text[]))";

static bool check_standbys(struct cutover *c, struct failure *f)
{
    json_t *found = context_json(context_query(c, standbys_sql, STATEMENT_TIMEOUT_MS, f), f);
    if (found == NULL) {
        return false;
    }
    const json_t *names = json_object_get(found, "names");
    char *text = text_join(names);
    if (text == NULL) {
        json_decref(found);
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    if (json_is_true(json_object_get(found, "waits"))) {
        report_check(
            c, "standbys", CHECK_WARN,
            "see that they are near and healthy: the hold lasts until they have the commit",
            "commits wait for synchronous standbys, and the flip's WAL is as large as the "
            "table: %s",
            *text != '\0' ? text : "none is connected");
    } else if (*text != '\0') {
        report_check(c, "standbys", CHECK_WARN,
                     "expect lag, and cancelled queries beyond max_standby_streaming_delay",
                     "they replay the rewrite and its exclusive lock, which stops their readers as "
                     "well: %s",
                     text);
    } else {
        report_check(c, "standbys", CHECK_PASS, NULL, "none is connected");
    }
    free(text);
    json_decref(found);
    return true;
}

bool preflight_replication(struct cutover *c, struct failure *f)
{
    return check_publications(c, f) && check_identity(c, f) && check_slots(c, f) &&
           check_subscriptions(c, f) && check_standbys(c, f);
}

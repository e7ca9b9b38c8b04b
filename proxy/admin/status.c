/* Sums the workers' and gates' counters; see status.h. */
#include "proxy/admin/status.h"

#include <unistd.h>

#include "proxy/worker.h"

static uint64_t read_counter(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static json_t *counters(const struct service *service)
{
    uint64_t sessions = 0, total = 0, statements = 0, judged = 0;
    uint64_t observed = 0, stripped = 0, computed = 0, refused = 0;
    uint64_t hits = 0, misses = 0, bytes = 0;
    json_t *by_worker = json_array();
    for (unsigned i = 0; i < service->worker_count; i++) {
        const struct worker_counters *c = &service->workers[i]->counters;
        sessions += read_counter(&c->sessions);
        json_array_append_new(by_worker, json_integer((json_int_t)read_counter(&c->sessions)));
        total += read_counter(&c->sessions_total);
        statements += read_counter(&c->statements);
        judged += read_counter(&c->judged);
        observed += read_counter(&c->observed);
        stripped += read_counter(&c->stripped);
        computed += read_counter(&c->computed);
        refused += read_counter(&c->refused);
        hits += read_counter(&c->cache_hits);
        misses += read_counter(&c->cache_misses);
        bytes += read_counter(&c->cache_bytes);
    }
    double ratio = hits + misses == 0 ? 0 : (double)hits / (double)(hits + misses);
    return json_pack("{s:I, s:o, s:I, s:I, s:I, s:{s:I, s:I, s:I, s:I}, s:{s:I, s:I, s:f, s:I}}",
                     "sessions", (json_int_t)sessions, "sessions_by_worker", by_worker,
                     "sessions_total", (json_int_t)total, "transactions", (json_int_t)statements,
                     "judged", (json_int_t)judged, "keys", "observed", (json_int_t)observed,
                     "stripped", (json_int_t)stripped, "computed", (json_int_t)computed, "refused",
                     (json_int_t)refused, "verdict_cache", "hits", (json_int_t)hits, "misses",
                     (json_int_t)misses, "hit_ratio", ratio, "bytes", (json_int_t)bytes);
}

static json_t *gates(const struct service *service)
{
    static const char *const names[] = {
        [GATE_OPEN] = "open", [GATE_ARMED] = "armed", [GATE_HOLDING] = "holding"};
    json_t *list = json_array();
    for (size_t i = 0; i < service_config(service)->rule_count; i++) {
        const struct config_rule *rule = &service_config(service)->rules[i];
        struct gate_counts c;
        gate_count(service->gates[i], &c);
        json_array_append_new(
            list,
            json_pack("{s:s, s:s+++, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "rule",
                      rule->name, "table", rule->schema, ".", rule->table, "", "state",
                      names[gate_state(service->gates[i])], "held", (json_int_t)c.held,
                      "inflight_writes", (json_int_t)c.inflight_writes, "snapshots",
                      (json_int_t)c.snapshots, "unstripped", (json_int_t)c.unstripped, "held_total",
                      (json_int_t)c.held_total, "expired_total", (json_int_t)c.expired_total,
                      "dropped_total", (json_int_t)c.dropped_total, "overflow_total",
                      (json_int_t)c.overflow_total, "max_held_ms", (double)c.max_held_ns / 1e6));
    }
    return list;
}

json_t *status_report(const struct service *service)
{
    struct audit_counters audit;
    audit_count(service->audit, &audit);
    return json_pack("{s:s, s:s, s:I, s:I, s:b, s:o, s:o, s:{s:I, s:I, s:b}}", "command", "status",
                     "version", PGSLUICE_VERSION, "pid", (json_int_t)getpid(), "workers",
                     (json_int_t)service->worker_count, "draining",
                     (int)atomic_load(&service->draining), "counters", counters(service), "gates",
                     gates(service), "audit", "written", (json_int_t)audit.written, "lost",
                     (json_int_t)audit.lost, "healthy", (int)audit_healthy(service->audit));
}

/* The report's page; see html.h. Its plots are in html_plot.c. */
#include "proxy/cutover/html.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static const char style[] =
    ":root{--ink:#18212c;--soft:#5a6775;--line:#dfe4ea;--paper:#fff;--wash:#f5f7f9;--write:#d9541e;"
    "--read:#2c6fbb;--hold:#f3c96b55;--good:#1d7f4e;--goodbg:#e2f4ea;--warn:#8a5a00;--warnbg:#"
    "fdf1d3;"
    "--bad:#b3261e;--badbg:#fbe4e2;--bar:#4d7ea8}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#9aa7b4;--line:#313b46;"
    "--paper:#141a21;--wash:#1c242d;--write:#ff8a55;--read:#6ba8ee;--hold:#c9972e44;--good:#6fd3a0;"
    "--goodbg:#173326;--warn:#f0c767;--warnbg:#3a2f13;--bad:#ff9d95;--badbg:#3f1f1d;--bar:#7fb0d8}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--wash);color:var(--ink);"
    "font:15px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}"
    "main{max-width:1040px;margin:0 auto;padding:36px 24px 64px}"
    "header h1{font-size:29px;line-height:1.2;margin:4px 0 10px;letter-spacing:-.015em}"
    ".over{color:var(--soft);text-transform:uppercase;letter-spacing:.09em;font-size:12px;"
    "font-weight:600}.meta{color:var(--soft);font-size:13.5px}.meta code{color:var(--ink)}"
    "section{background:var(--paper);border:1px solid var(--line);border-radius:12px;"
    "padding:22px 26px;margin-top:20px}h2{font-size:18px;margin:0 0 12px}"
    "h3{font-size:14px;margin:14px 0 6px}"
    ".banner{border-radius:12px;padding:16px 22px;margin-top:18px;font-size:16px;font-weight:600}"
    ".banner.pass{background:var(--goodbg);color:var(--good)}"
    ".banner.block{background:var(--badbg);color:var(--bad)}"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(128px,1fr));gap:10px;"
    "margin-top:18px}.tile{background:var(--paper);border:1px solid var(--line);border-radius:12px;"
    "padding:12px 14px}.tile b{display:block;font-size:20px;line-height:1.3;white-space:nowrap;"
    "letter-spacing:-.01em;"
    "font-variant-numeric:tabular-nums}.tile span{color:var(--soft);font-size:12.5px}"
    "table{border-collapse:collapse;width:100%;font-size:14px}td,th{text-align:left;"
    "vertical-align:top;padding:8px 10px 8px 0;border-top:1px solid var(--line)}"
    "th{border-top:0;color:var(--soft);font-weight:600;font-size:12.5px}"
    "td:first-child{white-space:nowrap;width:1%}td.id{white-space:nowrap;width:1%}"
    ".num{font-variant-numeric:tabular-nums;text-align:right;white-space:nowrap}"
    ".pill{display:inline-block;border-radius:999px;padding:1px 9px;font-size:11.5px;"
    "font-weight:700;letter-spacing:.03em}.pill.pass{background:var(--goodbg);color:var(--good)}"
    ".pill.warn{background:var(--warnbg);color:var(--warn)}"
    ".pill.block{background:var(--badbg);color:var(--bad)}"
    ".remedy{color:var(--soft);display:block}.remedy::before{content:'\\2192\\00a0'}"
    "code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
    "font-size:12.5px}pre{background:var(--wash);border:1px solid var(--line);border-radius:8px;"
    "padding:14px 16px;overflow-x:auto;margin:8px 0;white-space:pre-wrap;overflow-wrap:anywhere}"
    "figure{margin:8px 0 0}figcaption,.note{color:var(--soft);font-size:13px;margin-top:8px;"
    "max-width:80ch}svg{width:100%;height:auto;display:block}svg text{font-size:12px;"
    "fill:var(--soft)}.grid{stroke:var(--line)}.axis{stroke:var(--soft)}.hold{fill:var(--hold)}"
    ".band-label{fill:var(--warn)!important;font-weight:600}circle.write{fill:var(--write)}"
    "circle.read{fill:var(--read);fill-opacity:.75}.bar{fill:var(--bar)}"
    ".mean{stroke:var(--write);stroke-dasharray:5 4}.mean-label{fill:var(--write)!important;"
    "font-weight:600}.key{display:inline-block;width:9px;height:9px;border-radius:50%}"
    ".key.write{background:var(--write)}.key.read{background:var(--read)}"
    ".cost{display:grid;grid-template-columns:82px 1fr 84px;gap:10px;align-items:center;"
    "font-size:13.5px;margin:4px 0}.cost b{font-variant-numeric:tabular-nums;text-align:right}"
    ".track{background:var(--wash);border-radius:5px;height:14px}.track div{height:14px;"
    "border-radius:5px}.was{background:var(--soft);opacity:.55}.is{background:var(--good)}"
    "footer{color:var(--soft);font-size:12.5px;margin-top:24px}"
    "@media print{body{background:#fff}section,.tile{break-inside:avoid}main{padding:0}}";

static const char *text_of(const json_t *from, const char *key)
{
    const char *text = json_string_value(json_object_get(from, key));
    return text != NULL ? text : "";
}

static double number_of(const json_t *from, const char *key)
{
    return json_number_value(json_object_get(from, key));
}

void html_text(FILE *out, const char *text)
{
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        default:
            fputc(*text, out);
        }
    }
}

/* "pass", "warn" or "block": the class of a verdict. */
static const char *class_of(const char *verdict)
{
    return strcmp(verdict, "PASS") == 0 ? "pass" : strcmp(verdict, "WARN") == 0 ? "warn" : "block";
}

static void write_head(FILE *out, const json_t *report)
{
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
          out);
    html_text(out, text_of(report, "command"));
    fputs(" ", out);
    html_text(out, text_of(report, "table"));
    fprintf(out, "</title>\n<style>%s</style>\n</head>\n<body>\n<main>\n<header>\n", style);
    fputs("<div class=\"over\">pgsluice ", out);
    html_text(out, text_of(report, "command"));
    fputs("</div>\n<h1>", out);
    html_text(out, text_of(report, "table"));
    fputs(".", out);
    html_text(out, text_of(report, "column"));
    fputs("</h1>\n<div class=\"meta\"><code>", out);
    html_text(out, text_of(report, "expression"));
    fputs("</code><br>database ", out);
    html_text(out, text_of(report, "database"));
    fprintf(out, " · PostgreSQL %d · ", (int)(number_of(report, "server_version") / 10000));
    html_text(out, text_of(report, "time"));
    fputs(" · run ", out);
    html_text(out, text_of(report, "run"));
    fputs("</div>\n</header>\n", out);
    fprintf(out, "<div class=\"banner %s\">", number_of(report, "exit") > 0 ? "block" : "pass");
    html_text(out, text_of(report, "summary"));
    fputs("</div>\n", out);
}

static void write_tile(FILE *out, const char *label, const char *fmt, double value)
{
    char text[48];
    snprintf(text, sizeof text, "%.*f", strcmp(fmt, "ms") == 0 ? 1 : 0, value);
    fprintf(out, "<div class=\"tile\"><b>%s%s</b><span>%s</span></div>\n", text,
            strcmp(fmt, "ms") == 0 ? " ms" : "", label);
}

static void write_tiles(FILE *out, const json_t *report)
{
    const json_t *hold = json_object_get(report, "hold");
    const json_t *values = json_object_get(report, "values");
    fputs("<div class=\"tiles\">\n", out);
    if (json_is_number(json_object_get(hold, "lock_ms"))) {
        write_tile(out, "exclusive lock", "ms", number_of(hold, "lock_ms"));
    }
    if (json_is_object(hold)) {
        write_tile(out, "gate held", "ms", number_of(hold, "gate_ms"));
        write_tile(out, "statements held", "", number_of(hold, "held_statements"));
        write_tile(out, "longest of them", "ms", number_of(hold, "max_held_ms"));
        write_tile(out, "attempts", "", number_of(report, "attempts"));
    }
    if (json_is_object(values)) {
        write_tile(out, "rows compared", "", number_of(values, "rows"));
        write_tile(out, "with another value", "", number_of(values, "mismatches"));
    }
    fputs("</div>\n", out);
}

static void write_timeline(FILE *out, const json_t *report)
{
    size_t i;
    const json_t *entry;
    const json_t *timeline = json_object_get(report, "timeline");
    if (json_array_size(timeline) == 0) {
        return;
    }
    fputs("<section>\n<h2>The hold</h2>\n", out);
    html_plot_latency(out, report);
    fputs("<h3>Step by step</h3>\n<table><tr><th class=\"num\">ms</th><th>state</th>"
          "<th></th></tr>\n",
          out);
    json_array_foreach(timeline, i, entry)
    {
        fprintf(out, "<tr><td class=\"num\">%.1f</td><td class=\"id\">", number_of(entry, "ms"));
        html_text(out, text_of(entry, "state"));
        fputs("</td><td>", out);
        html_text(out, text_of(entry, "detail"));
        fputs("</td></tr>\n", out);
    }
    fputs("</table>\n", out);
    if (json_is_string(json_object_get(report, "proof"))) {
        fputs("<p class=\"note\">", out);
        html_text(out, text_of(report, "proof"));
        fputs(".</p>\n", out);
    }
    fputs("</section>\n", out);
}

static void write_cost_section(FILE *out, const json_t *report)
{
    if (json_is_object(json_object_get(report, "insert_cost"))) {
        fputs("<section>\n<h2>What an INSERT costs, before and after</h2>\n", out);
        html_plot_cost(out, report);
        fputs("</section>\n", out);
    }
}

static void write_keys_section(FILE *out, const json_t *report)
{
    const json_t *values = json_object_get(report, "values");
    if (json_array_size(json_object_get(values, "histogram")) > 0) {
        fprintf(out, "<section>\n<h2>The keys</h2>\n<p>%.0f rows, from ",
                number_of(values, "rows"));
        html_text(out, text_of(values, "min"));
        fputs(" to ", out);
        html_text(out, text_of(values, "max"));
        fputs(".</p>\n", out);
        html_plot_keys(out, report);
        fputs("</section>\n", out);
    }
}

static void write_checks(FILE *out, const json_t *report)
{
    size_t i;
    const json_t *check;
    const json_t *checks = json_object_get(report, "checks");
    fprintf(out, "<section>\n<h2>What was checked</h2>\n<table><tr><th></th><th>check</th>"
                 "<th>evidence</th></tr>\n");
    json_array_foreach(checks, i, check)
    {
        const char *verdict = text_of(check, "verdict");
        fprintf(out, "<tr><td><span class=\"pill %s\">", class_of(verdict));
        html_text(out, verdict);
        fputs("</span></td><td class=\"id\">", out);
        html_text(out, text_of(check, "id"));
        fputs("</td><td>", out);
        html_text(out, text_of(check, "evidence"));
        if (json_is_string(json_object_get(check, "remedy"))) {
            fputs("<span class=\"remedy\">", out);
            html_text(out, text_of(check, "remedy"));
            fputs("</span>", out);
        }
        fputs("</td></tr>\n", out);
    }
    fputs("</table>\n</section>\n", out);
}

static void write_sql(FILE *out, const json_t *report)
{
    size_t i;
    const json_t *line;
    const json_t *sql = json_object_get(report, "sql");
    if (json_array_size(sql) == 0) {
        return;
    }
    fputs(
        "<section>\n<h2>What was done</h2>\n<p>In one transaction, sent as one message:</p>\n<pre>",
        out);
    json_array_foreach(sql, i, line)
    {
        html_text(out, json_string_value(line));
        fputs("\n", out);
    }
    fputs("</pre>\n", out);
    json_array_foreach(json_object_get(report, "locks"), i, line)
    {
        fputs(i == 0 ? "<p class=\"note\">Locks: " : "; ", out);
        html_text(out, json_string_value(line));
    }
    fputs(i > 0 ? ".</p>\n</section>\n" : "</section>\n", out);
}

static void write_ticket(FILE *out, const json_t *report)
{
    size_t i;
    const json_t *sentence;
    const json_t *ticket = json_object_get(report, "ticket");
    if (json_array_size(ticket) == 0) {
        return;
    }
    fputs("<section>\n<h2>What the ticket's own SQL would have done here</h2>\n<table>\n", out);
    json_array_foreach(ticket, i, sentence)
    {
        fputs("<tr><td><code>", out);
        html_text(out, text_of(sentence, "step"));
        fputs("</code></td><td>", out);
        html_text(out, text_of(sentence, "text"));
        fputs("</td></tr>\n", out);
    }
    fputs("</table>\n</section>\n", out);
}

/* The same as data. Within a script element only "</" could end it: its sign is written as JSON
 * allows. */
static void write_json(FILE *out, const json_t *report)
{
    char *text = json_dumps(report, JSON_COMPACT | JSON_PRESERVE_ORDER);
    fputs("<script type=\"application/json\" id=\"report\">", out);
    for (const char *p = text != NULL ? text : "null"; *p != '\0'; p++) {
        if (*p == '<') {
            fputs("\\u003c", out);
        } else {
            fputc(*p, out);
        }
    }
    fputs("</script>\n", out);
    free(text);
}

char *html_report(const json_t *report)
{
    char *page = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&page, &size);
    if (out == NULL) {
        return NULL;
    }
    write_head(out, report);
    write_tiles(out, report);
    write_timeline(out, report);
    write_cost_section(out, report);
    write_keys_section(out, report);
    write_checks(out, report);
    write_sql(out, report);
    write_ticket(out, report);
    fputs("<footer>Written by ", out);
    html_text(out, text_of(report, "software"));
    fputs(". The same figures are in this page as JSON (element #report).</footer>\n", out);
    write_json(out, report);
    fputs("</main>\n</body>\n</html>\n", out);
    bool bad = ferror(out) != 0;
    if (fclose(out) != 0 || bad) {
        free(page);
        return NULL;
    }
    return page;
}

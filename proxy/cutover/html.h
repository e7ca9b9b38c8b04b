/*
 * A cutover's report as one self-contained HTML page: no scripts, no resources from elsewhere,
 * plots as SVG. Pure: all of it comes from the report's JSON (cutover.h).
 */
#pragma once

#include <jansson.h>
#include <stdio.h>

/* The page; the caller frees it. NULL when out of memory. */
char *html_report(const json_t *report);

/* --- parts of it, each written to `out` --- */

/* Text with what HTML reserves escaped. */
void html_text(FILE *out, const char *text);
/* The latencies around the hold; nothing where the report has none. */
void html_plot_latency(FILE *out, const json_t *report);
/* The keys' distribution; likewise. */
void html_plot_keys(FILE *out, const json_t *report);
/* The cost of an INSERT on each path; likewise. */
void html_plot_cost(FILE *out, const json_t *report);

/* The plots of the report's page, as SVG; see html.h. */
#include "proxy/cutover/html.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    WIDTH = 960,
    HEIGHT = 300,
    LEFT = 58,
    RIGHT = 14,
    TOP = 26,
    BOTTOM = 40,
    X_TICKS = 8,
    BEFORE_MS = 400, /* of the first hold, and after the release, so much is shown */
    AFTER_MS = 600,
};

static double number_of(const json_t *from, const char *key)
{
    return json_number_value(json_object_get(from, key));
}

static const char *text_of(const json_t *from, const char *key)
{
    const char *text = json_string_value(json_object_get(from, key));
    return text != NULL ? text : "";
}

/* A plane with a linear x axis and a y axis that is linear or logarithmic. */
struct plane {
    double x0, x1;
    double y0, y1;
    bool logarithmic;
};

static double at_x(const struct plane *p, double x)
{
    return LEFT + (x - p->x0) / (p->x1 - p->x0) * (WIDTH - LEFT - RIGHT);
}

static double at_y(const struct plane *p, double y)
{
    double part = p->logarithmic ? log10(fmax(y, p->y0) / p->y0) / log10(p->y1 / p->y0)
                                 : (y - p->y0) / (p->y1 - p->y0);
    return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM);
}

/* The next of 1, 2, 5, 10, ... that is at least `wanted`. */
static double round_step(double wanted)
{
    double power = pow(10, floor(log10(wanted)));
    double part = wanted / power;
    return power * (part <= 1 ? 1 : part <= 2 ? 2 : part <= 5 ? 5 : 10);
}

static void open_svg(FILE *out, const char *label)
{
    fprintf(out, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDTH, HEIGHT);
    html_text(out, label);
    fputs("\">\n", out);
}

static void draw_line_y(FILE *out, const struct plane *p, double y, const char *unit)
{
    double at = at_y(p, y);
    fprintf(out,
            "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>"
            "<text class=\"tick\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g%s</text>\n",
            LEFT, WIDTH - RIGHT, at, at, LEFT - 8, at + 4, y, unit);
}

static void draw_y_axis(FILE *out, const struct plane *p, const char *unit)
{
    if (p->logarithmic) {
        for (double y = p->y0; y <= p->y1 * 1.01; y *= 10) {
            draw_line_y(out, p, y, unit);
        }
        return;
    }
    double step = round_step((p->y1 - p->y0) / 5);
    for (double y = ceil(p->y0 / step) * step; y <= p->y1; y += step) {
        draw_line_y(out, p, y, unit);
    }
}

static void draw_x_axis(FILE *out, const struct plane *p, const char *unit)
{
    double step = round_step((p->x1 - p->x0) / X_TICKS);
    for (double x = ceil(p->x0 / step) * step; x <= p->x1; x += step) {
        fprintf(out,
                "<line class=\"axis\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>"
                "<text class=\"tick\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g%s</text>\n",
                at_x(p, x), at_x(p, x), HEIGHT - BOTTOM, HEIGHT - BOTTOM + 5, at_x(p, x),
                HEIGHT - BOTTOM + 19, fabs(x) < step / 2 ? 0 : x, unit);
    }
    fprintf(out, "<line class=\"axis\" x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\"/>\n", LEFT,
            WIDTH - RIGHT, HEIGHT - BOTTOM, HEIGHT - BOTTOM);
}

/* --- latencies --- */

static bool is_state(const json_t *entry, const char *name)
{
    return strcmp(text_of(entry, "state"), name) == 0;
}

/* When the gate began to hold for the first time, and when it was opened for the last. */
static bool hold_span(const json_t *timeline, double *from, double *to)
{
    size_t i;
    const json_t *entry;
    bool found = false;
    json_array_foreach(timeline, i, entry)
    {
        double ms = number_of(entry, "ms");
        if (is_state(entry, "hold") && !found) {
            *from = ms;
            found = true;
        }
        *to = ms;
    }
    return found;
}

static void draw_band(FILE *out, const struct plane *p, const char *class, const char *label,
                      double from, double to)
{
    double left = at_x(p, fmax(from, p->x0));
    double right = at_x(p, fmin(to, p->x1));
    if (right <= left) {
        return;
    }
    fprintf(out,
            "<rect class=\"%s\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\"><title>%s, "
            "%.1f ms</title></rect>\n"
            "<text class=\"band-label\" x=\"%.1f\" y=\"%d\">%s</text>\n",
            class, left, TOP, fmax(right - left, 1), HEIGHT - TOP - BOTTOM, label, to - from, left,
            TOP - 8, label);
}

/* One band for each time that the gate held, within it what the server's lock took. */
static void draw_holds(FILE *out, const struct plane *p, const json_t *timeline)
{
    size_t i;
    const json_t *entry;
    double hold = -1;
    json_array_foreach(timeline, i, entry)
    {
        double ms = number_of(entry, "ms");
        if (is_state(entry, "hold")) {
            hold = ms;
        } else if (hold >= 0 && !is_state(entry, "flip") && !is_state(entry, "in-doubt")) {
            draw_band(out, p, "hold", "gate holds", hold, ms);
            hold = -1;
        }
    }
}

static void draw_points(FILE *out, const struct plane *p, const json_t *points, const char *count,
                        const char *max, const char *class)
{
    size_t i;
    const json_t *point;
    json_array_foreach(points, i, point)
    {
        double ms = number_of(point, "ms");
        if (number_of(point, count) < 1 || ms < p->x0 || ms > p->x1) {
            continue;
        }
        fprintf(out,
                "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"><title>%.0f ms: %.0f %s, the "
                "longest %.2f ms</title></circle>\n",
                class, at_x(p, ms), at_y(p, number_of(point, max)), ms, number_of(point, count),
                count, number_of(point, max));
    }
}

static double longest(const json_t *points)
{
    size_t i;
    const json_t *point;
    double most = 1;
    json_array_foreach(points, i, point)
    {
        most = fmax(most, fmax(number_of(point, "write_max_ms"), number_of(point, "read_max_ms")));
    }
    return most;
}

void html_plot_latency(FILE *out, const json_t *report)
{
    const json_t *latency = json_object_get(report, "latency");
    const json_t *points = json_object_get(latency, "points");
    const json_t *timeline = json_object_get(report, "timeline");
    double from = 0;
    double to = 0;
    if (json_array_size(points) == 0 || !hold_span(timeline, &from, &to)) {
        return;
    }
    struct plane p = {.x0 = from - BEFORE_MS,
                      .x1 = to + AFTER_MS,
                      .y0 = 0.1,
                      .y1 = pow(10, ceil(log10(longest(points)))),
                      .logarithmic = true};
    fputs("<figure>\n", out);
    open_svg(out, "Latency of the applications' statements around the hold");
    draw_holds(out, &p, timeline);
    draw_y_axis(out, &p, " ms");
    draw_x_axis(out, &p, " ms");
    draw_points(out, &p, points, "reads", "read_max_ms", "read");
    draw_points(out, &p, points, "writes", "write_max_ms", "write");
    fputs("</svg>\n<figcaption><span class=\"key write\"></span> writes of the table &nbsp; "
          "<span class=\"key read\"></span> other statements. ",
          out);
    html_text(out, text_of(latency, "note"));
    fputs("</figcaption></figure>\n", out);
}

/* --- keys --- */

struct bar {
    double key;
    double rows;
    char *label; /* NULL when out of memory */
};

static int by_key(const void *a, const void *b)
{
    double x = ((const struct bar *)a)->key;
    double y = ((const struct bar *)b)->key;
    return (x > y) - (x < y);
}

static struct bar *read_bars(const json_t *histogram, size_t *count, double *most, double *sum)
{
    size_t i;
    const json_t *entry;
    *count = json_array_size(histogram);
    *most = 0;
    *sum = 0;
    struct bar *bars = calloc(*count + 1, sizeof *bars);
    if (bars == NULL) {
        return NULL;
    }
    json_array_foreach(histogram, i, entry)
    {
        const json_t *key = json_object_get(entry, "key");
        bars[i] = (struct bar){.key = json_is_number(key) ? json_number_value(key) : (double)i,
                               .rows = number_of(entry, "rows"),
                               .label = json_dumps(key, JSON_ENCODE_ANY)};
        *most = fmax(*most, bars[i].rows);
        *sum += bars[i].rows;
    }
    qsort(bars, *count, sizeof *bars, by_key);
    return bars;
}

static void draw_bars(FILE *out, const struct plane *p, const struct bar *bars, size_t count)
{
    double width = (double)(WIDTH - LEFT - RIGHT) / (double)count;
    for (size_t i = 0; i < count; i++) {
        double top = at_y(p, bars[i].rows);
        fprintf(out,
                "<rect class=\"bar\" x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\"><title>",
                LEFT + width * (double)i, top, fmax(width * 0.82, 0.5), HEIGHT - BOTTOM - top);
        html_text(out, bars[i].label != NULL ? bars[i].label : "?");
        fprintf(out, ": %.0f rows</title></rect>\n", bars[i].rows);
    }
    for (size_t i = 0; i<count; i += count> 12 ? count / 12 : 1) {
        fprintf(out, "<text class=\"tick\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">",
                LEFT + width * ((double)i + 0.4), HEIGHT - BOTTOM + 19);
        html_text(out, bars[i].label != NULL ? bars[i].label : "?");
        fputs("</text>\n", out);
    }
}

void html_plot_keys(FILE *out, const json_t *report)
{
    const json_t *values = json_object_get(report, "values");
    size_t count;
    double most;
    double sum;
    struct bar *bars = read_bars(json_object_get(values, "histogram"), &count, &most, &sum);
    if (bars == NULL || count == 0) {
        free(bars);
        return;
    }
    double distinct = fmax(number_of(values, "distinct"), 1);
    double mean = number_of(values, "rows") / distinct;
    struct plane p = {.x0 = 0, .x1 = (double)count, .y0 = 0, .y1 = most * 1.08};
    fputs("<figure>\n", out);
    open_svg(out, "Rows of each key");
    draw_y_axis(out, &p, "");
    draw_bars(out, &p, bars, count);
    fprintf(
        out,
        "<line class=\"mean\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>"
        "<text class=\"mean-label\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">average %.1f</text>\n",
        LEFT, WIDTH - RIGHT, at_y(&p, mean), at_y(&p, mean), WIDTH - RIGHT, at_y(&p, mean) - 6,
        mean);
    fprintf(out,
            "</svg>\n<figcaption>%.0f different keys%s; the most frequent one has %.2f times the "
            "average (skew).</figcaption></figure>\n",
            distinct, (double)count < distinct ? ", of which the plot shows both ends" : "",
            number_of(values, "skew"));
    for (size_t i = 0; i < count; i++) {
        free(bars[i].label);
    }
    free(bars);
}

/* --- cost --- */

static void write_cost(FILE *out, const char *name, const char *class, double us, double most)
{
    fprintf(out,
            "<div class=\"cost\"><span>%s</span><div class=\"track\"><div class=\"%s\" "
            "style=\"width:%.1f%%\"></div></div><b>%.1f&nbsp;µs</b></div>\n",
            name, class, most > 0 ? us / most * 100 : 0, us);
}

void html_plot_cost(FILE *out, const json_t *report)
{
    const json_t *cost = json_object_get(report, "insert_cost");
    const json_t *paths = json_object_get(cost, "paths");
    size_t i;
    const json_t *path;
    double most = 0;
    json_array_foreach(paths, i, path)
    {
        most = fmax(most, fmax(number_of(path, "trigger_us"), number_of(path, "generated_us")));
    }
    json_array_foreach(paths, i, path)
    {
        double change = number_of(path, "change") * 100;
        fputs("<div class=\"path\"><h3>", out);
        html_text(out, text_of(path, "path"));
        fprintf(out, " <span class=\"pill %s\">%+.0f&nbsp;%%</span></h3>\n",
                change <= 0 ? "pass" : "warn", change);
        write_cost(out, "trigger", "was", number_of(path, "trigger_us"), most);
        write_cost(out, "generated", "is", number_of(path, "generated_us"), most);
        fputs("</div>\n", out);
    }
    if (json_is_string(json_object_get(cost, "note"))) {
        fputs("<p class=\"note\">", out);
        html_text(out, text_of(cost, "note"));
        fputs("</p>\n", out);
    }
}

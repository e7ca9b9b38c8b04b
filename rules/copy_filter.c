/*
 * The frame of a COPY filter: options checked, pieces taken, runs collected, values noted. Called
 * by the proxy's sessions through copy_filter.h; the formats' own files do the looking. Owns
 * nothing.
 */
#include "rules/copy_filter.h"

#include <ctype.h>
#include <string.h>

#include "rules/copy_row.h"

static const struct {
    void (*init)(struct copy_filter *f);
    void (*step)(struct copy_cursor *c);
    void (*finish)(struct copy_cursor *c);
} formats[] = {
    [COPY_FORMAT_TEXT] = {copy_text_init, copy_text_step, copy_text_finish},
    [COPY_FORMAT_CSV] = {copy_csv_init, copy_csv_step, copy_csv_finish},
    [COPY_FORMAT_BINARY] = {copy_binary_init, copy_binary_step, copy_binary_finish},
};

enum copy_encoding copy_encoding_of(const char *name)
{
    static const struct {
        const char *name;
        enum copy_encoding encoding;
    } known[] = {
        {"big5", COPY_ENCODING_PAIRS},       {"win950", COPY_ENCODING_PAIRS},
        {"windows950", COPY_ENCODING_PAIRS}, {"gbk", COPY_ENCODING_PAIRS},
        {"win936", COPY_ENCODING_PAIRS},     {"windows936", COPY_ENCODING_PAIRS},
        {"uhc", COPY_ENCODING_PAIRS},        {"win949", COPY_ENCODING_PAIRS},
        {"windows949", COPY_ENCODING_PAIRS}, {"gb18030", COPY_ENCODING_PAIRS},
        {"sjis", COPY_ENCODING_SJIS},        {"shiftjis", COPY_ENCODING_SJIS},
        {"mskanji", COPY_ENCODING_SJIS},     {"win932", COPY_ENCODING_SJIS},
        {"windows932", COPY_ENCODING_SJIS},  {"shiftjis2004", COPY_ENCODING_SJIS},
        {"johab", COPY_ENCODING_JOHAB},
    };
    /* As PostgreSQL compares them: letters and digits only, in any case. */
    char plain[16];
    size_t len = 0;
    for (; *name != '\0' && len < sizeof plain - 1; name++) {
        if (isalnum((unsigned char)*name)) {
            plain[len++] = (char)tolower((unsigned char)*name);
        }
    }
    plain[len] = '\0';
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(known[i].name, plain) == 0) {
            return known[i].encoding;
        }
    }
    return COPY_ENCODING_ASCII_SAFE;
}

static bool is_sound(const struct copy_options *options)
{
    const size_t count = options->field_count;
    if (count == 0 || count > COPY_FIELDS_MAX || options->null_len > COPY_NULL_MAX ||
        options->width > INT16_MAX || options->fields[count - 1].index >= options->width) {
        return false;
    }
    uint32_t removed = 0;
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && options->fields[i].index <= options->fields[i - 1].index) {
            return false;
        }
        removed += !options->fields[i].stays;
    }
    const struct copy_key *key = &options->key;
    return removed < options->width &&
           (!key->is_there || (key->source < count && options->fields[key->source].stays));
}

/* How many fields of interest in a row are removed, from `at` in direction `step`, the first of
 * them field `index`. */
static uint32_t count_removed(const struct copy_options *options, size_t at, int step,
                              uint32_t index)
{
    uint32_t count = 0;
    while (at < options->field_count && !options->fields[at].stays &&
           options->fields[at].index == index) {
        count++;
        at += (size_t)step;
        index += (uint32_t)step;
    }
    return count;
}

bool copy_filter_init(struct copy_filter *f, const struct copy_options *options, copy_row_cb on_row,
                      void *context)
{
    if (!is_sound(options)) {
        return false;
    }
    *f = (struct copy_filter){.options = *options, .on_row = on_row, .context = context};
    const size_t last = options->field_count - 1;
    f->interest = options->fields[last].index + 1;
    f->leading = count_removed(options, 0, 1, 0);
    f->trailing = count_removed(options, last, -1, options->width - 1);
    f->kept = options->width + options->key.is_there;
    for (size_t i = 0; i < options->field_count; i++) {
        f->kept -= !options->fields[i].stays;
    }
    formats[options->format].init(f);
    return true;
}

bool copy_is_removed(const struct copy_filter *f)
{
    const struct copy_field *next = &f->options.fields[f->next];
    return f->next < f->options.field_count && next->index == f->field && !next->stays;
}

void copy_close_run(struct copy_cursor *c, const char *end)
{
    if (c->run != NULL && end > c->run) {
        c->runs[c->count++] = (struct copy_run){c->run, (size_t)(end - c->run)};
    }
    c->run = NULL;
}

void copy_write(struct copy_cursor *c, const char *bytes, size_t len)
{
    c->runs[c->count++] = (struct copy_run){bytes, len};
}

void copy_pass(struct copy_cursor *c, const char *from)
{
    if (c->run == NULL) {
        c->run = from;
    }
    c->at = c->end;
    c->filter->state = COPY_STATE_PASS;
}

struct copy_set copy_set_of(const char bytes[4], bool has_high)
{
    struct copy_set set = {.high = (lanes){0} + (unsigned char)(has_high ? 0x80 : 0)};
    for (size_t i = 0; i < 4; i++) {
        set.needles[i] = (lanes){0} + (unsigned char)bytes[i];
    }
    return set;
}

/* Which of them belong to the set. */
static lanes find_in(lanes bytes, const struct copy_set *set)
{
    return (lanes)(bytes == set->needles[0]) | (lanes)(bytes == set->needles[1]) |
           (lanes)(bytes == set->needles[2]) | (lanes)(bytes == set->needles[3]) |
           (bytes & set->high);
}

/* copy_find() in less bytes than there are lanes. Once a piece, and so not among the rest. */
__attribute__((noinline)) static const char *find_in_last(const char *at, const char *end,
                                                          const struct copy_set *set)
{
    char last[LANES] = {0};
    memcpy(last, at, (size_t)(end - at));
    const unsigned found = lanes_mask(find_in(lanes_load(last), set));
    const char *first = at + (found != 0 ? __builtin_ctz(found) : LANES);
    return first < end ? first : end;
}

enum { STRIDE = 4 * LANES };

/* Which of so many bytes belong to the set. */
static uint64_t find_in_stride(const char *at, const struct copy_set *set)
{
    const lanes first = find_in(lanes_load(at), set), second = find_in(lanes_load(at + LANES), set),
                third = find_in(lanes_load(at + 2 * LANES), set),
                fourth = find_in(lanes_load(at + 3 * LANES), set);
    if (lanes_mask(first | second | third | fourth) == 0) {
        return 0;
    }
    const unsigned low = lanes_mask(first) | lanes_mask(second) << LANES,
                   high = lanes_mask(third) | lanes_mask(fourth) << LANES;
    return low | (uint64_t)high << 2 * LANES;
}

/* Fields are short, or long. */
const char *copy_find(const char *at, const char *end, const struct copy_set *set)
{
    while (end - at >= LANES) {
        const unsigned found = lanes_mask(find_in(lanes_load(at), set));
        if (found != 0) {
            return at + __builtin_ctz(found);
        }
        at += LANES;
        for (; end - at >= STRIDE; at += STRIDE) {
            const uint64_t far = find_in_stride(at, set);
            if (far != 0) {
                return at + __builtin_ctzll(far);
            }
        }
    }
    return at < end ? find_in_last(at, end, set) : end;
}

static bool is_capturing(const struct copy_filter *f)
{
    return f->on_row != NULL || f->options.key.is_there ||
           (f->is_header && f->options.header == COPY_HEADER_MATCHED);
}

void copy_capture_begin(struct copy_filter *f, const char *at)
{
    if (is_capturing(f) && f->next < f->options.field_count &&
        f->options.fields[f->next].index == f->field) {
        struct copy_capture *capture = &f->captures[f->next];
        capture->from = at;
        capture->len = capture->stored = 0;
        capture->is_open = capture->is_there = true;
        capture->is_null = false;
    }
}

/* Where a capture keeps what is not in the piece. */
static char *store_of(struct copy_filter *f, size_t index, size_t *room)
{
    const bool is_source = f->options.key.is_there && f->options.key.source == index;
    *room = is_source ? COPY_SOURCE_MAX : COPY_VALUE_MAX;
    return is_source ? f->source : f->captures[index].store;
}

/* Puts what is in the piece behind what is stored. */
static void store(struct copy_filter *f, size_t index, size_t len)
{
    struct copy_capture *capture = &f->captures[index];
    size_t size;
    char *room = store_of(f, index, &size);
    if (capture->stored < size) {
        const size_t left = size - capture->stored;
        memcpy(room + capture->stored, capture->from, len < left ? len : left);
    }
    capture->stored += len;
    capture->from = NULL;
}

void copy_capture_end(struct copy_filter *f, const char *at)
{
    struct copy_capture *capture = &f->captures[f->next];
    if (f->next >= f->options.field_count || !capture->is_open) {
        return;
    }
    capture->is_open = false;
    if (capture->from == NULL) {
        capture->len = capture->stored;
    } else if (capture->stored == 0) {
        capture->len = (size_t)(at - capture->from);
    } else {
        store(f, f->next, (size_t)(at - capture->from));
        capture->len = capture->stored;
    }
}

void copy_capture_take_back(struct copy_filter *f)
{
    if (f->next < f->options.field_count && f->captures[f->next].is_open) {
        f->captures[f->next].stored--;
    }
}

void copy_captured(struct copy_filter *f, size_t index, struct copy_value *value)
{
    const struct copy_capture *capture = &f->captures[index];
    const bool is_there = capture->is_there && !capture->is_open;
    value->bytes = is_there ? capture->from : NULL;
    value->len = is_there ? capture->len : 0;
    value->is_null = is_there && capture->is_null;
    if (is_there && capture->from == NULL) {
        size_t room;
        const char *stored = store_of(f, index, &room);
        value->bytes = capture->len <= room ? stored : NULL;
    }
}

void copy_report_row(struct copy_filter *f)
{
    f->rows++;
    if (f->on_row != NULL) {
        for (size_t i = 0; i < f->options.field_count; i++) {
            copy_captured(f, i, &f->values[i]);
        }
        f->on_row(f->context, f->values);
    }
}

static void begin_piece(struct copy_filter *f, const char *bytes)
{
    for (size_t i = 0; i < f->options.field_count; i++) {
        if (f->captures[i].is_open) {
            f->captures[i].from = bytes;
        }
    }
}

static void end_piece(struct copy_filter *f, const char *end)
{
    for (size_t i = 0; i < f->options.field_count; i++) {
        struct copy_capture *capture = &f->captures[i];
        if (capture->is_there && capture->from != NULL) {
            store(f, i, capture->is_open ? (size_t)(end - capture->from) : capture->len);
        }
    }
}

/* Whether the next byte goes out, unless a step decides otherwise. */
static bool goes_out(const struct copy_filter *f)
{
    switch ((enum copy_state)f->state) {
    case COPY_STATE_PASS:
    case COPY_STATE_CARRIAGE:
    case COPY_STATE_HEADER:
    case COPY_STATE_EXTENSION:
        return true;
    case COPY_STATE_DEAD:
    case COPY_STATE_ESCAPE:
    case COPY_STATE_BACKSLASH:
    case COPY_STATE_MARKER:
    case COPY_STATE_COUNT:
        return false;
    case COPY_STATE_START:
    case COPY_STATE_FIELD:
    case COPY_STATE_TRAIL:
    case COPY_STATE_QUOTED:
    case COPY_STATE_QUOTED_ESCAPE:
    case COPY_STATE_LENGTH:
    case COPY_STATE_DATA:
        break;
    }
    return !copy_is_removed(f);
}

size_t copy_filter_feed(struct copy_filter *f, const char *bytes, size_t len, size_t *taken,
                        struct copy_run *runs, size_t max)
{
    struct copy_cursor c = {.filter = f, .at = bytes, .end = bytes + len, .runs = runs};
    if (goes_out(f)) {
        c.run = bytes;
    }
    f->key_count = 0;
    begin_piece(f, bytes);
    while (c.at < c.end && c.count + COPY_RUNS_OF_A_STEP < max && f->key_count < COPY_KEYS_MAX) {
        formats[f->options.format].step(&c);
    }
    copy_close_run(&c, c.at);
    end_piece(f, c.at);
    *taken = (size_t)(c.at - bytes);
    return c.count;
}

size_t copy_filter_finish(struct copy_filter *f, struct copy_run *runs, size_t max)
{
    struct copy_cursor c = {.filter = f, .runs = runs};
    f->key_count = 0;
    if (max >= COPY_RUNS_MIN && f->state != COPY_STATE_PASS && f->state != COPY_STATE_DEAD) {
        formats[f->options.format].finish(&c);
        f->state = COPY_STATE_DEAD;
    }
    return c.count;
}

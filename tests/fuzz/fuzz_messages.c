/*
 * The readers of protocol/message.h on one frame with an arbitrary body: they stay within it, and a
 * message that was read and is written again is the same one.
 */
#include "tests/fuzz/fuzz.h"

#include "protocol/frame.h"
#include "protocol/message.h"

enum { WRITTEN_MAX = 1 << 20, PREFIXES_MAX = 128 };

static void check_span(struct span s, const uint8_t *message, size_t size)
{
    const uint8_t *start = (const uint8_t *)s.ptr;
    FUZZ_CHECK(start >= message + FRAME_HEADER && start < message + size);
    FUZZ_CHECK(s.len < (size_t)(message + size - start));
    FUZZ_CHECK(s.ptr[s.len] == '\0' && strlen(s.ptr) == s.len);
}

/* The type aside, which the frame got from the input. */
static void check_written(const struct writer *w, uint8_t type, const uint8_t *message, size_t size)
{
    FUZZ_CHECK(w->ok && w->len == size && w->bytes[0] == type);
    FUZZ_CHECK(memcmp(w->bytes + 1, message + 1, size - 1) == 0);
}

static void check_query(const uint8_t *message, size_t size)
{
    struct span query;
    if (!message_read_query(message, size, &query)) {
        return;
    }
    check_span(query, message, size);
    struct writer w;
    writer_init(&w, WRITTEN_MAX);
    message_write_query(&w, query.ptr, query.len);
    check_written(&w, 'Q', message, size);
    writer_fini(&w);
}

static void check_parse(const uint8_t *message, size_t size)
{
    struct message_parse parse;
    if (!message_read_parse(message, size, &parse)) {
        return;
    }
    check_span(parse.name, message, size);
    check_span(parse.query, message, size);
    FUZZ_CHECK(parse.types + 4 * (size_t)parse.type_count == message + size);
    uint32_t *types = malloc((parse.type_count + 1u) * sizeof *types);
    FUZZ_CHECK(types != NULL);
    for (size_t i = 0; i < parse.type_count; i++) {
        types[i] = load_u32(parse.types + 4 * i);
    }
    struct writer w;
    writer_init(&w, WRITTEN_MAX);
    message_write_parse(&w, parse.name, parse.query.ptr, parse.query.len, types, parse.type_count);
    check_written(&w, 'P', message, size);
    writer_fini(&w);
    free(types);
}

/* A Bind is judged as soon as its statement's name is there: more bytes must not change the name.
 */
static void check_bind(const uint8_t *message, size_t size)
{
    struct span portal, whole, part;
    const bool is_read = message_read_bind(message, size, &portal, &whole);
    bool was_read = false;
    if (is_read) {
        check_span(portal, message, size);
        check_span(whole, message, size);
    }
    for (size_t len = FRAME_HEADER; len <= size && len <= PREFIXES_MAX; len++) {
        uint8_t *prefix = fuzz_copy(message, len);
        const bool is_part_read = message_read_bind(prefix, len, &portal, &part);
        FUZZ_CHECK(is_part_read || !was_read);
        FUZZ_CHECK(is_read || !is_part_read);
        if (is_part_read) {
            FUZZ_CHECK(part.len == whole.len && memcmp(part.ptr, whole.ptr, part.len) == 0);
        }
        was_read = is_part_read;
        free(prefix);
    }
}

/* As many values as it says, all of them within the message. */
static void check_each(struct message_values *values, const uint8_t *message, size_t size)
{
    struct message_value value;
    uint16_t count = 0;
    while (message_next_value(values, &value)) {
        const uint8_t *start = (const uint8_t *)value.bytes.ptr;
        FUZZ_CHECK(start >= message + FRAME_HEADER && start <= message + size);
        FUZZ_CHECK(value.bytes.len <= (size_t)(message + size - start));
        FUZZ_CHECK(!value.is_null || value.bytes.len == 0);
        count++;
    }
    FUZZ_CHECK(count == values->count);
}

static void check_values(const uint8_t *message, size_t size)
{
    struct message_values values;
    if (message_read_values(message, size, &values)) {
        check_each(&values, message, size);
    }
    if (message_read_row(message, size, &values)) {
        check_each(&values, message, size);
    }
}

static void check_close(const uint8_t *message, size_t size)
{
    struct span statement;
    if (message_read_close(message, size, &statement)) {
        check_span(statement, message, size);
        FUZZ_CHECK(message[FRAME_HEADER] == 'S');
    }
}

static void check_parameter(const uint8_t *message, size_t size)
{
    struct message_parameter parameter;
    if (message_read_parameter_status(message, size, &parameter)) {
        check_span(parameter.name, message, size);
        check_span(parameter.value, message, size);
        FUZZ_CHECK(parameter.name.len + parameter.value.len + 2 + FRAME_HEADER == size);
    }
}

static bool is_same(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static void check_moved(const uint8_t *message, size_t size, const struct message_error *error,
                        const char *position)
{
    struct message_error moved;
    struct writer w;
    writer_init(&w, 4 * WRITTEN_MAX);
    message_write_moved(&w, message, size, position);
    FUZZ_CHECK(w.ok && message_read_error(w.bytes, w.len, &moved));
    FUZZ_CHECK(is_same(moved.position, position));
    FUZZ_CHECK(is_same(moved.message, error->message) && is_same(moved.hint, error->hint));
    writer_fini(&w);
}

static void check_error(const uint8_t *message, size_t size)
{
    struct message_error error, again;
    if (!message_read_error(message, size, &error)) {
        return;
    }
    struct writer w;
    writer_init(&w, WRITTEN_MAX);
    message_write_error(&w, &error);
    FUZZ_CHECK(w.ok && w.len <= size);
    FUZZ_CHECK(message_read_error(w.bytes, w.len, &again));
    FUZZ_CHECK(is_same(error.severity, again.severity));
    FUZZ_CHECK(is_same(error.severity_code, again.severity_code));
    FUZZ_CHECK(is_same(error.sqlstate, again.sqlstate));
    FUZZ_CHECK(is_same(error.message, again.message));
    FUZZ_CHECK(is_same(error.detail, again.detail));
    FUZZ_CHECK(is_same(error.hint, again.hint));
    FUZZ_CHECK(is_same(error.position, again.position));
    writer_fini(&w);
    if (message[0] != 0) { /* a message has a type */
        check_moved(message, size, &error, error.position == NULL ? NULL : "4711");
        check_moved(message, size, &error, NULL);
    }
}

/* The input is the type and the body; the length between them is made to fit. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    const size_t body = size - 1;
    uint8_t *message = malloc(FRAME_HEADER + body);
    FUZZ_CHECK(message != NULL);
    message[0] = data[0];
    store_u32(message + 1, (uint32_t)(4 + body));
    memcpy(message + FRAME_HEADER, data + 1, body);
    size = FRAME_HEADER + body;
    frame_type_known(FRAME_FRONTEND, message[0]);
    frame_type_known(FRAME_BACKEND, message[0]);
    check_query(message, size);
    check_parse(message, size);
    check_bind(message, size);
    check_values(message, size);
    check_close(message, size);
    check_parameter(message, size);
    check_error(message, size);
    free(message);
    return 0;
}

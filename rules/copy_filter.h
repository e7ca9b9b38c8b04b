/*
 * The stream of a COPY ... FROM STDIN without some of its columns, and perhaps with a computed one
 * behind the others: CopyData comes in, in pieces cut
 * anywhere, and the runs of it that stay go out. Called by the proxy's sessions, one filter for one
 * COPY; memory is of a fixed size and the caller's.
 *
 * The edited statement has no place for the columns, so that the server writes none of them
 * whatever the filter does. The filter's part is that nothing else changes: rows are told apart and
 * taken apart as PostgreSQL does it (COPY, "File Formats"), and a stream that the server would
 * refuse is still refused. Where the fault itself would vanish with a column (a row with a field
 * too few, a quoted value without an end), something is put in its place that fails with the same
 * SQLSTATE, 22P04. Only what is wrong with a removed value alone is forgiven.
 *
 * A computed column is the last one of the edited statement. Where its value is not certain,
 * nothing goes out any more, and the caller has to end the stream with CopyFail.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rules/evaluate.h"
#include "rules/lanes.h"

#define COPY_FIELDS_MAX 8 /* columns to remove or to look at, of one COPY */
#define COPY_NAME_MAX 64  /* with the NUL: PostgreSQL's NAMEDATALEN */
#define COPY_NULL_MAX 64
#define COPY_VALUE_MAX 64 /* of a value that is cut by the end of a piece, this much is kept */
#define COPY_RUNS_MIN 8   /* the least that copy_filter_feed() can work with */
#define COPY_SOURCE_MAX                                                                            \
    8192                 /* no value is computed from a longer one, escapes and quotes included */
#define COPY_KEYS_MAX 64 /* rows to which one call of copy_filter_feed() adds a value */
#define COPY_KEY_MAX 16
#define COPY_ENDS_MAX 32 /* fields up to the last of interest, of lines that are taken at once */

enum copy_format {
    COPY_FORMAT_TEXT,
    COPY_FORMAT_CSV,
    COPY_FORMAT_BINARY,
};

/* How many bytes a character has whose first byte is not ASCII, where others of its bytes may look
 * like ASCII. */
enum copy_encoding {
    COPY_ENCODING_ASCII_SAFE, /* no byte of it does: UTF8, LATIN1, EUC_JP, ... */
    COPY_ENCODING_PAIRS,      /* two: BIG5, GBK, UHC, GB18030 (of which four are two pairs) */
    COPY_ENCODING_SJIS,       /* two, but for half-width katakana: SJIS, SHIFT_JIS_2004 */
    COPY_ENCODING_JOHAB,      /* two, or three behind 0x8f, as PostgreSQL reads it */
};

enum copy_header {
    COPY_HEADER_NONE,
    COPY_HEADER_IGNORED, /* the server throws the first line away */
    COPY_HEADER_MATCHED, /* it compares it with the column list (HEADER MATCH) */
};

struct copy_field {
    uint32_t index;           /* in the stream, from 0 */
    bool stays;               /* only its values are of interest, to on_row */
    char name[COPY_NAME_MAX]; /* of the column, as HEADER MATCH expects it; "": not compared */
};

/* A column that is computed from one of the stream's and goes out behind the last field of a row.
 */
struct copy_key {
    bool is_there;
    uint32_t source; /* index in the options' fields */
    uint32_t bytes;  /* of its integer type: 2, 4 or 8 */
    struct evaluation evaluation;
    struct evaluation_column column; /* that of the source */
    char name[COPY_NAME_MAX];        /* for HEADER MATCH */
    /* Until the statement is under way nobody else can change client_encoding. */
    bool is_alone;
    bool is_utf8; /* the statement's ENCODING, where it has one */
    /* The stream is in the server's encoding; otherwise only ASCII values are certain. The caller
     * knows both encodings. */
    bool is_in_encoding;
};

/* Holds no pointers, so that it can be kept with a statement and copied. */
struct copy_options {
    enum copy_format format;
    enum copy_encoding encoding;
    bool has_encoding; /* the statement says so; otherwise the caller puts client_encoding's here */
    enum copy_header header;
    char delimiter, quote, escape; /* ASCII; quote and escape of CSV only */
    /* In CSV a line of only \. ends the data: so up to PostgreSQL 17, not since. The caller knows
     * the server's version. */
    bool csv_has_end_marker;
    uint32_t width; /* fields in a row, as the client sends it */
    /* Or one less: without a list, clients send a generated column only while they know it as
     * plain. Then copy_presence_feed() tells whether there is anything to remove. */
    bool may_lack;
    size_t null_len;
    char null[COPY_NULL_MAX];
    size_t field_count;
    struct copy_field fields[COPY_FIELDS_MAX]; /* by ascending index; some column stays */
    struct copy_key key;
};

/* The class of an encoding by a name that PostgreSQL knows it by, in any spelling. */
enum copy_encoding copy_encoding_of(const char *name);

struct copy_run {
    const char *bytes;
    size_t len;
};

/* What a row had for one of the fields: the bytes as they came, escapes and quotes included. */
struct copy_value {
    const char *bytes; /* NULL: the row has no such field, or it was cut and is longer than kept */
    size_t len;
    bool is_null; /* binary: length -1 */
};

/* Called at the end of each data row whose fields are as many as they must be, as far as the filter
 * can tell; values[i] belongs to options.fields[i] and is borrowed until it returns. */
typedef void (*copy_row_cb)(void *context, const struct copy_value *values);

/* Each byte in all lanes. */
struct copy_set {
    lanes needles[4];
    lanes high; /* 0x80: bytes from there on belong to it; 0: they do not */
};

struct copy_capture {
    const char *from; /* in the piece at hand; NULL: all of it is stored */
    size_t len;
    size_t stored; /* of earlier pieces; only the first COPY_VALUE_MAX are there */
    bool is_open, is_there, is_null;
    char store[COPY_VALUE_MAX];
};

struct copy_filter {
    struct copy_options options;
    copy_row_cb on_row;
    void *context;
    uint64_t rows;     /* data rows, so far */
    bool is_uncertain; /* the last one's key could not be computed: nothing goes out any more */

    /* From here on the filter's own. */
    uint32_t interest;          /* one past the last of options.fields */
    uint32_t leading, trailing; /* fields removed at either end of the row */
    uint32_t kept;              /* fields that stay */
    struct copy_set in_fields;  /* what ends a run of plain bytes: while fields are counted, */
    struct copy_set in_line;    /* behind the last field of interest, */
    struct copy_set in_quotes;  /* and in quotes */
    char kept_count[2];         /* binary: the field count of a row that goes out */
    int state, resumed;         /* as in copy_row.h; resumed: the state behind a character */
    int line_end;
    bool has_plain_lines;            /* such lines can be taken at once, as copy_plain.c does */
    const char *ends[COPY_ENDS_MAX]; /* of the fields of one that is */
    bool is_header;
    bool has_input, has_output; /* of the current line */
    char lead;                  /* of an unfinished character */
    uint32_t field;             /* the current one; at most `interest` */
    size_t next;                /* the first of options.fields that is not before `field` */
    uint32_t remaining;         /* bytes: of a character, of a binary field */
    char word[4];               /* of an unfinished integer */
    size_t word_len;
    struct copy_capture captures[COPY_FIELDS_MAX];
    char source[COPY_SOURCE_MAX];              /* what the source's capture stores, */
    char plain[COPY_SOURCE_MAX];               /* and its value without escapes and quotes */
    struct copy_value values[COPY_FIELDS_MAX]; /* of the row that on_row is told */
    char keys[COPY_KEYS_MAX][COPY_KEY_MAX];    /* values added in the call at hand */
    size_t key_count;
};

/* Copies `options`. `on_row` may be NULL, which is faster. False when the options make no sense: no
 * fields or too many, not ascending, beyond the width, or nothing would stay. */
bool copy_filter_init(struct copy_filter *filter, const struct copy_options *options,
                      copy_row_cb on_row, void *context);

/* Takes a piece of the stream. Returns how many runs go out for its first *taken bytes, in order;
 * less than `len` are taken only when `max`, at least COPY_RUNS_MIN, was too small for more, or
 * COPY_KEYS_MAX was. Runs lie in `bytes`, in the filter (and do not change there until the next
 * call) or are constants. */
size_t copy_filter_feed(struct copy_filter *filter, const char *bytes, size_t len, size_t *taken,
                        struct copy_run *runs, size_t max);

/* At CopyDone, not at CopyFail: the runs that still go out, at most COPY_RUNS_MIN. */
size_t copy_filter_finish(struct copy_filter *filter, struct copy_run *runs, size_t max);

enum copy_plain {
    COPY_PLAIN_VALUE,
    COPY_PLAIN_NULL,
    COPY_PLAIN_UNKNOWN, /* not all of it is at hand, or it does not fit */
};

/* A value without its quotes and escapes, as the server would read it: `plain` is where it came
 * when there is nothing to undo, of any length, otherwise in `room`, which has `size` bytes. */
enum copy_plain copy_value_plain(const struct copy_options *options, const struct copy_value *value,
                                 char *room, size_t size, struct copy_run *plain);

enum copy_presence_found {
    COPY_PRESENCE_UNKNOWN, /* the first row has not ended */
    COPY_PRESENCE_CARRIED, /* it has as many fields as options.width, or more */
    COPY_PRESENCE_ABSENT,  /* it has less: the stream is as the server wants it, or is refused */
};

/* A look at a stream's start; the caller keeps the bytes until it is known what becomes of them. */
struct copy_presence {
    struct copy_filter filter;
    enum copy_presence_found found;
};
/* False when the options make no sense, as above. */
bool copy_presence_init(struct copy_presence *presence, const struct copy_options *options);
enum copy_presence_found copy_presence_feed(struct copy_presence *presence, const char *bytes,
                                            size_t len);

/* PostgreSQL's words for the failures of SCRAM, the server's and libpq's; see scram.h. */
#include "protocol/scram.h"

#include <stdio.h>
#include <string.h>

#define MALFORMED "malformed SCRAM message"

/* In the texts %e is the attribute expected, %f the character found, %t the type of a binding. */
struct text {
    const char *sqlstate;
    const char *message;
    const char *detail;
};

static const struct text server_texts[] = {
    [SCRAM_TOO_LONG] = {"28P01", "", ""},
    [SCRAM_EMPTY] = {"08P01", MALFORMED, "The message is empty."},
    [SCRAM_NUL] = {"08P01", MALFORMED, "Message length does not match input length."},
    [SCRAM_ATTRIBUTE] = {"08P01", MALFORMED, "Expected attribute \"%e\" but found \"%f\"."},
    [SCRAM_NO_EQUALS] = {"08P01", MALFORMED, "Expected character \"=\" for attribute \"%e\"."},
    [SCRAM_NO_ATTRIBUTE] = {"08P01", MALFORMED, "Attribute expected, but found end of string."},
    [SCRAM_BAD_ATTRIBUTE] = {"08P01", MALFORMED,
                             "Attribute expected, but found invalid character \"%f\"."},
    [SCRAM_NONCE_MISMATCH] = {"08P01", "invalid SCRAM response", "Nonce does not match."},
    [SCRAM_GARBAGE] = {"08P01", MALFORMED, "Garbage found at the end of client-final-message."},
    [SCRAM_BINDING_MISSING] = {"XX000", "could not get server certificate hash", ""},
    [SCRAM_CRYPTO] = {"53200", "out of memory", ""},
    [SCRAM_MECHANISM] = {"08P01", "client selected an invalid SASL authentication mechanism", ""},
    [SCRAM_BINDING_FLAG] = {"08P01", MALFORMED, "Unexpected channel-binding flag \"%f\"."},
    [SCRAM_BINDING_ABSENT] = {"08P01", MALFORMED,
                              "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does "
                              "not include channel binding data."},
    [SCRAM_BINDING_UNEXPECTED] = {"08P01", MALFORMED,
                                  "The client selected SCRAM-SHA-256 without channel binding, but "
                                  "the SCRAM message includes channel binding data."},
    [SCRAM_BINDING_TYPE] = {"08P01", "unsupported SCRAM channel-binding type \"%t\"", ""},
    [SCRAM_BINDING_DOWNGRADE] = {"28000", "SCRAM channel binding negotiation error",
                                 "The client supports SCRAM channel binding but thinks the server "
                                 "does not.  However, this server does support channel binding."},
    [SCRAM_BINDING_MISMATCH] = {"28000", "SCRAM channel binding check failed", ""},
    [SCRAM_BINDING_NOT_REPEATED] =
        {"08P01", "unexpected SCRAM channel-binding attribute in client-final-message", ""},
    [SCRAM_NO_COMMA] = {"08P01", MALFORMED, "Comma expected, but found character \"%f\"."},
    [SCRAM_FIRST_ATTRIBUTE] = {"08P01", MALFORMED,
                               "Unexpected attribute \"%f\" in client-first-message."},
    [SCRAM_AUTHZID] = {"0A000", "client uses authorization identity, but it is not supported", ""},
    [SCRAM_EXTENSION] = {"0A000", "client requires an unsupported SCRAM extension", ""},
    [SCRAM_NONCE_UNPRINTABLE] = {"08P01", "non-printable characters in SCRAM nonce", ""},
    [SCRAM_PROOF_MALFORMED] = {"08P01", MALFORMED, "Malformed proof in client-final-message."},
    [SCRAM_PROOF_WRONG] = {"28P01", "", ""},
};

static const struct text client_texts[] = {
    [SCRAM_TOO_LONG] = {"08P01", MALFORMED " (too long)", ""},
    [SCRAM_EMPTY] = {"08P01", MALFORMED " (empty message)", ""},
    [SCRAM_NUL] = {"08P01", MALFORMED " (length mismatch)", ""},
    [SCRAM_ATTRIBUTE] = {"08P01", MALFORMED " (attribute \"%e\" expected)", ""},
    [SCRAM_NO_EQUALS] = {"08P01", MALFORMED " (expected character \"=\" for attribute \"%e\")", ""},
    [SCRAM_NONCE_MISMATCH] = {"28000", "invalid SCRAM response (nonce mismatch)", ""},
    [SCRAM_GARBAGE] = {"08P01", MALFORMED " (garbage at end of the server's message)", ""},
    [SCRAM_BINDING_MISSING] = {"XX000", "could not get server certificate hash", ""},
    [SCRAM_CRYPTO] = {"53200", "out of memory", ""},
    [SCRAM_SALT_MALFORMED] = {"08P01", MALFORMED " (invalid salt)", ""},
    [SCRAM_ITERATION_COUNT] = {"08P01", MALFORMED " (invalid iteration count)", ""},
    [SCRAM_OTHER_SECRET] = {"28000", "the server's SCRAM secret is another one",
                            "Salt or iterations that the server sent are not those of the secret "
                            "known here."},
    [SCRAM_REFUSED] = {"28000", "error received from server in SCRAM exchange", ""},
    [SCRAM_SIGNATURE] = {"08P01", MALFORMED " (invalid server signature)", ""},
    [SCRAM_SIGNATURE_WRONG] = {"28000", "incorrect server signature", ""},
};

/* A character that came from the network, as the server shows it. */
static void show_character(char c, char out[8])
{
    if (c >= 0x21 && c <= 0x7e) {
        snprintf(out, 8, "'%c'", c);
    } else {
        snprintf(out, 8, "0x%02x", (unsigned)(unsigned char)c);
    }
}

/* `cap` is large enough for every text above with the longest type in it. */
static void expand(char *out, size_t cap, const char *text, const struct scram_fault *fault)
{
    const char expected[2] = {fault->expected, '\0'};
    char found[8];
    show_character(fault->found, found);
    while (*text != '\0' && cap > 1) {
        const char *mark = strchr(text, '%');
        size_t len = mark == NULL ? strlen(text) : (size_t)(mark - text);
        const char *value = "";
        if (mark != NULL) {
            value = mark[1] == 'e' ? expected : mark[1] == 'f' ? found : fault->type;
        }
        int written = snprintf(out, cap, "%.*s%s", (int)len, text, value);
        size_t used = written < 0 || (size_t)written >= cap ? cap - 1 : (size_t)written;
        out += used;
        cap -= used;
        text = mark == NULL ? text + len : mark + 2;
    }
}

static void describe(const struct text *texts, size_t count, enum scram_result result,
                     const struct scram_fault *fault, struct scram_error *out)
{
    static const struct text other = {"08P01", MALFORMED, ""};
    const struct text *text = (size_t)result < count ? &texts[result] : &other;
    text = text->sqlstate == NULL ? &other : text;
    *out = (struct scram_error){.sqlstate = ""};
    memcpy(out->sqlstate, text->sqlstate, sizeof out->sqlstate);
    expand(out->message, sizeof out->message, text->message, fault);
    expand(out->detail, sizeof out->detail, text->detail, fault);
}

void scram_server_error(const struct scram_server *server, enum scram_result result,
                        struct scram_error *out)
{
    describe(server_texts, sizeof server_texts / sizeof server_texts[0], result, &server->fault,
             out);
}

void scram_client_error(const struct scram_client *client, enum scram_result result,
                        struct scram_error *out)
{
    describe(client_texts, sizeof client_texts / sizeof client_texts[0], result, &client->fault,
             out);
}

/*
 * Prepared statements that outlive a flip under mode compute: a text in which pgsluice has put the
 * key is refused by a generated column, and one without it finds no partition in a table
 * partitioned by the column. So the client's text is kept (ledger.h), and when the statement is
 * bound or described after the flip, the server gets it anew ahead of that, in the same write: a
 * Close, and a Parse of the text as it is judged now. The client sees neither of their answers.
 */
#pragma once

#include "proxy/session/session.h"

struct judged;

/* A Parse to keep, of a text that had this verdict; a reference for the caller. NULL: it need not
 * be made anew, or *is_lost is set when it could not. */
struct ledger_source *reprepare_keep(struct session *s, const struct judged *judged,
                                     const struct verdict *verdict, bool *is_lost);

/* A message about the statement of that name is to go to the server; ledger_find() has found
 * `statement`, which becomes what there is then. FORWARD: the message may go; REPLACED: the text is
 * refused by now, and that was put in the message's place, for which all of its `size` bytes must
 * be there; `have` are. */
enum judging reprepare(struct session *s, struct span name, size_t have, size_t size,
                       struct ledger_statement *statement);

/*
 * Every error dimfit can report, in one table.
 *
 * The numbers travel on the wire and through the C ABI: they are pinned, never reused, and new ones
 * are added at the end. An error says *what kind* of thing went wrong; the detail text that stands
 * beside it (dimfit_errmsg(), struct err_detail) says where, and what to do next.
 */
#ifndef DIMFIT_ERR_H
#define DIMFIT_ERR_H

#define DIMFIT_ERR_MAP(X)                                                                          \
    X(0, OK, "done")                                                                               \
    X(1, NOMEM, "out of memory")                                                                   \
    X(2, INVALID, "invalid argument")                                                              \
    X(3, PROTOCOL, "malformed message")                                                            \
    X(4, UNKNOWN_SLOT, "unknown slot")                                                             \
    X(5, WIDTH, "width or size does not match the layout")                                         \
    X(6, NOT_FINITE, "not a finite number")                                                        \
    X(7, STALE_EPOCH, "the layout has changed since")                                              \
    X(8, EPOCH_AHEAD, "the shard has not switched to this layout yet")                             \
    X(9, FROZEN, "training is held while a search scores")                                         \
    X(10, SEQ_GAP, "a request before this one is missing")                                         \
    X(11, FENCED, "this client incarnation was replaced")                                          \
    X(12, TIMEOUT, "timed out, nothing was changed")                                               \
    X(13, UNREACHABLE, "could not be reached")                                                     \
    X(14, MAYBE, "timed out and may have happened")                                                \
    X(15, NOT_FOUND, "not found")                                                                  \
    X(16, EXISTS, "exists already")                                                                \
    X(17, BUSY, "another operation is under way")                                                  \
    X(18, STATE, "not possible in this state")                                                     \
    X(19, BUDGET, "the budget cannot be met")                                                      \
    X(20, LIMIT, "a configured limit was reached")                                                 \
    X(21, IO, "input/output error")                                                                \
    X(22, CONFIG, "bad configuration")                                                             \
    X(23, DATA, "malformed data")                                                                  \
    X(24, DENIED, "not allowed")                                                                   \
    X(25, PLUGIN, "strategy plugin refused")                                                       \
    X(26, UNSUPPORTED, "not supported")                                                            \
    X(27, VERSION, "incompatible version")                                                         \
    X(28, LOG, "the shard can't write its log")

typedef enum dimfit_err {
#define DIMFIT_ERR_ENUM(num, name, text) DIMFIT_ERR_##name = (num),
    DIMFIT_ERR_MAP(DIMFIT_ERR_ENUM)
#undef DIMFIT_ERR_ENUM
} dimfit_err;

#define DIMFIT_OK DIMFIT_ERR_OK

#endif

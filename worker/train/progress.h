/*
 * What a run tells its user: one line that is rewritten while an epoch goes on, where standard
 * error is a terminal, and a plain line on standard output at each milestone.
 */
#ifndef TRAIN_PROGRESS_H
#define TRAIN_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>

struct progress {
    bool quiet, terminal;
    double last; /* when the line was last written */
    bool dirty;  /* a line stands there unfinished */
};

void progress_init(struct progress *p, bool quiet);

/* The epoch's state; rewritten a few times a second. rate is samples a second, left the seconds to
 * the epoch's end. */
void progress_step(struct progress *p, const char *what, unsigned epoch, double share, double rate,
                   double logloss, double left);

/* A milestone's line, without its line break. */
void progress_say(struct progress *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Take an unfinished line away. */
void progress_end(struct progress *p);

/* Seconds on a clock that only goes forward. */
double progress_now(void);

#endif

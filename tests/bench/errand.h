/*
 * Admin commands that go on after their answer: give one, ask until it is over.
 *
 * errand_start() does that on a client and a thread of its own, while the caller measures. What
 * fails ends the program.
 */
#ifndef TESTS_BENCH_ERRAND_H
#define TESTS_BENCH_ERRAND_H

#include "tests/bench/load.h"

#include <pthread.h>
#include <stdatomic.h>

struct errand {
    const char *command, *args; /* args: JSON, NULL: none */
    const char *status;         /* the command that asks; in its answer ... */
    const char *field;          /* ... this text is ... */
    const char *done, *failed;  /* ... one of these at the end; */
    const char *left;           /* and this total of the statistics 0. NULL: nothing is left then */
};

extern const struct errand errand_plan;   /* halve the width of every row: up to the plan */
extern const struct errand errand_apply;  /* that plan, until its rows have moved */
extern const struct errand errand_shrink; /* evict rows shown once */

/* One that is under way. */
struct errand_run {
    const struct errand *errand;
    struct target target;
    pthread_t thread;
    double seconds, peak; /* peak: most bytes that were resident */
    atomic_bool over;
};

/* An admin command whose answer is not looked at. */
void admin_do(const struct target *target, const char *command, const char *args);

/* Here and now; the seconds that it took, and in *peak, unless NULL, the most bytes that were
 * resident. */
double errand_do(const struct errand *errand, const struct target *target, double *peak);

/* Meanwhile; run->over is true once it is done. errand_join() waits for that. */
void errand_start(struct errand_run *run, const struct errand *errand, const struct target *target);
double errand_join(struct errand_run *run);

#endif

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
    const char *done, *failed;  /* ... one of these at the end */
};

extern const struct errand errand_plan;   /* halve the width of every row: up to the plan */
extern const struct errand errand_apply;  /* that plan */
extern const struct errand errand_shrink; /* evict rows shown once */

/* One that is under way. */
struct errand_run {
    const struct errand *errand;
    struct target target;
    pthread_t thread;
    double seconds;
    atomic_bool over;
};

/* An admin command whose answer is not looked at. */
void admin_do(const struct target *target, const char *command, const char *args);

/* Here and now; the seconds that it took. */
double errand_do(const struct errand *errand, const struct target *target);

/* Meanwhile; run->over is true once it is done. errand_join() waits for that. */
void errand_start(struct errand_run *run, const struct errand *errand, const struct target *target);
double errand_join(struct errand_run *run);

#endif

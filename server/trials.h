/*
 * The trials of a search: what its strategy asked for, and what workers measured (design 2.6).
 *
 * A trial is known by its key, a hash of what was asked: the same question is the same trial,
 * however often it is asked and whoever planned before. So a strategy starts anew with every call
 * and comes as far as the results do, and a search that was interrupted goes on by the results that
 * were kept. Owned by one thread at a time: the planner's, which asks, or the coordinator's, which
 * hands out.
 */
#ifndef SERVER_TRIALS_H
#define SERVER_TRIALS_H

#include "plugin/dimfit_strategy.h"
#include "proto/change.h"
#include "proto/trial.h"

enum { TRIALS_MAX = 1 << 18 };

struct trial_key {
    uint64_t low, high;
};

struct trial {
    struct trial_key key;
    uint64_t samples;      /* to evaluate on */
    struct change *change; /* what to try: only what takes something away; NULL once it is known */
    bool known;
    struct dimfit_trial_result result;
    uint64_t worker;  /* who has it, 0: nobody */
    int64_t given_ms; /* since when */
};

struct trials {
    size_t n, cap, n_known;
    struct trial *all; /* in the order they were asked for */
    uint32_t *index;   /* [index_cap] open addressing by key: number + 1, 0 free */
    size_t index_cap;
};

void trials_init(struct trials *trials);
void trials_fini(struct trials *trials);

/* Of the bytes that say what is asked. */
struct trial_key trials_key(const void *bytes, size_t len);

/* NULL: it was not asked for yet. Valid until the next is added. */
struct trial *trials_find(const struct trials *trials, struct trial_key key);

/* Ask for one that is not there yet; takes *change (NULL for one that is known). LIMIT beyond
 * TRIALS_MAX, NOMEM. */
dimfit_err trials_add(struct trials *trials, struct trial_key key, uint64_t samples,
                      struct change **change, struct trial **out) MUST_CHECK;

/* Note what was measured. */
void trials_answer(struct trials *trials, struct trial *trial, const struct trial_figures *figures,
                   uint64_t samples);

/* The known ones, as they outlive a coordinator: of one question put to one epoch (`about`), at
 * wall clock `wall_s`. */
void trials_encode(const struct trials *trials, struct trial_key about, int64_t wall_s,
                   struct buf *out);
/* Into empty trials. NOT_FOUND when they are about something else or older than max_age_s, IO when
 * damaged. */
dimfit_err trials_decode(struct trials *trials, const void *bytes, size_t len,
                         struct trial_key about, int64_t wall_s, int64_t max_age_s) MUST_CHECK;

#endif

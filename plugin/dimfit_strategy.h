/*
 * The strategy ABI: how a plugin decides which embedding units stay.
 *
 * A strategy is a shared object in the strategies folder that exports one function,
 *
 *     const struct dimfit_strategy *dimfit_strategy(void);
 *
 * The host checks magic, major, minor and size, then calls plan() once a search, on the planner's
 * thread. The units come in the basis that the search chose (in a fitted basis those of a slot are
 * ordered by descending eigenvalue), and the answer is one byte a unit: 1 keep, 0 drop. The host
 * provides the budgeted greedy selection as a service (`select`), which most strategies end with,
 * and checks every answer against the budget and the floors whoever made it.
 *
 * A strategy of DIMFIT_NEEDS_TRIALS also decides by what the model loses without some of its units,
 * measured by workers on a validation sample. plan() keeps nothing from call to call: it asks for
 * what it wants to know by trial() or candidate(), which answer at once what is known already.
 * Where any of them said DIMFIT_TRIAL_ASKED it returns DIMFIT_PLAN_WAITS, and is called again, with
 * the same input, when those trials are done. So it must ask for the same things in every call, up
 * to what it makes of their results; a search that was interrupted goes on by the trials it kept.
 *
 * A slot may have tiers, bands of its rows by popularity, each with a width of its own in the
 * slot's one basis. What is said of a slot here is then said of each of its tiers: they come as
 * entries of one id, one behind the other, the most popular last, with the rows, scores and norms
 * of their own
 * (`tiers`). The host makes of any answer, and of what a trial asks, what rows can be stored at: of
 * each tier as many of its first units as were kept, and no more than the next entry, the tier more
 * popular, has. select() takes them so from the start.
 *
 * A plugin may not keep pointers after plan() returns, may not exit, and writes nothing but keep[].
 * One that plans for longer than ten minutes at a stretch fails its search.
 *
 * History: 1.0 first version. 2.0 a slot's units may include some that it does not have yet
 * (`room`). A strategy may try what it decides: DIMFIT_NEEDS_TRIALS, DIMFIT_PLAN_WAITS, the host's
 * trial(), candidate() and choose(), the input's `trial_samples` and `ordered`. A strategy says
 * that it reads `lookups`, and may read `eigen`. 2.1 tiers: the input's `tiers`. The input says
 * which basis was asked for; candidates in another one are impossible then.
 */
#ifndef DIMFIT_STRATEGY_H
#define DIMFIT_STRATEGY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DIMFIT_STRATEGY_MAGIC     0x64665374u /* "dfSt" */
#define DIMFIT_STRATEGY_ABI_MAJOR 2
#define DIMFIT_STRATEGY_ABI_MINOR 1

/* What a strategy reads; the host gathers just that. */
enum dimfit_strategy_needs {
    DIMFIT_NEEDS_SCORES = 1 << 0,   /* score[], from scoring pushes */
    DIMFIT_NEEDS_NORMS = 1 << 1,    /* norm[], from the stored rows */
    DIMFIT_NEEDS_SPECTRUM = 1 << 2, /* eigen[], of a fitted basis */
    DIMFIT_NEEDS_LOOKUPS = 1 << 3,  /* lookups, from the stored rows */
    DIMFIT_NEEDS_TRIALS = 1 << 8,   /* workers that evaluate trials */
    DIMFIT_NEEDS_BASES = 1 << 9,    /* what every basis is made of, for candidates in each */
};

/* One slot's units, or one tier's. Arrays are borrowed. */
struct dimfit_strategy_slot {
    uint32_t id;
    uint32_t dim;     /* model width */
    uint32_t width;   /* units to decide on */
    uint32_t room;    /* of them, the last ones: the slot does not have them yet. In a search with
                       * growth they cost what the others cost, scores and norms are expected
                       * ones, and those kept are added */
    uint64_t rows;    /* n_i; what a unit costs when parameters count */
    double lookups;   /* show count over the slot's rows; 0 unless needed */
    double unit_cost; /* what one of its units costs in this search's count */
    const double *score; /* [width] s_ik, adds up to 1 over all slots; NULL unless needed */
    const double *norm;  /* [width] l2 over the slot's rows; NULL unless needed */
    const double *eigen; /* [width] of the basis, descending: the unit's count-weighted variance
                          * (rotated), or twice the second-order loss a sample of dropping it
                          * (kfac, which keeps as many of a slot's first units as were chosen,
                          * whichever they were); NULL unless needed */
};

/* Which tier an entry is. */
struct dimfit_strategy_tier {
    uint32_t tier;    /* 0: the tail */
    uint32_t n_tiers; /* of the slot; 1: it has none */
    uint32_t have;    /* units that its rows are stored at, and the floor at most; the slot has as
                       * many as its last tier */
};

struct dimfit_strategy_input {
    uint32_t size; /* of this struct, as the host knows it */
    uint32_t min_dim;
    uint64_t seed;
    double budget;       /* what the kept units may cost */
    double cost_before;  /* what all units cost */
    const char *options; /* "key=value,key=value" as the user gave them, "" for none */
    size_t n_slots;
    const struct dimfit_strategy_slot *slots; /* ascending by id and tier */
    int ordered; /* a slot's units come in the order to keep them in: the basis is fitted */
    uint64_t trial_samples; /* that a trial is to be evaluated on, unless it says otherwise */
    /* 2.1 */
    const struct dimfit_strategy_tier *tiers; /* [n_slots] */
    const char *basis; /* that the search is to be in; NULL: whichever is best */
};

/* What a worker measured of the model under a trial, and of the model as it is on the same samples
 * at the same moment: the difference is what the trial costs. */
struct dimfit_trial_result {
    double loss, auc;             /* mean log loss; auc is NaN where one class is missing */
    double whole_loss, whole_auc; /* with nothing changed */
    double error;                 /* standard error of loss - whole_loss; 0: not known */
    uint64_t samples;
};

/* A plan that another strategy makes, or this one in another basis. NULL: as the search has it. */
struct dimfit_candidate {
    uint32_t size;
    const char *strategy, *basis, *estimator, *rank;
    const char *options; /* NULL: none */
};

enum dimfit_trial_answer {
    DIMFIT_TRIAL_FAILED = -1,    /* the host's error is set: return -1 */
    DIMFIT_TRIAL_KNOWN = 0,      /* *out is filled */
    DIMFIT_TRIAL_ASKED = 1,      /* asked for */
    DIMFIT_TRIAL_IMPOSSIBLE = 2, /* candidate(): there is no such plan; the host notes why */
};

enum dimfit_plan_answer {
    DIMFIT_PLAN_FAILED = -1,
    DIMFIT_PLAN_DONE = 0,
    DIMFIT_PLAN_WAITS = 1, /* for the trials asked for */
};

struct dimfit_strategy_host {
    uint32_t magic, abi_major, abi_minor, size;
    void *self;
    /* Take units in descending priority[i][k] (i: slot, k: unit), ties by (slot, k): floors first,
     * then whatever fits; a unit that does not fit is skipped and smaller ones are still tried.
     * With the search's density ranking, priority is divided by the unit's cost first. Units of
     * priority -INFINITY are never taken beyond the floors. Returns 0, or -1 with the host's error
     * set (return it). */
    int (*select)(void *self, const double *const *priority, uint8_t *const *keep);
    /* Say why plan() fails; the text is copied. Returns -1 for `return host->fail(...)`. */
    int (*fail)(void *self, const char *why);
    /* The value of `key` in the options, copied to out[cap]; 0 found, 1 not there, -1 too long. */
    int (*option)(void *self, const char *key, char *out, size_t cap);
    /* What the model loses with only the units keep[i][k] of the embeddings as they are, the mean
     * restored as a layout change would do; budget and floors do not count. samples 0: the input's
     * trial_samples. Returns a dimfit_trial_answer. */
    int (*trial)(void *self, uint8_t *const *keep, uint64_t samples,
                 struct dimfit_trial_result *out);
    /* The same of the plan that a candidate would make of the search, in its basis if it names one.
     */
    int (*candidate)(void *self, const struct dimfit_candidate *candidate,
                     struct dimfit_trial_result *out);
    /* Decide for the plan of the i-th candidate() of this call, in place of keep[]. 0, or -1 with
     * the host's error set. */
    int (*choose)(void *self, size_t i);
};

struct dimfit_strategy {
    uint32_t magic, abi_major, abi_minor, size;
    const char *name; /* what --strategy says: [a-z0-9_]+ */
    const char *version;
    const char *summary; /* one line for `dimfitctl strategies` */
    uint32_t needs;      /* DIMFIT_NEEDS_* */
    /* keep[i][width_i], zeroed by the host. A dimfit_plan_answer; failed after host->fail() or a
     * service that failed. */
    int (*plan)(const struct dimfit_strategy_host *host, const struct dimfit_strategy_input *input,
                uint8_t *const *keep);
};

typedef const struct dimfit_strategy *dimfit_strategy_fn(void);

/* What a strategy defines and exports, hidden visibility or not. */
__attribute__((visibility("default"))) const struct dimfit_strategy *dimfit_strategy(void);

#ifdef __cplusplus
}
#endif

#endif

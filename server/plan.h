/*
 * From statistics to a plan: which units stay, in which basis, under which budget (design 2.2-2.6).
 *
 * plan_make() is pure: the same statistics, layout and request give the same plan, bit for bit, on
 * any number of shards up to summation error. It derives the estimator, fits the basis (LAPACK),
 * runs the strategy plugin over the units, checks what the plugin says against budget and floors,
 * and builds the change. Runs on the planner's thread; touches no sockets.
 */
#ifndef SERVER_PLAN_H
#define SERVER_PLAN_H

#include "proto/change.h"
#include "server/stats.h"
#include "server/strategy_host.h"
#include "server/trials.h"

#define PLAN_ESTIMATOR_MAP(X)                                                                      \
    X(SINGLE, "single")                                                                            \
    X(STEP, "step")                                                                                \
    X(FISHER, "fisher")                                                                            \
    X(ROW, "row")                                                                                  \
    X(CURVATURE, "curvature")                                                                      \
    X(TAYLOR, "taylor")                                                                            \
    X(GUARDED, "guarded")
#define PLAN_BASIS_MAP(X)     X(AXIS, "axis") X(ROTATED, "rotated") X(KFAC, "kfac")
#define PLAN_COUNT_MAP(X)     X(PARAMS, "params") X(DIMS, "dims")
#define PLAN_RANK_MAP(X)      X(SCORE, "score") X(DENSITY, "density")
#define PLAN_GROW_INIT_MAP(X) X(DRAWN, "drawn") X(ZERO, "zero") X(LINEAR, "linear")

#define PLAN_ENUM_EST(name, text)   ESTIMATOR_##name,
#define PLAN_ENUM_BASIS(name, text) BASIS_##name,
#define PLAN_ENUM_COUNT(name, text) COUNT_##name,
#define PLAN_ENUM_RANK(name, text)  RANK_##name,
#define PLAN_ENUM_GROW(name, text)  GROW_INIT_##name,
enum estimator { PLAN_ESTIMATOR_MAP(PLAN_ENUM_EST) };
enum basis { PLAN_BASIS_MAP(PLAN_ENUM_BASIS) };
enum count { PLAN_COUNT_MAP(PLAN_ENUM_COUNT) };
enum rank { PLAN_RANK_MAP(PLAN_ENUM_RANK) };
enum grow_init { PLAN_GROW_INIT_MAP(PLAN_ENUM_GROW) };

/* Text of an option's value, and back; parse is false for a word that isn't one. */
const char *estimator_name(enum estimator v);
const char *basis_name(enum basis v);
const char *count_name(enum count v);
const char *rank_name(enum rank v);
const char *grow_init_name(enum grow_init v);
bool estimator_parse(const char *text, enum estimator *out);
bool basis_parse(const char *text, enum basis *out);
bool count_parse(const char *text, enum count *out);
bool rank_parse(const char *text, enum rank *out);
bool grow_init_parse(const char *text, enum grow_init *out);

enum { PLAN_TRIAL_SAMPLES = 8192 };

struct plan_request {
    double kappa; /* after / before, > 0; above 1 is of use with `grow` only */
    enum estimator estimator;
    enum basis basis;
    bool basis_named; /* by who asked: a strategy that tries several keeps to it */
    enum count count;
    enum rank rank;
    uint32_t min_dim;
    bool grow;                /* slots may get new units (server/plan_grow.h) */
    enum grow_init grow_init; /* what rows have in them (server/plan_grow.h) */
    uint64_t seed;            /* of strategies that draw */
    uint64_t window;          /* scores are of the last steps, this many; 0: of all */
    double half_life; /* ... or an older step weighs half as much every so many; 0: all the same */
    char strategy[STRATEGY_NAME_MAX + 1];
    char options[256];      /* "key=value,key=value" for the strategy */
    uint64_t trial_samples; /* that a trial is evaluated on */
};

/* How many steps, the last ones, it takes: those older weigh nothing, or less than a millionth. 0:
 * all. */
uint64_t plan_window(const struct plan_request *request);

void plan_request_init(struct plan_request *request); /* the documented defaults, kappa unset (0) */

/* INVALID naming the option when a value is out of range (kappa 0, -1, NaN; unknown combination:
 * estimator row outside the axis basis). */
dimfit_err plan_request_check(const struct plan_request *request,
                              struct err_detail *detail) MUST_CHECK;
/* INVALID naming a slot whose optimizer does not take the basis: ftrl takes `axis` only. */
dimfit_err plan_basis_check(const struct layout *layout, const struct plan_request *request,
                            struct err_detail *detail) MUST_CHECK;

/* A tier of a slot. The tiers of a slot share its basis, so each has as many units as that; of what
 * their rows lack, those of the tail have only zeros. */
struct plan_slot {
    uint32_t slot, tier, n_tiers;
    uint32_t before, after; /* stored widths of the tier's rows */
    uint32_t units;         /* of the slot: `before` of its last tier */
    uint32_t room;          /* units that were offered beside those that there are */
    uint32_t added;         /* of `after`, those that are new */
    uint64_t rows;
    double *g, *s;      /* [units] estimate and score of each unit, in the plan's basis */
    double *eigenvalue; /* [units] `rotated`: the unit's count-weighted second moment, `kfac`: twice
                           the second-order loss a sample of dropping it; of all tiers together
                           descending, of each its share; NULL: axis */
    uint8_t *keep;      /* [units + room] alpha; `kfac` and where there are tiers: a prefix */
    double *priority;   /* [units] what the strategy ranked its units by; NULL: it ranked none */
};

/* A plan that the strategy considered, and what it would cost. */
struct plan_candidate {
    struct plan_request request;
    bool known; /* the result is there */
    struct dimfit_trial_result result;
    struct err_detail why; /* there is no such plan; "" otherwise */
};

struct plan {
    struct plan_request request; /* of the candidate chosen, where there are any */
    uint64_t epoch;              /* the layout it was made for */
    uint64_t samples;
    double cost_before, cost_after;       /* in the request's count */
    uint64_t params_before, params_after; /* floats of searchable rows */
    double kept_score;                    /* sum of s over kept units, 0..1 */
    size_t n_slots;
    struct plan_slot *slots; /* ascending by (slot, tier); searchable slots only */
    struct change *change;   /* to epoch + 1 */
    size_t n_candidates, chosen;
    struct plan_candidate *candidates; /* in the order the strategy named them */
};

/* BUDGET when the floors alone cost more than kappa (the detail names the smallest feasible kappa
 * and
 * --min-dim 0); STATE when the strategy needs scores and none were gathered; STALE_EPOCH when stats
 * are of another epoch; PLUGIN when the strategy fails or its answer breaks the rules. */
dimfit_err plan_make(const struct layout *layout, const struct stats *stats,
                     const struct plan_request *request, const struct strategies *strategies,
                     struct plan **out, struct err_detail *detail) MUST_CHECK;
void plan_destroy(struct plan **plan);

/* plan_make() for strategies that try what they decide: when this one waits for trials, *out is
 * NULL and `trials` has what it asked for, to be called again with the results. NULL for trials: a
 * strategy that needs some is refused, STATE. */
dimfit_err plan_try(const struct layout *layout, const struct stats *stats,
                    const struct plan_request *request, const struct strategies *strategies,
                    struct trials *trials, struct plan **out, struct err_detail *detail) MUST_CHECK;

/* The scores of the stored coordinates as they are now, without planning (`dimfitctl scores`):
 * slots with s and g filled, change NULL. Works with nothing scored: g and s are zero. */
dimfit_err plan_scores(const struct layout *layout, const struct stats *stats,
                       enum estimator estimator, struct plan **out,
                       struct err_detail *detail) MUST_CHECK;

#endif

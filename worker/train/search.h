/*
 * A search that the trainer drives itself: start it in freeze mode, score the validation part, wait
 * for the layout to be in force.
 */
#ifndef TRAIN_SEARCH_H
#define TRAIN_SEARCH_H

#include "worker/train/options.h"

#include <jansson.h>

struct search_result {
    json_t *status, *plan; /* the cluster's replies, rank 0 only; owned */
    double score_seconds, apply_seconds;
};

/* Rows go to the tiers that their show counts say, if the slots were declared with any. All workers
 * call it, and none goes on before it is done. */
dimfit_err search_sweep(struct learner *learner, const struct train_options *options,
                        struct err_detail *detail) MUST_CHECK;

/* All workers call it; rank 0 asks the cluster. Rows are swept first. On success the learner has
 * adopted the new layout and not yet restarted its dense tables. STATE with the cluster's reason
 * when the search is aborted. */
dimfit_err search_run(struct learner *learner, const struct train_options *options,
                      struct search_result *out, struct err_detail *detail) MUST_CHECK;
void search_result_fini(struct search_result *result);

/* What the cluster holds at one moment: replies of "stats" and "slots". */
struct search_held {
    json_t *stats, *slots;
};

/* Ask for it now; what *out held goes. */
dimfit_err search_ask_held(struct learner *learner, struct search_held *out,
                           struct err_detail *detail) MUST_CHECK;
void search_held_fini(struct search_held *held);

/* An admin request and its reply as JSON; PROTOCOL when that is not an object. args may be NULL,
 * and is taken over. */
dimfit_err search_admin(struct learner *learner, const char *command, json_t *args, json_t **reply,
                        struct err_detail *detail) MUST_CHECK;

#endif

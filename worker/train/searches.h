/*
 * Searches during a training, again and again until the layout settles (design 2.5).
 *
 * Every so many epochs all workers stop, the validation part is scored, and the layout that the
 * search comes to is adopted; training goes on in it with all weights as they are. The first search
 * keeps the share of the parameters that was asked for; those after it keep what there is and, with
 * growth, move width to where it earns more. The searching ends when one moves less than a
 * fiftieth of the parameters, or without growth after the first. All workers make the same calls;
 * rank 0 asks the cluster and keeps the records.
 */
#ifndef TRAIN_SEARCHES_H
#define TRAIN_SEARCHES_H

#include "worker/train/progress.h"
#include "worker/train/search.h"

struct searches {
    const struct train_options *options; /* borrowed, as the rest */
    const struct dataset *data;
    struct progress *progress;
    double next; /* epoch of the next search, INFINITY when there is none any more */
    unsigned done;
    struct search_held before;  /* rank 0's: what there was before the first */
    struct search_result first; /* rank 0's */
    json_t *steps;              /* what each changed and what it did to the figures; owned */
};

void searches_init(struct searches *s, const struct train_options *options,
                   const struct dataset *data, struct progress *progress);
void searches_fini(struct searches *s);

/* The training is at this epoch, with these figures of the validation part (rank 0). *searched says
 * whether a search was due; then *valid are the figures in the new layout. */
dimfit_err searches_at(struct searches *s, struct learner *learner, double epoch,
                       struct figures *valid, bool *searched, struct err_detail *detail) MUST_CHECK;

#endif

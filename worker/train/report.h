/*
 * The figures of one run as JSON. Every key is always there, null where it does not apply.
 */
#ifndef TRAIN_REPORT_H
#define TRAIN_REPORT_H

#include "worker/train/course.h"
#include "worker/train/search.h"

struct report {
    const struct train_options *options;
    const struct dataset *data;
    uint64_t epoch; /* at the end */
    struct course_result trained, retrained;
    struct figures full, applied, searched; /* of the test part; NaN where not applicable */
    struct search_held before, after;       /* owned */
    struct search_result search;            /* owned; the first of several */
    json_t *steps;                          /* of searches during training; owned, NULL: none */
};

void report_init(struct report *report, const struct train_options *options,
                 const struct dataset *data);
void report_fini(struct report *report);

/* Replaces the file at path as a whole, or leaves it as it was. */
dimfit_err report_write(const struct report *report, const char *path,
                        struct err_detail *detail) MUST_CHECK;

#endif

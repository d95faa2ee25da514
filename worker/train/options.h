/*
 * The command line of dimfit-train.
 */
#ifndef TRAIN_OPTIONS_H
#define TRAIN_OPTIONS_H

#include "worker/train/dataset.h"
#include "worker/train/learner.h"

struct search_options {
    double kappa; /* 0: no search */
    const char *strategy, *estimator, *basis, *count, *rank, *options,
        *grow_init; /* NULL: the cluster's default */
    bool grow;
    int64_t min_dim;        /* -1: the cluster's default */
    uint64_t samples;       /* 0: the whole validation part */
    uint64_t trial_samples; /* 0: the cluster's default */
    bool stay;              /* after all else, answer searches until the cluster stops */
};

struct train_options {
    struct dataset_spec dataset; /* its arrays are owned here */
    struct learner_spec learner;
    struct search_options search;
    unsigned epochs, retrain_epochs;
    double search_every;  /* epochs; 0: one search, after training */
    unsigned evaluations; /* of the validation part, an epoch */
    unsigned patience;    /* of them without a gain before training stops; 0: never */
    bool retrain, quiet;
    const char *report; /* NULL: none */
};

/* Ends the process on --help and --version (0) and on a usage error (2). Strings point into argv.
 */
void options_parse(int argc, char **argv, struct train_options *out);
void options_fini(struct train_options *o);

const char *options_model_name(enum model_kind kind);

#endif

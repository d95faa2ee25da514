/*
 * What a worker measured of a trial, as it travels: the body of TRIAL_NEXT.
 *
 * A trial is a change (proto/change.h) that nobody makes: what the embeddings would be right after
 * it. Pure.
 */
#ifndef PROTO_TRIAL_H
#define PROTO_TRIAL_H

#include "proto/buf.h"

/* Of the model under the trial and of the model as it is, on the same samples. */
struct trial_figures {
    double loss, auc; /* mean log loss; auc NaN where one class is missing */
    double whole_loss, whole_auc;
    double error; /* standard error of loss - whole_loss; 0: not known */
};

void trial_encode(const struct trial_figures *figures, struct buf *out);

/* PROTOCOL when it is cut short or too long; NOT_FINITE for losses that are no finite numbers, an
 * error below zero, an AUC that is neither NaN nor within 0..1. */
dimfit_err trial_decode(const void *bytes, size_t len, struct trial_figures *out,
                        struct err_detail *detail) MUST_CHECK;

#endif

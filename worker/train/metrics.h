/*
 * Figures of a binary classifier, from its logits (log odds).
 */
#ifndef TRAIN_METRICS_H
#define TRAIN_METRICS_H

#include <stddef.h>

/* Area under the ROC curve, exact: the chance that a positive scores above a negative, ties
 * counting half. NaN when one class is missing. Sorts a copy. */
double metrics_auc(const float *logits, const float *labels, size_t n);

/* Log loss of one sample, without overflow for any finite logit. */
double metrics_logloss_one(double logit, double label);

/* Mean log loss; NaN for n = 0. */
double metrics_logloss(const float *logits, const float *labels, size_t n);

/* What a logit says is scale * logit + shift. A trained model is usually too sure of itself on
 * samples that it has not seen, and the loss of its bare logits then falls with whatever makes them
 * smaller. */
struct calibration {
    double scale, shift;
};

/* The pair of least log loss (Platt 1999), by Newton's method, with a prior as strong as one sample
 * for (1, 0); that pair itself where there is one class only, or the logits' order is wrong. */
struct calibration metrics_calibrate(const float *logits, const float *labels, size_t n);

#endif

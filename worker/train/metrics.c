#include "worker/train/metrics.h"
#include "worker/train/mem.h"

#include <math.h>
#include <stdlib.h>

struct scored {
    float logit, label;
};

static int by_logit(const void *a, const void *b) {
    const float x = ((const struct scored *)a)->logit, y = ((const struct scored *)b)->logit;
    return (x > y) - (x < y);
}

double metrics_auc(const float *logits, const float *labels, size_t n) {
    struct scored *const s = mem_alloc(n, sizeof *s);
    for (size_t i = 0; i < n; i++)
        s[i] = (struct scored){logits[i], labels[i]};
    qsort(s, n, sizeof *s, by_logit);
    double wins = 0, positives = 0, negatives = 0;
    for (size_t i = 0; i < n;) {
        size_t p = 0, q = 0, j = i;
        for (; j < n && s[j].logit == s[i].logit; j++) {
            if (s[j].label > 0.5f)
                p++;
            else
                q++;
        }
        wins += (double)p * (negatives + 0.5 * (double)q);
        positives += (double)p;
        negatives += (double)q;
        i = j;
    }
    free(s);
    return positives > 0 && negatives > 0 ? wins / (positives * negatives) : NAN;
}

double metrics_logloss_one(double logit, double label) {
    const double tail = log1p(exp(-fabs(logit)));
    return (logit > 0 ? logit : 0) - logit * label + tail;
}

double metrics_logloss(const float *logits, const float *labels, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += metrics_logloss_one(logits[i], labels[i]);
    return n > 0 ? sum / (double)n : NAN;
}

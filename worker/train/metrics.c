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

struct slope {
    double loss, scale, shift;                    /* and its derivatives */
    double scale_scale, scale_shift, shift_shift; /* second ones */
};

static struct slope slope_at(struct calibration c, const float *logits, const float *labels,
                             size_t n) {
    const double off = c.scale - 1;
    struct slope s = {.loss = (off * off + c.shift * c.shift) / 2,
                      .scale = off,
                      .shift = c.shift,
                      .scale_scale = 1,
                      .shift_shift = 1};
    for (size_t i = 0; i < n; i++) {
        const double x = (double)logits[i], z = c.scale * x + c.shift;
        const double p = 1 / (1 + exp(-z)), wrong = p - (double)labels[i], w = p * (1 - p);
        s.loss += metrics_logloss_one(z, (double)labels[i]);
        s.scale += wrong * x;
        s.shift += wrong;
        s.scale_scale += w * x * x;
        s.scale_shift += w * x;
        s.shift_shift += w;
    }
    return s;
}

struct calibration metrics_calibrate(const float *logits, const float *labels, size_t n) {
    enum { STEPS = 30, HALVINGS = 20 };
    const struct calibration none = {1, 0};
    struct calibration c = none;
    struct slope s = slope_at(c, logits, labels, n);
    size_t clicks = 0;
    for (size_t i = 0; i < n; i++)
        clicks += labels[i] > 0.5f;
    if (clicks == 0 || clicks == n)
        return none;
    for (int i = 0; i < STEPS; i++) {
        const double det = s.scale_scale * s.shift_shift - s.scale_shift * s.scale_shift;
        double d_scale = (s.shift_shift * s.scale - s.scale_shift * s.shift) / det;
        double d_shift = (s.scale_scale * s.shift - s.scale_shift * s.scale) / det;
        struct calibration next = c;
        struct slope then = s;
        for (int k = 0; k < HALVINGS; k++, d_scale /= 2, d_shift /= 2) {
            next = (struct calibration){c.scale - d_scale, c.shift - d_shift};
            then = slope_at(next, logits, labels, n);
            if (then.loss <= s.loss)
                break;
        }
        if (!(then.loss < s.loss))
            break;
        c = next;
        s = then;
    }
    return c.scale > 0 ? c : none;
}

double metrics_logloss(const float *logits, const float *labels, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += metrics_logloss_one(logits[i], labels[i]);
    return n > 0 ? sum / (double)n : NAN;
}

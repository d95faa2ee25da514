#include "worker/train/carry.h"
#include "worker/train/mem.h"

#include <stdlib.h>
#include <string.h>

void carry_slot_set(struct carry_slot *slot, const struct dimfit_slot *from) {
    const size_t n = (size_t)from->dim * from->width;
    *slot = (struct carry_slot){from->dim, from->width, mem_alloc(n, sizeof(float)),
                                mem_alloc(from->dim, sizeof(float))};
    if (n > 0)
        memcpy(slot->basis, from->basis, n * sizeof(float));
    memcpy(slot->mean, from->mean, from->dim * sizeof(float));
}

void carry_slot_fini(struct carry_slot *slot) {
    free(slot->basis);
    free(slot->mean);
    *slot = (struct carry_slot){0};
}

void carry_start(const struct carry_slot *slot, real *W, real *mu) {
    for (size_t k = 0; k < slot->width; k++) {
        for (size_t j = 0; j < slot->dim; j++)
            W[k * slot->dim + j] = slot->basis[j * slot->width + k];
    }
    for (size_t j = 0; j < slot->dim; j++)
        mu[j] = slot->mean[j];
}

void carry_over(const struct carry_slot *from, const struct carry_slot *to, const real *W,
                const real *mu, real *W_new, real *mu_new) {
    const size_t d = from->dim, w = from->width;
    double *const MW = mem_alloc(d * d, sizeof *MW);
    for (size_t i = 0; i < d; i++) {
        MW[i * d + i] = 1;
        for (size_t k = 0; k < w; k++) {
            const double m = (double)from->basis[i * w + k];
            for (size_t j = 0; j < d; j++)
                MW[i * d + j] += m * ((double)W[k * d + j] - (double)from->basis[j * w + k]);
        }
    }
    for (size_t j = 0; j < d; j++) {
        double shift = 0;
        for (size_t i = 0; i < d; i++)
            shift += ((double)to->mean[i] - (double)from->mean[i]) * MW[i * d + j];
        mu_new[j] = (real)((double)mu[j] + shift);
        for (size_t k = 0; k < to->width; k++) {
            double sum = 0;
            for (size_t i = 0; i < d; i++)
                sum += (double)to->basis[i * to->width + k] * MW[i * d + j];
            W_new[k * d + j] = (real)sum;
        }
    }
    free(MW);
}

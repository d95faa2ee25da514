/*
 * A layout says how wide the rows of every slot are stored and what their coordinates mean.
 *
 * Slot i has a model width `dim` (d) that never changes and a stored width `width` (w <= d). Its
 * basis M is d x w with orthonormal columns: a stored row r (1 x w) stands for the embedding
 *
 *     v = mean + r M^T      (1 x d)
 *
 * A slot has tiers of rows by popularity (proto/tiers.h): a row of tier t has the first
 * tier_widths[t] coordinates, the others are 0. One tier is the usual case, and the slot's width
 * its own.
 *
 * A basis is kept either as `axes` (M is a choice of identity columns: stored coordinate k is model
 * axis axes[k]; mean is zero) or as a dense `basis`. The layout also carries the affine map from a
 * feasign's initial value at epoch 0 to its initial row now, r_init = v_init init_map + init_shift,
 * so that a feasign never seen reads the same however many changes came before.
 *
 * Its number is the epoch. Layouts are values: made once, then read only, copied whole. A layout is
 * not locked; whoever holds one owns it. Float64 throughout: it is small and it composes.
 */
#ifndef PROTO_LAYOUT_H
#define PROTO_LAYOUT_H

#include "proto/base.h"
#include "proto/buf.h"
#include "proto/retention.h"
#include "proto/tiers.h"

enum {
    LAYOUT_NAME_MAX = 63,
    LAYOUT_DIM_MAX = 512,
    LAYOUT_SLOTS_MAX = 65536,
};

/* Optimizers, numbers pinned: they travel and are stored. */
#define OPTIMIZER_MAP(X)                                                                           \
    X(0, SGD, "sgd")                                                                               \
    X(1, ADAGRAD, "adagrad")                                                                       \
    X(2, ROWWISE_ADAGRAD, "rowwise_adagrad")                                                       \
    X(3, ADAM, "adam")                                                                             \
    X(4, FTRL, "ftrl") /* in the axis basis only */

enum optimizer_kind {
#define OPTIMIZER_ENUM(num, name, text) OPTIMIZER_##name = (num),
    OPTIMIZER_MAP(OPTIMIZER_ENUM)
#undef OPTIMIZER_ENUM
};

struct optimizer {
    enum optimizer_kind kind;
    float lr;           /* ftrl: > 0, the paper's alpha */
    float eps;          /* adagrad, adam: added to the root */
    float beta1, beta2; /* adam */
    float beta, l1, l2; /* ftrl: added to the root, penalties */
};

#define INIT_MAP(X)                                                                                \
    X(0, ZERO, "zero")                                                                             \
    X(1, UNIFORM, "uniform") /* in [-scale, scale) */                                              \
    X(2, NORMAL, "normal")   /* standard deviation scale */

enum init_kind {
#define INIT_ENUM(num, name, text) INIT_##name = (num),
    INIT_MAP(INIT_ENUM)
#undef INIT_ENUM
};

struct layout_slot {
    uint32_t id;
    uint32_t dim, width;
    bool search; /* false: outside basis, scores, budget and the params figures */
    char name[LAYOUT_NAME_MAX + 1];
    struct optimizer optimizer;
    enum init_kind init;
    float init_scale;
    struct retention retention;
    uint32_t n_tiers;                       /* >= 1 */
    uint32_t tier_shows[LAYOUT_TIERS_MAX];  /* decayed shows of its rows: 0, then ascending */
    uint32_t tier_widths[LAYOUT_TIERS_MAX]; /* non-decreasing, the last one is width */

    uint16_t *axes;     /* [width], ascending not required; NULL when the basis is dense */
    double *basis;      /* [dim][width], NULL with axes */
    double *mean;       /* [dim], NULL with axes (zero) */
    double *init_map;   /* [dim][width], NULL with axes (the same selection) */
    double *init_shift; /* [width], NULL with axes (zero) */
};

struct layout {
    uint64_t epoch;
    uint64_t seed; /* of the initial values */
    size_t n_slots;
    struct layout_slot *slots; /* ascending by id */
};

/* NULL for a number that is none. */
const char *optimizer_name(enum optimizer_kind kind);
const char *init_name(enum init_kind kind);
bool optimizer_parse(const char *name, enum optimizer_kind *out);
bool init_parse(const char *name, enum init_kind *out);

/* Optimizer state floats a row of this width has: sgd 0, rowwise_adagrad 1, adagrad w, adam 2 w
 * + 1, ftrl 2 w. */
size_t optimizer_state_width(enum optimizer_kind kind, size_t width);

dimfit_err layout_new(uint64_t epoch, uint64_t seed, struct layout **out) MUST_CHECK;
void layout_destroy(struct layout **layout);
dimfit_err layout_copy(const struct layout *layout, struct layout **out) MUST_CHECK;

/* Add a slot as it starts: axes 0 .. width-1. Copies what it needs of *spec (its pointers are
 * ignored; its retention is completed, retention_complete(); without tiers it gets one; each is as
 * wide as the slot). EXISTS when the id or a different
 * slot's name is there; INVALID for a dim, width, name or setting out of range, the detail naming
 * slot and field. */
dimfit_err layout_add_slot(struct layout *layout, const struct layout_slot *spec,
                           struct err_detail *detail) MUST_CHECK;

/* NULL when there is none. O(log n_slots). */
const struct layout_slot *layout_find(const struct layout *layout, uint32_t id);

/* The basis as a dense matrix, M[dim][width], whichever way it is kept. */
void layout_slot_basis(const struct layout_slot *slot, double *M);
/* The mean, [dim], zeros when there is none. */
void layout_slot_mean(const struct layout_slot *slot, double *mean);

/* Largest |M^T M - I| of M[rows][cols], INFINITY when M is not finite. cols <= LAYOUT_DIM_MAX. */
double layout_orthonormal_error(const double *M, size_t rows, size_t cols);

/* Bytes of basis, mean and initial map: what a layout itself costs ("layout_bytes"). */
uint64_t layout_bytes(const struct layout *layout);

void layout_slot_encode(const struct layout_slot *slot, struct buf *out);
dimfit_err layout_slot_decode(struct reader *in, struct layout_slot *out, struct err_detail *detail)
    MUST_CHECK; /* out owns its arrays: layout_slot_fini() */
void layout_slot_fini(struct layout_slot *slot);
dimfit_err layout_slot_copy(const struct layout_slot *slot, struct layout_slot *out) MUST_CHECK;

void layout_encode(const struct layout *layout, struct buf *out);
/* Bytes are not trusted: every count, width and number is checked (finite, axes < dim and distinct,
 * columns orthonormal to 1e-6), PROTOCOL otherwise. */
dimfit_err layout_decode(const void *bytes, size_t len, struct layout **out,
                         struct err_detail *detail) MUST_CHECK;

#endif

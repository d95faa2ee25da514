/*
 * What a layout change makes of the rows of one tier of a slot: values and sides, forth or back.
 *
 * Values move by T, first moments by N, second moments by N o N; counters and what a row has one of
 * stay (design 2.5, proto/change.h). Each row is worked out by itself, so that the bits do not
 * depend on which rows are moved together, nor when. Undoing a change takes, beside a row as it is
 * now, the row as it was before that change. Made once a tier, then read only; pure.
 *
 * A tier's row stands for one padded with zeros to the slot's width, and what is made of that is
 * cut to the tier's width after: so rows go by the first rows and columns of each matrix.
 */
#ifndef SERVER_RECAST_H
#define SERVER_RECAST_H

#include "proto/change.h"
#include "server/move.h"

enum { RECAST_SIDE_MAX = 4 + 2 * LAYOUT_DIM_MAX }; /* cells of any side */

struct recast_part {
    size_t from, to; /* its first cell in a row given, and in one made */
    enum { RECAST_CELLS, RECAST_VALUES, RECAST_FIRST, RECAST_SECOND } kind;
    size_t cells; /* RECAST_CELLS: how many stay as they are */
};

struct recast {
    bool back;
    uint32_t before, after;           /* widths of the rows given and made */
    uint32_t wide, kept, added;       /* the change, forth: from `wide` to kept + added */
    uint16_t *keep;                   /* [kept], MOVE_NONE beyond `wide`; NULL when dense */
    bool blanks;                      /* there are such */
    struct move_matrix T, N, squares; /* N, squares: where sides move */
    struct move_matrix mix;           /* [wide][added]; cells NULL unless rows are mixed there */
    double *N_back, *squares_back;    /* [kept][wide], of a dense change that is undone */
    bool drawn;
    uint64_t seed;                 /* of what is drawn, */
    struct layout_slot after_spec; /* from this layout; a copy */
    bool sides_move;               /* otherwise a row's side stays where it is */
    struct recast_part sides[3];
    size_t n_sides;
    size_t side_before, side_after; /* cells */
};

/* Of one tier; `slot` is of `change`; before and after are its slot in the layouts. NOMEM. */
dimfit_err recast_init(struct recast *recast, const struct change *change,
                       const struct change_slot *slot, uint32_t tier,
                       const struct layout_slot *before, const struct layout_slot *after,
                       uint64_t seed) MUST_CHECK;
void recast_fini(struct recast *recast);

/* Rows as they are to rows as they will be. Undoing: saved[run->n], run->to_stride apart, NULL
 * otherwise. */
void recast_values(const struct recast *recast, const struct move_run *run, const float *saved);
void recast_sides(const struct recast *recast, const struct move_run *run, const float *saved);

/* What a row costs to move, in about a nanosecond. */
size_t recast_cost(const struct recast *recast);

/* Cells of a row's side at a width: counters, then optimizer state. */
size_t recast_side(const struct layout_slot *spec, size_t width);
/* A row's side at another width: state is cut, or zeros are added. */
void recast_cut_side(const struct layout_slot *spec, const uint32_t *from, size_t from_width,
                     uint32_t *to, size_t to_width);

#endif

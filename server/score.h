/*
 * A shard's score sums: for each scoring step, slot and tier, what pushes add up (stats.h,
 * design 2.1-2.4).
 *
 * Where the kfac basis may be fitted, each slot also has, with its last tier, the sum of its
 * gradients' second moments, samples^2 * g^T g over the lookups that workers told of (section.h);
 * it needs no steps.
 *
 * A push opens its step once, then asks for each slot's sums, a struct a tier, and the table adds
 * to them inside the pass over the rows. Steps are kept whole until the coordinator gathers them,
 * since absolute values and the change of basis come after the sum over shards and workers. Memory
 * is bounded by a limit: inside a search a step that would go over it is refused (LIMIT;
 * shard_push.c then trains without scores), outside the oldest steps are dropped and their ids
 * remembered. Owned by the shard's thread.
 */
#ifndef SERVER_SCORE_H
#define SERVER_SCORE_H

#include "server/stats.h"

struct score;
struct score_step;

/* Where one tier's part of a push is added up. Arrays are float64. */
struct score_sums {
    double scale;  /* samples of the push, 1 when not given */
    double *g;     /* [w] */
    double *row;   /* [w] */
    double *C, *b; /* [w][w], [w]; NULL when only the axis scores are kept */
    /* C and b take one row in `sample`, chosen by a hash of feasign and step, and weigh it as so
     * many: what they are expected to be does not change. 1: every row. */
    uint64_t step;
    uint32_t sample;
};

dimfit_err score_new(uint64_t max_bytes, struct score **out) MUST_CHECK;
void score_destroy(struct score **score);
/* Another limit from the next score_open() on. */
void score_limit(struct score *score, uint64_t max_bytes);
uint64_t score_limit_bytes(const struct score *score);

enum score_keep {
    SCORE_KEEP_MOMENTS = 1 << 0,   /* C and b */
    SCORE_KEEP_CURVATURE = 1 << 1, /* second moments of gradients */
};

/* Forget all sums, and keep from now on what `keep` says. searching: refuse rather than drop when
 * full. */
void score_restart(struct score *score, uint32_t keep, bool searching);
/* Until the next restart, inside a search: of the steps only the last ones opened are kept, so many
 * and some more (they may come a little out of order), so that scoring can go on for ever. 0: all.
 */
void score_window(struct score *score, uint64_t steps);
void score_stop(struct score *score); /* a search's end: searching = false, sums stay */

/* What a push scores: a tier of a slot. */
struct score_part {
    uint32_t slot, tier, width;
    bool curved; /* the slot's curvature is kept with this one, where any is: its last tier */
};

/* Make sure the step and the sums of all n parts are there, so that the push cannot fail half-way;
 * LIMIT or NOMEM, nothing changed, otherwise. The step stays valid until the next call. Records
 * (worker, samples) only on success. */
dimfit_err score_open(struct score *score, uint64_t step, uint64_t worker, uint64_t samples,
                      const struct score_part *parts, size_t n, struct score_step **out,
                      struct err_detail *detail) MUST_CHECK;
/* Drop what there is of a step: it counts nowhere from now on. NOMEM, nothing changed. */
dimfit_err score_leave_out(struct score *score, uint64_t step) MUST_CHECK;
/* The sums of a part named at score_open(). */
struct score_sums score_sums_of(struct score *score, struct score_step *step, uint32_t slot,
                                uint32_t tier);
/* Add scale * curvature, an upper triangle of f64 as a section has it, that is of so many lookups,
 * to the curved part of a slot that was named at score_open(); nothing happens where none is kept.
 */
void score_curvature(struct score *score, uint32_t slot, uint32_t tier, const uint8_t *curvature,
                     double scale, uint32_t lookups);

/* C and b are kept: a basis may be fitted. */
bool score_fits_bases(const struct score *score);

uint64_t score_bytes(const struct score *score);
uint64_t score_steps(const struct score *score);
uint64_t score_samples(const struct score *score); /* as seen by this shard */

/* Fill in steps, evicted ids, and the row scores and curvatures of the slots and tiers that stats
 * already lists. */
dimfit_err score_export(const struct score *score, struct stats *stats) MUST_CHECK;

/* Saved and restored (score_save.c); the latter into empty ones, of the tables of this layout,
 * which after a failure are good for score_destroy() alone. */
struct archive_writer;
struct archive_reader;
void score_save(const struct score *score, struct archive_writer *out);
void score_restore(struct score *score, const struct layout *layout, struct archive_reader *in);

#endif

/*
 * A shard's rows: for every slot an index from feasign to row number, and for each of its tiers
 * (proto/tiers.h; most have one) slabs of exactly the tier's stored width.
 *
 * Values stand in a slab of their own, so that a pull touches values only; show count and optimizer
 * state, which a push needs both, share the other. Slabs grow by chunks; a row keeps its number for
 * life, so a layout change fills new slabs and never touches the index. It takes hold at once and
 * moves rows in slices (table_move()), each at the latest at its first training push; until then a
 * row is read through the change, so that whatever is read or trained has the same bits for any
 * schedule of slices. A row is stored at its
 * first training push; until then it reads as its initial value, a function of (seed, slot,
 * feasign, dimension) alone taken through the layout's initial map. Keys of a batch are looked up
 * and fetched ahead of the one being worked on.
 *
 * Where a slot's retention (proto/retention.h) admits feasigns at their N-th show, one shown less
 * often is pending: the index has its show count, exact, and the day it was last seen, in place of
 * a row number. That is all it costs, an entry of 12 bytes at the index's load (some 19) instead of
 * a row. Its gradients are dropped, its clicks are not counted, it reads and scores as its initial
 * value. The push that brings its N-th show gives it its row, with the shows so far, and is
 * applied.
 *
 * Rows go in slices (table_expire.h), which also take them from tier to tier: a push never does.
 * Their numbers and memory serve the next new rows: slabs do not shrink, the index does.
 *
 * One table belongs to one thread; no locks. Keys and gradients are unaligned bytes from the wire;
 * their lengths were checked by the caller, their values are checked here. Key arrays may repeat a
 * key, though clients send each once: gradients are then applied one after another, and a score may
 * see the values before or after those that came earlier in the same call.
 */
#ifndef SERVER_TABLE_H
#define SERVER_TABLE_H

#include "proto/change.h"
#include "proto/layout.h"
#include "server/row_counters.h"
#include "server/score.h"
#include "server/stats.h"

struct table;
struct table_slot;

struct table_figures {
    uint64_t rows;
    uint64_t value_bytes, state_bytes, counter_bytes; /* rows * width * 4, ...: what rows use */
    uint64_t index_bytes, slab_bytes;                 /* what is allocated */
    uint64_t moving_rows;  /* yet to move, and one more while old memory is yet to go */
    uint64_t saved_bytes;  /* rows before the last change, in memory or spilled */
    uint64_t keys_pending; /* pushed for a feasign that was pending */
    uint64_t pending;      /* feasigns shown, but not often enough for a row */
    uint64_t evicted;      /* rows, by shrinks so far */
    uint64_t expired_rows, expired_pending; /* by the last shrink, or what its dry run would have */
    uint64_t promoted, demoted;             /* rows to another tier, by the same */
};

dimfit_err table_new(uint64_t seed, struct table **out) MUST_CHECK;
void table_destroy(struct table **table);

/* Slots come from layouts. The spec is copied. EXISTS when the id is there. */
dimfit_err table_add_slot(struct table *table, const struct layout_slot *spec) MUST_CHECK;
struct table_slot *table_find(struct table *table, uint32_t slot); /* NULL: unknown */
uint32_t table_slot_width(const struct table_slot *slot);          /* of its last tier */

/* values[n][width]: the stored rows, initial rows where a key has none, padded with zeros where
 * they are of a narrower tier. Stores nothing. */
void table_pull(const struct table_slot *slot, const uint8_t *keys, size_t n, float *values);
/* The same, and tiers[n]; 0 where a key has no row. */
void table_pull_tiers(const struct table_slot *slot, const uint8_t *keys, size_t n, float *values,
                      uint8_t *tiers);

/* NOT_FINITE naming slot and feasign if any of grads[n][width] is NaN or infinite. */
dimfit_err table_check_grads(const struct table_slot *slot, const uint8_t *keys,
                             const uint8_t *grads, size_t n, struct err_detail *detail) MUST_CHECK;

/* From now on the table takes new rows only as long as slabs and indices have at most this many
 * bytes, those of the new rows counted; 0: no limit. Numbers that evicted rows left are always
 * taken. An index grows while rows are stored, and may so pass the limit by what one push brings.
 */
void table_limit(struct table *table, uint64_t bytes);
uint64_t table_bytes(const struct table *table); /* as the limit was last compared with */

/* Make room for n more rows, so that a push of n keys cannot fail. NOMEM, or LIMIT of the table;
 * nothing changed. At the limit it is worth asking for table_missing() rows instead. */
dimfit_err table_reserve(struct table_slot *slot, size_t n) MUST_CHECK;

/* How many of the keys have no row, and which, when missing[n] is asked for. */
size_t table_missing(const struct table_slot *slot, const uint8_t *keys, size_t n, bool *missing);

/* Push grads[n][width], of which a row takes as many as it has: with train, apply the slot's
 * optimizer, add to the rows' counters (counts NULL: one look-up each, no clicks, no day), store
 * rows that are admitted; with sums[n_tiers], add r
 * * dL/dr of the values before the push, each row's to its tier's. Infallible after
 * table_check_grads() and, with train, table_reserve() of n or of the missing ones. */
void table_push(struct table_slot *slot, const uint8_t *keys, const uint8_t *grads,
                const struct table_counts *counts, size_t n, bool train,
                const struct score_sums *sums);

/* Look one row up, for tests and tools: false when it is not stored. Pointers are borrowed until
 * the next push or change. */
struct table_row {
    uint32_t tier, width;
    const float *values; /* [width] */
    const float *state;  /* [optimizer_state_width()] */
    float shows, clicks;
    uint32_t day; /* last seen; 0: unknown */
};
bool table_row(const struct table_slot *slot, uint64_t feasign, struct table_row *out);

/* What is added up of the rows: nothing but how many there are, their show counts too, or all that
 * struct slot_stats has of them. */
enum table_sums { TABLE_ROWS, TABLE_LOOKUPS, TABLE_MOMENTS };

/* Append every tier of every slot with search: true to stats, with these sums. */
dimfit_err table_export(const struct table *table, enum table_sums sums,
                        struct stats *stats) MUST_CHECK;

/* The same in slices of some 50 us, as long as *more is set: a zeroed walk begins. Rows stand still
 * while a moment is summed up (table_in_motion()), but may come, change and go between slices: each
 * is counted as it was when the walk came by, and a tier's `rows` are those counted. A slot that is
 * added behind the walk is left out. Widths must not change before the end, nor rows go to another
 * tier. */
struct export_walk {
    uint32_t slot, tier, row; /* where it goes on */
    bool inside;              /* it has begun with the tier */
};
dimfit_err table_export_slice(const struct table *table, enum table_sums sums,
                              struct export_walk *walk, struct stats *stats, bool *more) MUST_CHECK;

/* ---- saved (table_save.c) ---- */

struct archive_writer;
struct archive_reader;
/* Whether it can be saved now: BUSY while rows move or, with undo, are on their way to where they
 * are spilled; IO: what would undo the last change is lost. */
dimfit_err table_save_check(const struct table *table, bool undo,
                            struct err_detail *detail) MUST_CHECK;
/* undo: with the rows before the last change. They stand still. Takes no memory. */
void table_save(const struct table *table, bool undo, struct archive_writer *out);
/* Into a table that has the layout's slots and no rows. before: the layout before the last change,
 * where rows of it may be there. After a failure the table is good for table_destroy() alone. */
void table_restore(struct table *table, const struct layout *before, struct archive_reader *in);

/* ---- layout changes (table_change.c) ---- */

/* Where rows before a change go, so that it can be undone: chunks of them to a file, say. */
struct spill;
struct table_spill {
    void *self;
    uint64_t queue; /* bytes of chunks taken over that are not freed yet, at most */
    /* Room for so many bytes, of the change to an epoch. NULL: there is none, and the change can't
     * be undone; to be reported by whoever says so. Must not wait for a disk. */
    struct spill *(*open)(void *self, uint64_t epoch, uint64_t bytes);
    /* Take a chunk of slab_chunk_free() over, for this place. Where it can be read from then on,
     * once written. NULL: not now; the chunk stays the table's. Must not wait for a disk. */
    const void *(*write)(void *self, struct spill *spill, float *chunk, size_t bytes,
                         uint64_t offset);
    /* Whether all that was given can be read: OK, BUSY until it can, IO if it never will. */
    dimfit_err (*check)(void *self, const struct spill *spill, struct err_detail *detail);
    void (*open_more)(void *self, struct spill *spill); /* one more will close it */
    void (*close)(void *self, struct spill *spill);
};

/* From the next change on, keep the rows before it until the next one or table_forget(): in memory,
 * or spilled where io is not NULL, which is borrowed for good. To begin with nothing is kept, and
 * old memory goes on to the new rows. */
void table_keep(struct table *table, bool keep, const struct table_spill *io);
/* Rows before the change to this epoch are not needed any more. BUSY while rows move. */
dimfit_err table_forget(struct table *table, uint64_t epoch) MUST_CHECK;

/* Bytes that a change takes at most beside what is there, slots moving one after another: what new
 * slabs have more than old ones, rows that pushes move ahead of the sweep (one in five at most),
 * what is on its way to where it is spilled, saved rows that are read back from there; where old
 * rows are kept in memory, the new slabs whole. */
uint64_t table_change_peak(const struct table *table, const struct change *change);

/* Put the slots that the change names in motion: from now on they have the new layout's widths and
 * specs. Moves no row. BUSY while rows of the change before still move, or are not saved whole yet
 * where that one is undone; INVALID when change and table disagree, or nothing is saved to undo it
 * with; NOMEM. On an error nothing changed. */
dimfit_err table_change(struct table *table, const struct change *change,
                        const struct layout *layout, struct err_detail *detail) MUST_CHECK;
/* Whether table_change() would be refused, but for want of memory. */
dimfit_err table_change_check(struct table *table, const struct change *change,
                              const struct layout *layout, struct err_detail *detail) MUST_CHECK;

/* A slice of moving, of about `budget` nanoseconds. False: all rows are where they belong. It may
 * do nothing for want of memory, or while rows can't be spilled. */
bool table_move(struct table *table, size_t budget);
bool table_in_motion(const struct table *table);

struct table_figures table_slot_figures(const struct table_slot *slot);
struct table_figures table_figures(const struct table *table);

#endif

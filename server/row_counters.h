/*
 * The counters at the head of a row's side: what a slot's retention (proto/retention.h) has it
 * count.
 *
 *     [f32 shows] [f32 clicks, if retention.clicks] [u32 day, if retention.last_seen] [state ...]
 *
 * Counts are float32, since they decay: exact up to 2^24, beyond it an addition rounds, and what is
 * less than half a unit of the last place is lost. Never negative, never wrapping. Shows decay by
 * retention.decay a day, when the row is next pushed: on a push of day D > day they are multiplied
 * by decay^(D - day) first. A push of an older day, or of none (0), adds and decays nothing.
 *
 * A free row keeps the number of the next free one in its first cell, with the sign bit set, which
 * no show count has.
 */
#ifndef SERVER_ROW_COUNTERS_H
#define SERVER_ROW_COUNTERS_H

#include "proto/retention.h"

enum { COUNTERS_DAY_MAX = (1 << 19) - 1 }; /* the day fits beside a pending count */

/* What a push counts, key by key. */
struct table_counts {
    const uint8_t *lookups; /* n x u32, unaligned; NULL: one each */
    const uint8_t *clicks;  /* n x u32; NULL: none */
    uint32_t day;           /* up to COUNTERS_DAY_MAX; 0: unknown */
};

struct row_counters {
    float shows, clicks;
    uint32_t day; /* 0: unknown, or not kept */
};

static inline uint32_t counters_cells(const struct retention *r) {
    return 1u + r->clicks + r->last_seen;
}

static inline uint32_t counts_lookups(const struct table_counts *counts, size_t i) {
    return counts->lookups != NULL ? load_u32(counts->lookups + i * sizeof(uint32_t)) : 1;
}

struct row_counters counters_read(const struct retention *r, const uint32_t *side);
void counters_write(const struct retention *r, struct row_counters counters, uint32_t *side);

/* As they are on a day, decayed since they were written. */
struct row_counters counters_on(const struct retention *r, struct row_counters counters,
                                uint32_t day);

/* counters_add() of a slot that counts more than shows. */
void counters_add_all(const struct retention *r, uint32_t *const *sides,
                      const struct table_counts *counts, size_t at, size_t n);

static inline void counters_show(uint32_t *side, uint32_t n) {
    float shows;
    memcpy(&shows, side, sizeof shows);
    shows += (float)n;
    memcpy(side, &shows, sizeof shows);
}

/* Add what keys at .. at + n - 1 of a push count to their rows. A slot that counts shows alone pays
 * for nothing else. */
static inline void counters_add(const struct retention *r, uint32_t *const *sides,
                                const struct table_counts *counts, size_t at, size_t n) {
    if (counters_cells(r) > 1) {
        counters_add_all(r, sides, counts, at, n);
    } else if (counts->lookups == NULL) {
        for (size_t i = 0; i < n; i++)
            counters_show(sides[i], 1);
    } else {
        for (size_t i = 0; i < n; i++)
            counters_show(sides[i], counts_lookups(counts, at + i));
    }
}

#endif

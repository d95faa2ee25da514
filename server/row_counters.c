#include "server/row_counters.h"

#include <math.h>

static float as_float(uint32_t cell) {
    float x;
    memcpy(&x, &cell, sizeof x);
    return x;
}

static uint32_t as_cell(float x) {
    uint32_t cell;
    memcpy(&cell, &x, sizeof cell);
    return cell;
}

struct row_counters counters_read(const struct retention *r, const uint32_t *side) {
    struct row_counters counters = {.shows = as_float(*side++)};
    if (r->clicks)
        counters.clicks = as_float(*side++);
    if (r->last_seen)
        counters.day = *side;
    return counters;
}

void counters_write(const struct retention *r, struct row_counters counters, uint32_t *side) {
    *side++ = as_cell(counters.shows);
    if (r->clicks)
        *side++ = as_cell(counters.clicks);
    if (r->last_seen)
        *side = counters.day;
}

struct row_counters counters_on(const struct retention *r, struct row_counters counters,
                                uint32_t day) {
    if (day <= counters.day)
        return counters;
    if (counters.day != 0 && r->decay < 1) {
        const float factor = (float)pow((double)r->decay, day - counters.day);
        counters.shows *= factor;
        counters.clicks *= factor;
    }
    counters.day = day;
    return counters;
}

void counters_add_all(const struct retention *r, uint32_t *const *sides,
                      const struct table_counts *counts, size_t at, size_t n) {
    for (size_t i = 0; i < n; i++) {
        struct row_counters c = counters_on(r, counters_read(r, sides[i]), counts->day);
        c.shows += (float)counts_lookups(counts, at + i);
        if (counts->clicks != NULL)
            c.clicks += (float)load_u32(counts->clicks + (at + i) * sizeof(uint32_t));
        counters_write(r, c, sides[i]);
    }
}

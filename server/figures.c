#include "server/figures.h"

#include <stdlib.h>

/* All plain integers of one process family: both ends are the same build, the sizes are checked. */
enum {
    COUNTERS_SIZE = sizeof(struct shard_counters),
    SLOT_SIZE = sizeof(uint32_t) + sizeof(struct table_figures),
};

void shard_figures_fini(struct shard_figures *figures) {
    free(figures->slots);
    *figures = (struct shard_figures){0};
}

const struct slot_figures *shard_figures_find(const struct shard_figures *figures, uint32_t slot) {
    size_t low = 0, high = figures->n_slots;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (figures->slots[mid].slot < slot)
            low = mid + 1;
        else
            high = mid;
    }
    if (low == figures->n_slots || figures->slots[low].slot != slot)
        return NULL;
    return &figures->slots[low];
}

void table_figures_add(struct table_figures *into, const struct table_figures *part) {
    into->rows += part->rows;
    into->value_bytes += part->value_bytes;
    into->state_bytes += part->state_bytes;
    into->counter_bytes += part->counter_bytes;
    into->index_bytes += part->index_bytes;
    into->slab_bytes += part->slab_bytes;
    into->moving_rows += part->moving_rows;
    into->saved_bytes += part->saved_bytes;
    into->keys_pending += part->keys_pending;
    into->pending += part->pending;
    into->evicted += part->evicted;
    into->expired_rows += part->expired_rows;
    into->expired_pending += part->expired_pending;
    into->promoted += part->promoted;
    into->demoted += part->demoted;
}

void shard_figures_encode(const struct shard_figures *figures, struct buf *out) {
    const struct process_figures *const p = &figures->process;
    buf_put_u64(out, figures->epoch);
    buf_put_u32(out, COUNTERS_SIZE);
    buf_put(out, &figures->counters, COUNTERS_SIZE);
    buf_put(out, &figures->shrink, sizeof figures->shrink);
    buf_put_u64(out, p->pid);
    buf_put_u64(out, p->resident_bytes);
    buf_put_u64(out, p->jemalloc_allocated);
    buf_put_u64(out, p->jemalloc_active);
    buf_put_u64(out, p->jemalloc_resident);
    buf_put_str(out, p->jemalloc_version);
    buf_put(out, &figures->service, sizeof figures->service);
    buf_put_u64(out, figures->n_slots);
    for (size_t i = 0; i < figures->n_slots; i++) {
        buf_put_u32(out, figures->slots[i].slot);
        buf_put(out, &figures->slots[i].table, sizeof figures->slots[i].table);
    }
}

dimfit_err shard_figures_decode(const void *bytes, size_t len, struct shard_figures *out) {
    struct reader r = reader_of(bytes, len);
    struct shard_figures f = {.epoch = reader_u64(&r)};
    if (reader_u32(&r) != COUNTERS_SIZE)
        return DIMFIT_ERR_PROTOCOL;
    reader_copy(&r, &f.counters, COUNTERS_SIZE);
    reader_copy(&r, &f.shrink, sizeof f.shrink);
    f.process.pid = reader_u64(&r);
    f.process.resident_bytes = reader_u64(&r);
    f.process.jemalloc_allocated = reader_u64(&r);
    f.process.jemalloc_active = reader_u64(&r);
    f.process.jemalloc_resident = reader_u64(&r);
    reader_str(&r, f.process.jemalloc_version, sizeof f.process.jemalloc_version);
    reader_copy(&r, &f.service, sizeof f.service);
    f.n_slots = reader_u64(&r);
    if (!reader_has(&r, f.n_slots, SLOT_SIZE))
        return DIMFIT_ERR_PROTOCOL;
    f.slots = calloc(f.n_slots + 1, sizeof *f.slots);
    if (f.slots == NULL)
        return DIMFIT_ERR_NOMEM;
    for (size_t i = 0; i < f.n_slots; i++) {
        f.slots[i].slot = reader_u32(&r);
        reader_copy(&r, &f.slots[i].table, sizeof f.slots[i].table);
    }
    if (!reader_done(&r)) {
        shard_figures_fini(&f);
        return DIMFIT_ERR_PROTOCOL;
    }
    *out = f;
    return DIMFIT_OK;
}

#include "worker/client_internal.h"

#include <stdlib.h>

void keys_fini(struct keys *keys) {
    free(keys->key);
    free(keys->count);
    free(keys->first);
    free(keys->shard);
    free(keys->index);
    free(keys->seen);
    *keys = (struct keys){0};
}

/* Grow one array, keeping the old on failure. */
#define GROW(array, n)                                                                             \
    ({                                                                                             \
        void *const grown_ = realloc(array, (n) * sizeof *(array));                                \
        if (grown_ != NULL)                                                                        \
            (array) = grown_;                                                                      \
        grown_ != NULL;                                                                            \
    })

static dimfit_err reserve(struct keys *keys, size_t n) {
    if (n > keys->cap) {
        const size_t cap = n + n / 2;
        if (!GROW(keys->key, cap) || !GROW(keys->count, cap) || !GROW(keys->first, cap) ||
            !GROW(keys->shard, cap) || !GROW(keys->index, cap))
            return DIMFIT_ERR_NOMEM;
        keys->cap = cap;
    }
    size_t slots = 64;
    while (slots < 2 * n)
        slots *= 2;
    if (slots <= keys->seen_cap)
        return DIMFIT_OK;
    uint64_t *const seen = calloc(slots, sizeof *seen);
    if (seen == NULL)
        return DIMFIT_ERR_NOMEM;
    free(keys->seen);
    keys->seen = seen;
    keys->seen_cap = slots;
    keys->stamp = 0;
    return DIMFIT_OK;
}

/* A new stamp empties the table without touching it; once in 2^32 calls it is cleared for real. */
static uint32_t next_stamp(struct keys *keys) {
    if (++keys->stamp == 0) {
        memset(keys->seen, 0, keys->seen_cap * sizeof *keys->seen);
        keys->stamp = 1;
    }
    return keys->stamp;
}

dimfit_err keys_split(struct keys *keys, uint32_t slot, const uint64_t *given, size_t n,
                      const struct cluster_map *map) {
    if (n > UINT32_MAX / 4)
        return DIMFIT_ERR_LIMIT;
    const dimfit_err err = reserve(keys, n);
    if (err != DIMFIT_OK)
        return err;
    const uint64_t stamp = (uint64_t)next_stamp(keys) << 32;
    const size_t mask = keys->seen_cap - 1;
    uint32_t distinct = 0;
    for (size_t i = 0; i < n; i++) {
        const uint64_t key = given[i], hash = key_hash(slot, key);
        size_t at = (size_t)hash & mask;
        /* Occupied in this call, by another key: on to the next. */
        while (keys->seen[at] >> 32 == stamp >> 32 && keys->key[(uint32_t)keys->seen[at]] != key)
            at = (at + 1) & mask;
        if (keys->seen[at] >> 32 == stamp >> 32) {
            const uint32_t u = (uint32_t)keys->seen[at];
            keys->count[u]++;
            keys->index[i] = u;
            continue;
        }
        keys->seen[at] = stamp | distinct;
        keys->key[distinct] = key;
        keys->count[distinct] = 1;
        keys->first[distinct] = (uint32_t)i;
        keys->shard[distinct] = (uint16_t)cluster_map_shard(map, hash);
        keys->index[i] = distinct++;
    }
    keys->n = distinct;
    return DIMFIT_OK;
}

#include "worker/client_internal.h"

#include <stdlib.h>

/* Keys hashed together, so that their places in the table are fetched before they are looked at. */
enum { BLOCK = 32 };

void keys_fini(struct keys *keys) {
    free(keys->key);
    free(keys->use);
    free(keys->start);
    free(keys->repeats);
    free(keys->spare_key);
    free(keys->spare_use);
    free(keys->shard);
    free(keys->place);
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

static bool reserve_keys(struct keys *keys, size_t n) {
    if (n <= keys->cap)
        return true;
    const size_t cap = n + n / 2;
    if (!GROW(keys->key, cap) || !GROW(keys->use, cap) || !GROW(keys->repeats, cap) ||
        !GROW(keys->spare_key, cap) || !GROW(keys->spare_use, cap) || !GROW(keys->shard, cap) ||
        !GROW(keys->place, cap))
        return false;
    keys->cap = cap;
    return true;
}

static bool reserve_shards(struct keys *keys, size_t n) {
    if (n <= keys->cap_shards)
        return true;
    if (!GROW(keys->start, n + 1))
        return false;
    keys->cap_shards = n;
    return true;
}

static bool reserve_seen(struct keys *keys, size_t n) {
    size_t slots = 64;
    while (slots < 2 * n)
        slots *= 2;
    if (slots <= keys->seen_cap)
        return true;
    uint64_t *const seen = calloc(slots, sizeof *seen);
    if (seen == NULL)
        return false;
    free(keys->seen);
    keys->seen = seen;
    keys->seen_cap = slots;
    keys->stamp = 0;
    return true;
}

/* A new stamp empties the table without touching it; once in 2^32 calls it is cleared for real. */
static uint32_t next_stamp(struct keys *keys) {
    if (++keys->stamp == 0) {
        memset(keys->seen, 0, keys->seen_cap * sizeof *keys->seen);
        keys->stamp = 1;
    }
    return keys->stamp;
}

static void add_repeat(struct keys *keys, uint32_t of, uint32_t at) {
    struct key_use *const use = &keys->use[of];
    if (use->count++ == 1)
        use->sum = (uint32_t)keys->n_sums++;
    keys->repeats[keys->n_repeats++] = (struct key_repeat){at, of};
}

static inline void add_key(struct keys *keys, uint64_t key, uint64_t hash, uint32_t at,
                           const struct cluster_map *map) {
    const size_t mask = keys->seen_cap - 1;
    size_t slot = (size_t)hash & mask;
    /* Occupied in this call, by another key: on to the next. */
    for (; keys->seen[slot] >> 32 == keys->stamp; slot = (slot + 1) & mask) {
        const uint32_t u = (uint32_t)keys->seen[slot];
        if (keys->key[u] == key) {
            add_repeat(keys, u, at);
            return;
        }
    }
    const size_t u = keys->n++;
    keys->seen[slot] = (uint64_t)keys->stamp << 32 | u;
    keys->key[u] = key;
    keys->use[u] = (struct key_use){at, 1, KEY_NO_SUM};
    keys->shard[u] = (uint16_t)cluster_map_shard(map, hash);
}

#define SWAP(a, b)                                                                                 \
    do {                                                                                           \
        __typeof__(a) swapped_ = (a);                                                              \
        (a) = (b);                                                                                 \
        (b) = swapped_;                                                                            \
    } while (0)

/* Counting sort by shard, which keeps the order within one. */
static void group(struct keys *keys) {
    uint32_t *const start = keys->start;
    memset(start, 0, (keys->n_shards + 1) * sizeof *start);
    if (keys->n_shards == 1) {
        start[1] = (uint32_t)keys->n;
        return;
    }
    for (size_t u = 0; u < keys->n; u++)
        start[keys->shard[u] + 1]++;
    for (size_t s = 1; s <= keys->n_shards; s++)
        start[s] += start[s - 1];
    for (size_t u = 0; u < keys->n; u++) {
        const uint32_t to = start[keys->shard[u]]++;
        keys->spare_key[to] = keys->key[u];
        keys->spare_use[to] = keys->use[u];
        keys->place[u] = to;
    }
    /* Each start has moved on to the next one's. */
    memmove(start + 1, start, keys->n_shards * sizeof *start);
    start[0] = 0;
    for (size_t r = 0; r < keys->n_repeats; r++)
        keys->repeats[r].of = keys->place[keys->repeats[r].of];
    SWAP(keys->key, keys->spare_key);
    SWAP(keys->use, keys->spare_use);
}

dimfit_err keys_split(struct keys *keys, uint32_t slot, const uint64_t *given, size_t n,
                      const struct cluster_map *map) {
    if (n > UINT32_MAX / 4)
        return DIMFIT_ERR_LIMIT;
    if (!reserve_keys(keys, n) || !reserve_shards(keys, map->n_shards) || !reserve_seen(keys, n))
        return DIMFIT_ERR_NOMEM;
    next_stamp(keys);
    keys->n = keys->n_sums = keys->n_repeats = 0;
    keys->n_shards = map->n_shards;
    for (size_t first = 0; first < n; first += BLOCK) {
        const size_t m = n - first < BLOCK ? n - first : BLOCK;
        uint64_t hash[BLOCK];
        for (size_t i = 0; i < m; i++) {
            hash[i] = key_hash(slot, given[first + i]);
            __builtin_prefetch(&keys->seen[(size_t)hash[i] & (keys->seen_cap - 1)], 1);
        }
        for (size_t i = 0; i < m; i++)
            add_key(keys, given[first + i], hash[i], (uint32_t)(first + i), map);
    }
    group(keys);
    return DIMFIT_OK;
}

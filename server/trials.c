#include "server/trials.h"

#define XXH_INLINE_ALL
#include <stdlib.h>
#include <xxhash.h>

#define TRIALS_MAGIC 0x3172546d69646400ull /* "\0dimTr1" */
enum { TRIAL_BYTES = 8 * 9 };

void trials_init(struct trials *trials) {
    *trials = (struct trials){0};
}

void trials_fini(struct trials *trials) {
    for (size_t i = 0; i < trials->n; i++)
        change_destroy(&trials->all[i].change);
    free(trials->all);
    free(trials->index);
    *trials = (struct trials){0};
}

struct trial_key trials_key(const void *bytes, size_t len) {
    const XXH128_hash_t hash = XXH3_128bits(bytes, len);
    return (struct trial_key){hash.low64, hash.high64};
}

static bool equal(struct trial_key a, struct trial_key b) {
    return a.low == b.low && a.high == b.high;
}

/* Where the key stands in the index, or would. */
static size_t place_of(const struct trials *trials, struct trial_key key) {
    const size_t mask = trials->index_cap - 1;
    size_t at = key.low & mask;
    while (trials->index[at] != 0 && !equal(trials->all[trials->index[at] - 1].key, key))
        at = (at + 1) & mask;
    return at;
}

struct trial *trials_find(const struct trials *trials, struct trial_key key) {
    if (trials->n == 0)
        return NULL;
    const uint32_t number = trials->index[place_of(trials, key)];
    return number == 0 ? NULL : &trials->all[number - 1];
}

static bool grow(struct trials *trials) {
    const size_t cap = trials->cap > 0 ? 2 * trials->cap : 64;
    struct trial *const all = realloc(trials->all, cap * sizeof *all);
    if (all == NULL)
        return false;
    trials->all = all;
    uint32_t *const index = calloc(2 * cap, sizeof *index);
    if (index == NULL)
        return false;
    free(trials->index);
    trials->index = index;
    trials->index_cap = 2 * cap;
    trials->cap = cap;
    for (size_t i = 0; i < trials->n; i++)
        index[place_of(trials, all[i].key)] = (uint32_t)i + 1;
    return true;
}

dimfit_err trials_add(struct trials *trials, struct trial_key key, uint64_t samples,
                      struct change **change, struct trial **out) {
    base_assert(trials_find(trials, key) == NULL);
    if (trials->n == TRIALS_MAX)
        return DIMFIT_ERR_LIMIT;
    if (trials->n == trials->cap && !grow(trials))
        return DIMFIT_ERR_NOMEM;
    const size_t place = place_of(trials, key);
    struct trial *const trial = &trials->all[trials->n++];
    trials->index[place] = (uint32_t)trials->n;
    *trial = (struct trial){.key = key, .samples = samples, .change = *change};
    *change = NULL;
    *out = trial;
    return DIMFIT_OK;
}

void trials_answer(struct trials *trials, struct trial *trial, const struct trial_figures *figures,
                   uint64_t samples) {
    base_assert(!trial->known);
    trial->known = true;
    trials->n_known++;
    trial->worker = 0;
    change_destroy(&trial->change);
    trial->result = (struct dimfit_trial_result){
        .loss = figures->loss,
        .auc = figures->auc,
        .whole_loss = figures->whole_loss,
        .whole_auc = figures->whole_auc,
        .error = figures->error,
        .samples = samples,
    };
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static struct trial_figures figures_of(const struct dimfit_trial_result *r) {
    return (struct trial_figures){r->loss, r->auc, r->whole_loss, r->whole_auc, r->error};
}

void trials_encode(const struct trials *trials, struct trial_key about, int64_t wall_s,
                   struct buf *out) {
    struct buf body;
    buf_init(&body);
    buf_put_u64(&body, about.low);
    buf_put_u64(&body, about.high);
    buf_put_u64(&body, (uint64_t)wall_s);
    buf_put_u64(&body, trials->n_known);
    for (size_t i = 0; i < trials->n; i++) {
        const struct trial *const trial = &trials->all[i];
        if (!trial->known)
            continue;
        const struct trial_figures figures = figures_of(&trial->result);
        buf_put_u64(&body, trial->key.low);
        buf_put_u64(&body, trial->key.high);
        buf_put_u64(&body, trial->samples);
        buf_put_u64(&body, trial->result.samples);
        trial_encode(&figures, &body);
    }
    buf_put_u64(out, TRIALS_MAGIC);
    buf_put_u64(out, body.failed ? 0 : XXH3_64bits(body.data, body.len));
    buf_put(out, body.data, body.len);
    out->failed |= body.failed;
    buf_fini(&body);
}

static dimfit_err read_trial(struct trials *trials, struct reader *in) {
    struct trial_key key;
    key.low = reader_u64(in);
    key.high = reader_u64(in);
    const uint64_t asked = reader_u64(in), samples = reader_u64(in);
    const size_t figures_len = 5 * sizeof(double);
    const uint8_t *const bytes = reader_take(in, figures_len);
    struct trial_figures figures;
    if (in->failed || trial_decode(bytes, figures_len, &figures, NULL) != DIMFIT_OK ||
        trials_find(trials, key) != NULL)
        return DIMFIT_ERR_IO;
    struct change *none = NULL;
    struct trial *trial = NULL;
    const dimfit_err err = trials_add(trials, key, asked, &none, &trial);
    if (err == DIMFIT_OK)
        trials_answer(trials, trial, &figures, samples);
    return err;
}

dimfit_err trials_decode(struct trials *trials, const void *bytes, size_t len,
                         struct trial_key about, int64_t wall_s, int64_t max_age_s) {
    struct reader in = reader_of(bytes, len);
    const uint64_t magic = reader_u64(&in), sum = reader_u64(&in);
    if (in.failed || magic != TRIALS_MAGIC || XXH3_64bits(in.data, in.left) != sum)
        return DIMFIT_ERR_IO;
    struct trial_key is;
    is.low = reader_u64(&in);
    is.high = reader_u64(&in);
    const int64_t written_s = (int64_t)reader_u64(&in);
    const uint64_t n = reader_u64(&in);
    if (in.failed || !reader_has(&in, n, TRIAL_BYTES))
        return DIMFIT_ERR_IO;
    if (!equal(is, about) || written_s > wall_s || written_s < wall_s - max_age_s)
        return DIMFIT_ERR_NOT_FOUND;
    dimfit_err err = DIMFIT_OK;
    for (uint64_t i = 0; i < n && err == DIMFIT_OK; i++)
        err = read_trial(trials, &in);
    if (err == DIMFIT_OK && !reader_done(&in))
        err = DIMFIT_ERR_IO;
    if (err != DIMFIT_OK)
        trials_fini(trials);
    return err;
}

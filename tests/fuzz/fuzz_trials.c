/* The file of a search's trials: what decodes encodes to the same bytes, and finds each of them. */
#include "server/trials.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/sealed.h"

#define TRIALS_MAGIC 0x3172546d69646400ull /* as in server/trials.c; a seed says if it is not */

static const struct trial_key about = {11, 12};

enum { WALL_S = 1700000000, HOUR_S = 3600 };

static bool decodes(const struct buf *file) {
    struct trials trials;
    trials_init(&trials);
    if (trials_decode(&trials, file->data, file->len, about, WALL_S, HOUR_S) != DIMFIT_OK) {
        REQUIRE(trials.n == 0 && trials.all == NULL);
        return false;
    }
    struct buf buf;
    buf_init(&buf);
    /* When it was written is within the hour. */
    const int64_t wall_s = (int64_t)load_u64(file->data + SEALED_HEAD + 2 * sizeof(uint64_t));
    trials_encode(&trials, about, wall_s, &buf);
    REQUIRE(fuzz_same(&buf, file->data, file->len));
    for (size_t i = 0; i < trials.n; i++)
        REQUIRE(trials.all[i].known && trials_find(&trials, trials.all[i].key) == &trials.all[i]);
    buf_fini(&buf);
    trials_fini(&trials);
    return true;
}

bool fuzz_one(const uint8_t *bytes, size_t len) {
    struct buf file;
    buf_init(&file);
    const bool taken = sealed_open(bytes, len, TRIALS_MAGIC, &file) && decodes(&file);
    buf_fini(&file);
    return taken;
}

void fuzz_seeds(struct fuzz_sink *sink) {
    struct trials trials;
    struct buf buf;
    trials_init(&trials);
    buf_init(&buf);
    for (uint64_t i = 0; i < 3; i++) {
        const struct trial_figures figures = {0.4, 0.8, 0.39, 0.81, 0.002};
        struct change *none = NULL;
        struct trial *trial = NULL;
        trials_encode(&trials, about, WALL_S - 60, &buf);
        sealed_input(&buf);
        fuzz_put_buf(sink, &buf);
        REQUIRE(trials_add(&trials, (struct trial_key){i, i + 1}, 1000, &none, &trial) ==
                DIMFIT_OK);
        trials_answer(&trials, trial, &figures, 900);
    }
    trials_fini(&trials);
    buf_fini(&buf);
}

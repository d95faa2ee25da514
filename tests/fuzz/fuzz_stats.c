/* Statistics that decode encode to bytes that decode to the same, and can be added up with others
 * of their epoch. */
#include "server/stats.h"
#include "tests/fuzz/fuzz.h"

static void require_merges(const struct stats *part) {
    struct stats *sum = NULL;
    struct err_detail detail;
    REQUIRE(stats_new(part->epoch, &sum) == DIMFIT_OK);
    REQUIRE(stats_merge(sum, part, &detail) == DIMFIT_OK);
    REQUIRE(stats_merge(sum, part, &detail) == DIMFIT_OK);
    REQUIRE(sum->n_slots == part->n_slots && sum->n_steps == part->n_steps);
    (void)stats_samples(sum);
    stats_destroy(&sum);
}

bool fuzz_one(const uint8_t *bytes, size_t len) {
    struct stats *stats = NULL, *again = NULL;
    struct err_detail detail;
    if (stats_decode(bytes, len, &stats, &detail) != DIMFIT_OK)
        return false;
    struct buf first, second;
    buf_init(&first);
    buf_init(&second);
    stats_encode(stats, &first);
    REQUIRE(!first.failed && first.len <= len);
    REQUIRE(stats_decode(first.data, first.len, &again, &detail) == DIMFIT_OK);
    stats_encode(again, &second);
    REQUIRE(fuzz_same(&second, first.data, first.len));
    require_merges(stats);
    for (size_t i = 0; i < stats->n_evicted; i++)
        REQUIRE(stats_step_evicted(stats, stats->evicted[i]));
    buf_fini(&first);
    buf_fini(&second);
    stats_destroy(&stats);
    stats_destroy(&again);
    return true;
}

static void put(struct fuzz_sink *sink, bool moments) {
    struct stats *stats = NULL;
    struct buf buf;
    buf_init(&buf);
    REQUIRE(stats_new(2, &stats) == DIMFIT_OK);
    for (uint32_t slot = 1; slot <= 2; slot++) {
        struct slot_stats *const s = stats_add_slot(stats, slot, slot - 1, slot, moments);
        REQUIRE(s != NULL && (!moments || stats_add_curvature(s)));
        s->rows = 10 * slot;
        s->lookups = 25;
    }
    for (uint64_t id = 5; id <= 6; id++) {
        struct step_stats *const step = stats_add_step(stats, id);
        struct step_slot *const s = step == NULL ? NULL : step_add_slot(step, 2, 0, 2, moments);
        REQUIRE(s != NULL && step_add_worker(step, 7, 64) == DIMFIT_OK);
        s->g[0] = 0.5;
    }
    REQUIRE(stats_add_evicted(stats, 9) == DIMFIT_OK && stats_add_evicted(stats, 6) == DIMFIT_OK);
    stats_encode(stats, &buf);
    fuzz_put_buf(sink, &buf);
    stats_destroy(&stats);
    buf_fini(&buf);
}

void fuzz_seeds(struct fuzz_sink *sink) {
    put(sink, true);
    put(sink, false);
}

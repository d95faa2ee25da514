#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "worker/train/metrics.h"
#include "worker/train/plant.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void the_same_seed_gives_the_same_log(void **state) {
    struct plant *a = plant_new(7), *b = plant_new(7);
    struct rng rng_a = rng_of(7, 1), rng_b = rng_of(7, 1);
    for (int row = 0; row < 1000; row++) {
        uint32_t fa[PLANT_SLOTS], fb[PLANT_SLOTS];
        assert_true(plant_draw(a, &rng_a, fa) == plant_draw(b, &rng_b, fb));
        for (size_t i = 0; i < PLANT_SLOTS; i++) {
            char ta[PLANT_TEXT], tb[PLANT_TEXT];
            plant_text(&a->slots[i], fa[i], ta);
            plant_text(&b->slots[i], fb[i], tb);
            assert_string_equal(ta, tb);
        }
    }
    plant_destroy(&a);
    plant_destroy(&b);
}

static void another_seed_gives_another_log(void **state) {
    struct plant *a = plant_new(7), *b = plant_new(8);
    struct rng rng_a = rng_of(7, 1), rng_b = rng_of(7, 1);
    uint32_t f[PLANT_SLOTS];
    assert_true(plant_draw(a, &rng_a, f) != plant_draw(b, &rng_b, f));
    plant_destroy(&a);
    plant_destroy(&b);
}

/* Rank of a slot's vectors: how many directions Gram and Schmidt find in them. */
static unsigned rank_of(const struct plant_slot *slot) {
    double basis[PLANT_LATENT][PLANT_LATENT];
    unsigned rank = 0;
    for (uint32_t f = 0; f < slot->feasigns && f < 100; f++) {
        double v[PLANT_LATENT], norm = 0, rest = 0;
        for (size_t k = 0; k < PLANT_LATENT; k++) {
            v[k] = (double)slot->factor[f * PLANT_LATENT + k];
            norm += v[k] * v[k];
        }
        for (unsigned j = 0; j < rank; j++) {
            double dot = 0;
            for (size_t k = 0; k < PLANT_LATENT; k++)
                dot += v[k] * basis[j][k];
            for (size_t k = 0; k < PLANT_LATENT; k++)
                v[k] -= dot * basis[j][k];
        }
        for (size_t k = 0; k < PLANT_LATENT; k++)
            rest += v[k] * v[k];
        if (rest <= 1e-8 * norm)
            continue;
        for (size_t k = 0; k < PLANT_LATENT; k++)
            basis[rank][k] = v[k] / sqrt(rest);
        rank++;
    }
    return rank;
}

static void slots_have_the_rank_their_name_says(void **state) {
    struct plant *plant = plant_new(1);
    for (size_t i = 0; i < PLANT_SLOTS; i++) {
        const struct plant_slot *const slot = &plant->slots[i];
        assert_int_equal(slot->rank, slot->name[1] - '0');
        assert_int_equal(rank_of(slot), slot->rank);
    }
    plant_destroy(&plant);
}

static void noise_slots_have_no_first_order_weight_either(void **state) {
    struct plant *plant = plant_new(1);
    for (size_t i = 0; i < PLANT_SLOTS; i++) {
        const struct plant_slot *const slot = &plant->slots[i];
        double sum = 0;
        for (uint32_t f = 0; f < slot->feasigns; f++)
            sum += fabs((double)slot->weight[f]);
        assert_true((sum > 0) == (slot->rank > 0));
    }
    plant_destroy(&plant);
}

static void the_widest_slots_are_of_every_rank(void **state) {
    struct plant *plant = plant_new(1);
    unsigned wide[PLANT_LATENT + 1] = {0};
    for (size_t i = 0; i < PLANT_SLOTS; i++)
        wide[plant->slots[i].rank] += plant->slots[i].feasigns >= 50000;
    assert_true(wide[0] > 0 && wide[2] > 0 && wide[8] > 0);
    plant_destroy(&plant);
}

static void feasigns_are_zipf_distributed(void **state) {
    struct plant *plant = plant_new(1);
    for (size_t i = 0; i < PLANT_SLOTS; i++) {
        const struct plant_slot *const slot = &plant->slots[i];
        const double first = slot->chance[0], second = slot->chance[1] - first;
        assert_true(fabs(first / second - pow(2, 1.5)) < 1e-9);
        assert_true(fabs(slot->chance[slot->feasigns - 1] - 1) < 1e-9);
    }
    plant_destroy(&plant);
}

static int by_text(const void *a, const void *b) {
    return strcmp(a, b);
}

static void texts_of_a_slot_are_distinct(void **state) {
    struct plant *plant = plant_new(3);
    for (size_t i = 0; i < PLANT_SLOTS; i++) {
        const struct plant_slot *const slot = &plant->slots[i];
        char(*const texts)[PLANT_TEXT] = calloc(slot->feasigns, sizeof *texts);
        assert_non_null(texts);
        for (uint32_t f = 0; f < slot->feasigns; f++)
            plant_text(slot, f, texts[f]);
        qsort(texts, slot->feasigns, sizeof *texts, by_text);
        for (uint32_t f = 1; f < slot->feasigns; f++)
            assert_true(strcmp(texts[f - 1], texts[f]) != 0);
        free(texts);
    }
    plant_destroy(&plant);
}

static void a_logit_is_bias_weights_and_pairs(void **state) {
    struct plant *plant = plant_new(5);
    struct rng rng = rng_of(5, 2);
    for (int row = 0; row < 100; row++) {
        uint32_t f[PLANT_SLOTS];
        const double logit = plant_draw(plant, &rng, f);
        double sum = plant->bias;
        for (size_t i = 0; i < PLANT_SLOTS; i++) {
            sum += (double)plant->slots[i].weight[f[i]];
            for (size_t j = 0; j < i; j++) {
                for (size_t k = 0; k < PLANT_LATENT; k++)
                    sum += (double)plant->slots[i].factor[(size_t)f[i] * PLANT_LATENT + k] *
                           (double)plant->slots[j].factor[(size_t)f[j] * PLANT_LATENT + k];
            }
        }
        assert_true(fabs(sum - logit) < 1e-9);
    }
    plant_destroy(&plant);
}

static void the_best_reachable_auc_leaves_room_to_tell_models_apart(void **state) {
    enum { ROWS = 50000 };
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct plant *plant = plant_new(seed);
        struct rng rng = rng_of(seed, 9);
        float *const logits = calloc(ROWS, sizeof *logits), *const labels = calloc(ROWS, 4);
        double clicks = 0;
        for (size_t i = 0; i < ROWS; i++) {
            uint32_t f[PLANT_SLOTS];
            logits[i] = (float)plant_draw(plant, &rng, f);
            labels[i] = rng_unit(&rng) < 1 / (1 + exp(-(double)logits[i]));
            clicks += (double)labels[i];
        }
        const double auc = metrics_auc(logits, labels, ROWS);
        assert_true(auc > 0.90 && auc < 0.96);
        assert_true(fabs(clicks / ROWS - 0.25) < 0.02);
        free(logits);
        free(labels);
        plant_destroy(&plant);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_seed_gives_the_same_log),
        cmocka_unit_test(another_seed_gives_another_log),
        cmocka_unit_test(slots_have_the_rank_their_name_says),
        cmocka_unit_test(noise_slots_have_no_first_order_weight_either),
        cmocka_unit_test(the_widest_slots_are_of_every_rank),
        cmocka_unit_test(feasigns_are_zipf_distributed),
        cmocka_unit_test(texts_of_a_slot_are_distinct),
        cmocka_unit_test(a_logit_is_bias_weights_and_pairs),
        cmocka_unit_test(the_best_reachable_auc_leaves_room_to_tell_models_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

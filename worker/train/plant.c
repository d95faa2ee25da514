#include "worker/train/plant.h"
#include "worker/train/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Popularity of the k-th feasign is k^-ZIPF. */
#define ZIPF 1.5

/* Feasigns rarer than this share of impressions mean little: what a feasign stands for is scaled by
 * sqrt(p / (p + RARE)). Nothing could be learnt of them, and the best reachable AUC would be out of
 * any model's reach. */
#define RARE 1e-3

/* What the log odds are made of: standard deviations of the two parts and the share of clicks. With
 * them the best reachable AUC is about 0.93. */
#define SPREAD_FIRST 0.6
#define SPREAD_PAIRS 3.0
#define CLICKS       0.25

enum { CALIBRATION = 20000 }; /* impressions the spreads are measured on */

/* Purposes of the seed. */
enum { SEED_ORDER = 1, SEED_CALIBRATION, SEED_SLOT = 100 };

/* How often a feasign of a slot is seen tells nothing of the slot's rank: the widest is one that
 * earns its width. */
static const struct {
    unsigned rank;
    char letter;
    uint32_t feasigns;
} kinds[PLANT_SLOTS] = {
    {8, 'a', 200000}, {2, 'a', 50000}, {0, 'a', 50000}, {8, 'b', 20000}, {2, 'b', 10000},
    {0, 'b', 20000},  {8, 'c', 1000},  {2, 'c', 2000},  {0, 'c', 3000},  {8, 'd', 400},
    {2, 'd', 200},    {0, 'd', 300},   {8, 'e', 100},   {2, 'e', 60},    {0, 'e', 50},
    {8, 'f', 24},     {2, 'f', 8},     {0, 'f', 12},    {2, 'g', 2},     {0, 'g', 4},
};

static void make_popularity(struct plant_slot *slot) {
    double sum = 0;
    for (uint32_t k = 0; k < slot->feasigns; k++)
        slot->chance[k] = sum += pow(k + 1.0, -ZIPF);
    for (uint32_t k = 0; k < slot->feasigns; k++)
        slot->chance[k] /= sum;
}

/* rank random orthonormal directions (Gram and Schmidt). */
static void make_subspace(struct rng *rng, unsigned rank, double basis[][PLANT_LATENT]) {
    for (unsigned i = 0; i < rank; i++) {
        double norm = 0;
        for (int k = 0; k < PLANT_LATENT; k++)
            basis[i][k] = rng_normal(rng);
        for (unsigned j = 0; j < i; j++) {
            double dot = 0;
            for (int k = 0; k < PLANT_LATENT; k++)
                dot += basis[i][k] * basis[j][k];
            for (int k = 0; k < PLANT_LATENT; k++)
                basis[i][k] -= dot * basis[j][k];
        }
        for (int k = 0; k < PLANT_LATENT; k++)
            norm += basis[i][k] * basis[i][k];
        for (int k = 0; k < PLANT_LATENT; k++)
            basis[i][k] /= sqrt(norm);
    }
}

/* Latent vectors of mean square length 1 whatever the rank, and first-order weights of variance 1.
 */
static void make_factors(struct plant_slot *slot, struct rng *rng) {
    double basis[PLANT_LATENT][PLANT_LATENT];
    make_subspace(rng, slot->rank, basis);
    for (uint32_t f = 0; f < slot->feasigns && slot->rank > 0; f++) {
        const double p = slot->chance[f] - (f > 0 ? slot->chance[f - 1] : 0);
        const double scale = sqrt(p / (p + RARE));
        for (unsigned i = 0; i < slot->rank; i++) {
            const double z = scale * rng_normal(rng) / sqrt(slot->rank);
            for (int k = 0; k < PLANT_LATENT; k++)
                slot->factor[(size_t)f * PLANT_LATENT + (size_t)k] += (float)(z * basis[i][k]);
        }
        slot->weight[f] = (float)(scale * rng_normal(rng));
    }
}

static void make_slot(struct plant *plant, size_t column, size_t kind) {
    struct plant_slot *const slot = &plant->slots[column];
    struct rng rng = rng_of(plant->seed, SEED_SLOT + kind);
    snprintf(slot->name, sizeof slot->name, "r%u_%c", kinds[kind].rank, kinds[kind].letter);
    slot->rank = kinds[kind].rank;
    slot->feasigns = kinds[kind].feasigns;
    slot->chance = mem_alloc(slot->feasigns, sizeof *slot->chance);
    slot->factor = mem_alloc((size_t)slot->feasigns * PLANT_LATENT, sizeof *slot->factor);
    slot->weight = mem_alloc(slot->feasigns, sizeof *slot->weight);
    slot->mask = (uint32_t)rng_next(&rng);
    make_popularity(slot);
    make_factors(slot, &rng);
}

static double first_order(const struct plant *plant, const uint32_t *feasigns) {
    double sum = 0;
    for (size_t s = 0; s < PLANT_SLOTS; s++)
        sum += (double)plant->slots[s].weight[feasigns[s]];
    return sum;
}

static double pairs(const struct plant *plant, const uint32_t *feasigns) {
    double sum = 0;
    for (size_t k = 0; k < PLANT_LATENT; k++) {
        double total = 0, squares = 0;
        for (size_t s = 0; s < PLANT_SLOTS; s++) {
            const double u = (double)plant->slots[s].factor[(size_t)feasigns[s] * PLANT_LATENT + k];
            total += u;
            squares += u * u;
        }
        sum += (total * total - squares) / 2;
    }
    return sum;
}

static double spread(const double *values, size_t n) {
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        sum += values[i];
        squares += values[i] * values[i];
    }
    return sqrt(squares / (double)n - sum / (double)n * (sum / (double)n));
}

static void draw(const struct plant *plant, struct rng *rng, uint32_t *feasigns) {
    for (size_t s = 0; s < PLANT_SLOTS; s++) {
        const struct plant_slot *const slot = &plant->slots[s];
        const double at = rng_unit(rng);
        uint32_t lo = 0, hi = slot->feasigns - 1;
        while (lo < hi) {
            const uint32_t mid = lo + (hi - lo) / 2;
            if (slot->chance[mid] <= at)
                lo = mid + 1;
            else
                hi = mid;
        }
        feasigns[s] = lo;
    }
}

/* The bias at which so many of the samples are clicks. */
static double find_bias(const double *logits, size_t n, double clicks) {
    double lo = -50, hi = 50;
    for (int i = 0; i < 60; i++) {
        const double bias = (lo + hi) / 2;
        double sum = 0;
        for (size_t k = 0; k < n; k++)
            sum += 1 / (1 + exp(-(logits[k] + bias)));
        if (sum > clicks * (double)n)
            hi = bias;
        else
            lo = bias;
    }
    return (lo + hi) / 2;
}

/* Scale weights and vectors to the spreads wanted, then set the bias. */
static void calibrate(struct plant *plant) {
    uint32_t(*const draws)[PLANT_SLOTS] = mem_alloc(CALIBRATION, sizeof *draws);
    double *const first = mem_alloc(CALIBRATION, sizeof *first);
    double *const second = mem_alloc(CALIBRATION, sizeof *second);
    struct rng rng = rng_of(plant->seed, SEED_CALIBRATION);
    for (size_t i = 0; i < CALIBRATION; i++) {
        draw(plant, &rng, draws[i]);
        first[i] = first_order(plant, draws[i]);
        second[i] = pairs(plant, draws[i]);
    }
    const double weight = SPREAD_FIRST / spread(first, CALIBRATION);
    const double factor = sqrt(SPREAD_PAIRS / spread(second, CALIBRATION));
    for (size_t s = 0; s < PLANT_SLOTS; s++) {
        struct plant_slot *const slot = &plant->slots[s];
        for (size_t f = 0; f < slot->feasigns; f++)
            slot->weight[f] *= (float)weight;
        for (size_t f = 0; f < (size_t)slot->feasigns * PLANT_LATENT; f++)
            slot->factor[f] *= (float)factor;
    }
    for (size_t i = 0; i < CALIBRATION; i++)
        first[i] = plant_logit(plant, draws[i]);
    plant->bias = find_bias(first, CALIBRATION, CLICKS);
    free(draws);
    free(first);
    free(second);
}

struct plant *plant_new(uint64_t seed) {
    struct plant *const plant = mem_alloc(1, sizeof *plant);
    struct rng rng = rng_of(seed, SEED_ORDER);
    uint32_t order[PLANT_SLOTS];
    plant->seed = seed;
    for (uint32_t i = 0; i < PLANT_SLOTS; i++)
        order[i] = i;
    rng_shuffle(&rng, order, PLANT_SLOTS);
    for (size_t i = 0; i < PLANT_SLOTS; i++)
        make_slot(plant, i, order[i]);
    calibrate(plant);
    return plant;
}

void plant_destroy(struct plant **plantp) {
    struct plant *const plant = *plantp;
    if (plant == NULL)
        return;
    for (size_t s = 0; s < PLANT_SLOTS; s++) {
        free(plant->slots[s].chance);
        free(plant->slots[s].factor);
        free(plant->slots[s].weight);
    }
    free(plant);
    *plantp = NULL;
}

double plant_logit(const struct plant *plant, const uint32_t feasigns[PLANT_SLOTS]) {
    return plant->bias + first_order(plant, feasigns) + pairs(plant, feasigns);
}

double plant_draw(const struct plant *plant, struct rng *rng, uint32_t feasigns[PLANT_SLOTS]) {
    draw(plant, rng, feasigns);
    return plant_logit(plant, feasigns);
}

void plant_text(const struct plant_slot *slot, uint32_t feasign, char text[PLANT_TEXT]) {
    static const char digits[] = "bcdfghjklmnpqrstvwxz";
    enum { BASE = sizeof digits - 1, LENGTH = 5, RANGE = BASE * BASE * BASE * BASE * BASE };
    /* Odd factor and range coprime to it: a permutation of 0 .. RANGE-1, so texts stay distinct. */
    uint32_t code = (uint32_t)(((uint64_t)feasign * UINT64_C(1181783) + slot->mask % RANGE) %
                               RANGE);
    for (int i = 0; i < LENGTH; i++) {
        text[i] = digits[code % BASE];
        code /= BASE;
    }
    text[LENGTH] = '\0';
}

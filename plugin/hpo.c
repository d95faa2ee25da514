/*
 * hpo: a search over widths by trying them: successive halving (Jamieson and Talwalkar 2016) over
 * plans drawn at random, on samples that grow as plans are given up (design 2.6).
 *
 * candidates=N (default 27) plans, each within the budget: plan 0 spreads it evenly over the slots,
 * the others by weights drawn for each slot and a decay drawn for how much less a slot's next unit
 * is worth. Each round keeps the best third of them; the last one tries what is left on the whole
 * sample. What was asked of a trial names it, so an interrupted search goes on where it was.
 */
#include "plugin/order.h"
#include "plugin/units.h"

#include <math.h>

enum { CANDIDATES = 27, CANDIDATES_MAX = 6561, ETA = 3, SAMPLES_MIN = 256 };

struct entry {
    uint32_t number;
    double loss; /* above the whole model's */
};

struct race {
    const struct dimfit_strategy_host *host;
    const struct dimfit_strategy_input *input;
    const struct order *order;
    struct units *units;
    uint8_t *const *keep;
    struct entry *entries; /* [n] still in it, best first after a round */
    uint32_t n;
};

/* A number in (0, 1) that depends on the seed and what it is for alone. `slot` has its tier above
 * its id. */
static double draw(uint64_t seed, uint64_t candidate, uint64_t slot) {
    uint64_t z = seed * 0x9e3779b97f4a7c15u + candidate * 0xbf58476d1ce4e5b9u +
                 slot * 0x94d049bb133111ebu;
    for (int i = 0; i < 2; i++) {
        z += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        z ^= z >> 31;
    }
    return ((double)(z >> 11) + 0.5) * 0x1p-53;
}

/* Fill keep[] with the plan of this number. */
static int make(const struct race *race, uint32_t number) {
    const struct dimfit_strategy_input *const input = race->input;
    const double spread = number == 0 ? 0 : 4 * draw(input->seed, number, UINT32_MAX);
    const double decay = number == 0 ? 0.5 : 0.3 + 0.65 * draw(input->seed, number, UINT32_MAX - 1);
    for (size_t i = 0; i < input->n_slots; i++) {
        const uint64_t slot = input->slots[i].id | (uint64_t)input->tiers[i].tier << 32;
        const double weight = exp(spread * (draw(input->seed, number, slot) - 0.5));
        for (uint32_t k = 0; k < order_have(&input->slots[i]); k++)
            race->units->priority[i][race->order->unit[i][k]] = weight * pow(decay, k);
    }
    units_refuse_room(race->units, input);
    return units_select(race->units, race->host, race->keep);
}

static int by_loss(const void *a, const void *b) {
    const struct entry *const x = a, *const y = b;
    if (x->loss != y->loss)
        return x->loss < y->loss ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

/* One round on so many samples; a dimfit_plan_answer. */
static int run_round(struct race *race, uint64_t samples) {
    int waits = 0;
    for (uint32_t c = 0; c < race->n; c++) {
        struct dimfit_trial_result result;
        if (make(race, race->entries[c].number) != 0)
            return DIMFIT_PLAN_FAILED;
        const int answer = race->host->trial(race->host->self, race->keep, samples, &result);
        if (answer == DIMFIT_TRIAL_FAILED)
            return DIMFIT_PLAN_FAILED;
        waits |= answer == DIMFIT_TRIAL_ASKED;
        if (answer == DIMFIT_TRIAL_KNOWN)
            race->entries[c].loss = result.loss - result.whole_loss;
    }
    if (waits)
        return DIMFIT_PLAN_WAITS;
    qsort(race->entries, race->n, sizeof *race->entries, by_loss);
    return DIMFIT_PLAN_DONE;
}

/* Samples of the round in which so many are left: the whole sample for the last one. */
static uint64_t samples_of(const struct race *race, uint32_t left) {
    double samples = (double)race->input->trial_samples;
    for (uint32_t n = left; n > ETA; n = (n + ETA - 1) / ETA)
        samples /= ETA;
    const double least = fmin(SAMPLES_MIN, (double)race->input->trial_samples);
    return (uint64_t)fmax(samples, least);
}

static int run(struct race *race) {
    for (;;) {
        const int answer = run_round(race, samples_of(race, race->n));
        if (answer != DIMFIT_PLAN_DONE)
            return answer;
        if (race->n <= ETA)
            return make(race, race->entries[0].number);
        race->n = (race->n + ETA - 1) / ETA;
    }
}

/* Number of candidates, or -1 after fail(). */
static int read_candidates(const struct dimfit_strategy_host *host) {
    char text[16], *end = text;
    const int found = host->option(host->self, "candidates", text, sizeof text);
    if (found == 1)
        return CANDIDATES;
    const long n = found == 0 ? strtol(text, &end, 10) : 0;
    if (end == text || *end != 0 || n < 1 || n > CANDIDATES_MAX)
        return host->fail(host->self, "its option `candidates` is a number within 1..6561");
    return (int)n;
}

static int plan(const struct dimfit_strategy_host *host, const struct dimfit_strategy_input *input,
                uint8_t *const *keep) {
    struct order order;
    struct units units;
    const int n = read_candidates(host);
    if (n < 0)
        return DIMFIT_PLAN_FAILED;
    struct entry *const entries = calloc((size_t)n, sizeof *entries);
    const int whole = order_init(&order, input) & units_init(&units, input) & (entries != NULL);
    int answer = DIMFIT_PLAN_FAILED;
    if (whole) {
        struct race race = {host, input, &order, &units, keep, entries, (uint32_t)n};
        for (int c = 0; c < n; c++)
            entries[c].number = (uint32_t)c;
        answer = run(&race);
    } else {
        host->fail(host->self, "out of memory");
    }
    free(entries);
    units_fini(&units);
    order_fini(&order);
    return answer;
}

static const struct dimfit_strategy strategy = {
    .magic = DIMFIT_STRATEGY_MAGIC,
    .abi_major = DIMFIT_STRATEGY_ABI_MAJOR,
    .abi_minor = DIMFIT_STRATEGY_ABI_MINOR,
    .size = sizeof strategy,
    .name = "hpo",
    .version = "1.0",
    .summary = "widths drawn at random and tried, successive halving (candidates=27)",
    .needs = DIMFIT_NEEDS_NORMS | DIMFIT_NEEDS_TRIALS,
    .plan = plan,
};

const struct dimfit_strategy *dimfit_strategy(void) {
    return &strategy;
}

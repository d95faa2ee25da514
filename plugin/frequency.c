/*
 * frequency: widths by how often a slot is shown, not by what its units earn.
 *
 * rule=rank (default): slots in descending popularity, which is lookups per row; each gets a rung
 * of 0/1/4/8/16/32/64/..., clipped to its width, and a less popular slot never a higher rung than a
 * more popular one. The rungs lie in bands of equal numbers of slots; the bands slide along the
 * ranking to the last place that the budget pays for, and what is left lifts single slots by a
 * rung, most popular first.
 *
 * rule=power: width_i proportional to rows_i^-0.3, the factor found by bisection, rounded down.
 *
 * Both keep a slot's first units, which are the leading directions in a fitted basis.
 */
#include "plugin/units.h"

#include <string.h>

static const uint32_t rungs[] = {0, 1, 4, 8, 16, 32, 64, 128, 256, 512};

enum { RUNGS = sizeof rungs / sizeof *rungs };

struct choice {
    const struct dimfit_strategy_input *input;
    uint32_t *widths; /* [n_slots] */
    uint32_t *order;  /* [n_slots] slots, most popular first */
    uint32_t *rung;   /* [n_slots] */
};

static uint32_t clip(const struct choice *choice, size_t i, double width) {
    const struct dimfit_strategy_slot *const slot = &choice->input->slots[i];
    const double floor_width = units_floor(choice->input, i);
    const double wanted = width > floor_width ? width : floor_width;
    return wanted < slot->width ? (uint32_t)wanted : slot->width;
}

static double cost_of(const struct choice *choice) {
    double cost = 0;
    for (size_t i = 0; i < choice->input->n_slots; i++)
        cost += choice->widths[i] * choice->input->slots[i].unit_cost;
    return cost;
}

/* Set widths for a position of the parameter that both rules are solved for, growing with it. */
typedef void widths_fn(struct choice *choice, double position);

/* The largest position in [0, high] that the budget pays for; the floors at 0 always are. */
static void solve(struct choice *choice, widths_fn *widths, double high) {
    double low = 0;
    widths(choice, high);
    if (cost_of(choice) <= choice->input->budget)
        return;
    for (int i = 0; i < 100; i++) {
        const double middle = low + (high - low) / 2;
        widths(choice, middle);
        if (cost_of(choice) <= choice->input->budget)
            low = middle;
        else
            high = middle;
    }
    widths(choice, low);
}

/* ---- rule=rank ------------------------------------------------------------------------------- */

static double popularity(const struct dimfit_strategy_slot *slot) {
    return slot->rows > 0 ? slot->lookups / (double)slot->rows : 0;
}

/* Equally popular slots come in the order of their lookups, then of their ids. */
static int compare(const void *a, const void *b, void *arg) {
    const struct dimfit_strategy_slot *const slots = arg;
    const uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    const double x = popularity(&slots[i]), y = popularity(&slots[j]);
    if (x != y)
        return x > y ? -1 : 1;
    if (slots[i].lookups != slots[j].lookups)
        return slots[i].lookups > slots[j].lookups ? -1 : 1;
    return i < j ? -1 : i > j;
}

static uint32_t top_rung(const struct dimfit_strategy_input *input) {
    uint32_t widest = 0, top = 0;
    for (size_t i = 0; i < input->n_slots; i++)
        widest = input->slots[i].width > widest ? input->slots[i].width : widest;
    while (top + 1 < RUNGS && rungs[top] < widest)
        top++;
    return top;
}

/* At position p the slot of rank j stands on rung p - top * j / n: at `top` the ranking spreads
 * over the whole ladder, at 2 * top every slot stands at its end. */
static void rank_widths(struct choice *choice, double position) {
    const struct dimfit_strategy_input *const input = choice->input;
    const double top = top_rung(input);
    for (size_t j = 0; j < input->n_slots; j++) {
        const uint32_t i = choice->order[j];
        const double height = floor(position - top * (double)j / (double)input->n_slots);
        choice->rung[i] = (uint32_t)fmin(fmax(height, 0), top);
        choice->widths[i] = clip(choice, i, rungs[choice->rung[i]]);
    }
}

/* Passes over the ranking until no lift fits; each lifts a slot by a rung at most. */
static void lift(struct choice *choice) {
    const struct dimfit_strategy_input *const input = choice->input;
    const uint32_t top = top_rung(input);
    double left = input->budget - cost_of(choice);
    for (int lifted = 1; lifted;) {
        lifted = 0;
        for (size_t j = 0; j < input->n_slots; j++) {
            const uint32_t i = choice->order[j];
            uint32_t rung = choice->rung[i], width = choice->widths[i];
            while (rung < top && width == choice->widths[i])
                width = clip(choice, i, rungs[++rung]);
            const double cost = (width - choice->widths[i]) * input->slots[i].unit_cost;
            if (width == choice->widths[i] || cost > left)
                continue;
            left -= cost;
            choice->rung[i] = rung;
            choice->widths[i] = width;
            lifted = 1;
        }
    }
}

static void by_rank(struct choice *choice) {
    const struct dimfit_strategy_input *const input = choice->input;
    for (size_t i = 0; i < input->n_slots; i++)
        choice->order[i] = (uint32_t)i;
    qsort_r(choice->order, input->n_slots, sizeof *choice->order, compare, (void *)input->slots);
    solve(choice, rank_widths, 2.0 * top_rung(input));
    lift(choice);
}

/* ---- rule=power ------------------------------------------------------------------------------ */

static void power_widths(struct choice *choice, double position) {
    for (size_t i = 0; i < choice->input->n_slots; i++) {
        const uint64_t rows = choice->input->slots[i].rows;
        const double n = rows > 0 ? (double)rows : 1;
        choice->widths[i] = clip(choice, i, floor(position * pow(n, -0.3)));
    }
}

static void by_power(struct choice *choice) {
    double high = 0;
    for (size_t i = 0; i < choice->input->n_slots; i++) {
        const struct dimfit_strategy_slot *const slot = &choice->input->slots[i];
        const double n = slot->rows > 0 ? (double)slot->rows : 1;
        high = fmax(high, (slot->width + 1.0) * pow(n, 0.3));
    }
    solve(choice, power_widths, high);
}

/* ---- plan ------------------------------------------------------------------------------------ */

/* 0 rank, 1 power, -1 failed. */
static int read_rule(const struct dimfit_strategy_host *host) {
    char rule[16];
    const int found = host->option(host->self, "rule", rule, sizeof rule);
    if (found == 1 || (found == 0 && strcmp(rule, "rank") == 0))
        return 0;
    if (found == 0 && strcmp(rule, "power") == 0)
        return 1;
    return host->fail(host->self, "its option `rule` is `rank` or `power`");
}

static int plan(const struct dimfit_strategy_host *host, const struct dimfit_strategy_input *input,
                uint8_t *const *keep) {
    const int rule = read_rule(host);
    if (rule < 0)
        return -1;
    uint32_t *const numbers = calloc(3 * input->n_slots + 1, sizeof *numbers);
    if (numbers == NULL)
        return host->fail(host->self, "out of memory");
    struct choice choice = {
        .input = input,
        .widths = numbers,
        .order = numbers + input->n_slots,
        .rung = numbers + 2 * input->n_slots,
    };
    if (rule == 1)
        by_power(&choice);
    else
        by_rank(&choice);
    for (size_t i = 0; i < input->n_slots; i++)
        memset(keep[i], 1, choice.widths[i]);
    free(numbers);
    return 0;
}

static const struct dimfit_strategy strategy = {
    .magic = DIMFIT_STRATEGY_MAGIC,
    .abi_major = DIMFIT_STRATEGY_ABI_MAJOR,
    .abi_minor = DIMFIT_STRATEGY_ABI_MINOR,
    .size = sizeof strategy,
    .name = "frequency",
    .version = "1.0",
    .summary = "widths by show counts (rule=rank) or rows^-0.3 (rule=power)",
    .needs = DIMFIT_NEEDS_LOOKUPS,
    .plan = plan,
};

const struct dimfit_strategy *dimfit_strategy(void) {
    return &strategy;
}

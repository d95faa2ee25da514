/* dimfit-datagen: write a click log whose slots have known ranks (plant.h), and the truth beside
 * it. */
#include "worker/train/mem.h"
#include "worker/train/metrics.h"
#include "worker/train/plant.h"
#include "worker/train/sample.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <zlib.h>

static const char doc[] =
    "Write a click log (csv with a header line, column `label`) with planted structure: slots of "
    "rank 8, 2 and "
    "0, Zipf-distributed feasigns, wide slots of each rank. The same seed gives the same file."
    "\v"
    "The best AUC anyone can reach on the file is printed; --truth writes it and each slot's rank "
    "as "
    "JSON.";

enum { KEY_OUT = 256, KEY_ROWS, KEY_SEED, KEY_TRUTH };

/* Purposes of the seed, apart from the plant's. */
enum { SEED_ROWS = 1000 };

static const struct argp_option table[] = {
    {"out", KEY_OUT, "FILE", 0, "Where to write; a name in .gz is compressed", 0},
    {"rows", KEY_ROWS, "N", 0, "Impressions (400000)", 0},
    {"seed", KEY_SEED, "S", 0, "Seed (1)", 0},
    {"truth", KEY_TRUTH, "FILE", 0, "Write ranks and the best AUC as JSON", 0},
    {0},
};

struct settings {
    const char *out, *truth;
    uint64_t rows, seed;
};

static error_t parse_one(int key, char *arg, struct argp_state *state) {
    enum { ROWS_MAX = 1 << 30 };
    struct settings *const s = state->input;
    switch (key) {
    case KEY_OUT:
        s->out = arg;
        return 0;
    case KEY_TRUTH:
        s->truth = arg;
        return 0;
    case KEY_ROWS:
        if (!sample_parse_u64(arg, &s->rows) || s->rows == 0 || s->rows > ROWS_MAX)
            argp_error(state, "--rows %s: not a whole number of 1 to %d", arg, ROWS_MAX);
        return 0;
    case KEY_SEED:
        if (!sample_parse_u64(arg, &s->seed))
            argp_error(state, "--seed %s: not a whole number", arg);
        return 0;
    case ARGP_KEY_END:
        if (s->out == NULL)
            argp_error(state, "--out FILE is needed");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* Write the rows; logits and labels [rows] are what they were drawn from. */
static bool write_rows(gzFile file, const struct plant *plant, const struct settings *s,
                       float *logits, float *labels) {
    struct rng rng = rng_of(s->seed, SEED_ROWS);
    bool good = gzputs(file, "label") >= 0;
    for (size_t i = 0; i < PLANT_SLOTS; i++)
        good = good && gzprintf(file, ",%s", plant->slots[i].name) > 0;
    good = good && gzputc(file, '\n') >= 0;
    for (uint64_t row = 0; good && row < s->rows; row++) {
        uint32_t feasigns[PLANT_SLOTS];
        char line[2 + PLANT_SLOTS * PLANT_TEXT];
        const double logit = plant_draw(plant, &rng, feasigns);
        const bool click = rng_unit(&rng) < 1 / (1 + exp(-logit));
        logits[row] = (float)logit;
        labels[row] = click;
        size_t at = 0;
        line[at++] = click ? '1' : '0';
        for (size_t i = 0; i < PLANT_SLOTS; i++) {
            line[at++] = ',';
            plant_text(&plant->slots[i], feasigns[i], line + at);
            at += strlen(line + at);
        }
        line[at++] = '\n';
        good = gzwrite(file, line, (unsigned)at) == (int)at;
    }
    return good;
}

static bool write_data(const struct plant *plant, const struct settings *s, float *logits,
                       float *labels) {
    const char *const dot = strrchr(s->out, '.');
    const gzFile file = gzopen(s->out, dot != NULL && strcmp(dot, ".gz") == 0 ? "wb6" : "wbT");
    errno = 0;
    bool good = file != NULL && write_rows(file, plant, s, logits, labels);
    if (file != NULL && gzclose(file) != Z_OK)
        good = false;
    if (!good)
        fprintf(stderr, "dimfit-datagen: %s: cannot be written: %s\n", s->out,
                errno != 0 ? strerror(errno) : "check path and permissions");
    return good;
}

static bool write_truth(const struct plant *plant, const struct settings *s, double auc,
                        double logloss) {
    json_t *const slots = json_array();
    for (size_t i = 0; i < PLANT_SLOTS; i++) {
        const struct plant_slot *const slot = &plant->slots[i];
        json_array_append_new(slots,
                              json_pack("{s:s, s:i, s:I}", "name", slot->name, "rank",
                                        (int)slot->rank, "feasigns", (json_int_t)slot->feasigns));
    }
    json_t *const json = json_pack("{s:I, s:I, s:f, s:f, s:i, s:o}", "seed", (json_int_t)s->seed,
                                   "rows", (json_int_t)s->rows, "bayes_auc", auc, "bayes_logloss",
                                   logloss, "latent_dim", PLANT_LATENT, "slots", slots);
    const bool good = json_dump_file(json, s->truth, JSON_INDENT(2)) == 0;
    json_decref(json);
    if (!good)
        fprintf(stderr, "dimfit-datagen: %s: cannot be written: %s\n", s->truth, strerror(errno));
    return good;
}

int main(int argc, char **argv) {
    static const struct argp argp = {table, parse_one, "--out FILE", doc, NULL, NULL, NULL};
    struct settings s = {.rows = 400000, .seed = 1};
    argp_err_exit_status = 2;
    argp_parse(&argp, argc, argv, 0, NULL, &s);
    struct plant *plant = plant_new(s.seed);
    float *const logits = mem_alloc(s.rows, sizeof *logits);
    float *const labels = mem_alloc(s.rows, sizeof *labels);
    bool good = write_data(plant, &s, logits, labels);
    if (good) {
        const double auc = metrics_auc(logits, labels, s.rows);
        const double logloss = metrics_logloss(logits, labels, s.rows);
        printf("%s: %" PRIu64 " rows, %d slots, best reachable auc %.4f logloss %.4f\n", s.out,
               s.rows, PLANT_SLOTS, auc, logloss);
        good = s.truth == NULL || write_truth(plant, &s, auc, logloss);
    }
    free(logits);
    free(labels);
    plant_destroy(&plant);
    return good ? 0 : 1;
}

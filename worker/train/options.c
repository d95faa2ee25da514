#include "worker/train/options.h"
#include "worker/train/mem.h"

#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define TEXT(x)    TEXT_OF(x)
#define TEXT_OF(x) #x
#define VERSION_TEXT                                                                               \
    TEXT(DIMFIT_VERSION_MAJOR) "." TEXT(DIMFIT_VERSION_MINOR) "." TEXT(DIMFIT_VERSION_PATCH)

/* libc looks this name up: it must be visible. */
__attribute__((visibility("default")))
const char *argp_program_version = "dimfit-train " VERSION_TEXT;

static const char doc[] =
    "Train a click model (factorization machine, Wide & Deep or DeepFM) on a dimfit cluster and, "
    "with --search-kappa, let the cluster fit its embedding widths to what they earn."
    "\v"
    "Input may be plain, gzip or LZ4. Lines are numbered through all --data files, and a seeded "
    "hash of the "
    "number says whether a line is for training, validation or test.\n\n"
    "Training stops once the log loss of the validation part has not improved for --patience "
    "validations, or is half a percent worse than its best while the AUC is worse too. Rows live "
    "on the cluster, so the model kept is the last one, not the best one: validating several times "
    "an epoch keeps the two close.\n\n"
    "Exit status: 0 done, 1 failed, 2 usage, 3 the cluster could not be reached.";

enum key {
    KEY_COORDINATOR = 256,
    KEY_TIMEOUT,
    KEY_DATA,
    KEY_FORMAT,
    KEY_LABEL,
    KEY_NUMERIC,
    KEY_CATEGORICAL,
    KEY_BUCKETS,
    KEY_VALID,
    KEY_TEST,
    KEY_SPLIT,
    KEY_SPLIT_SEED,
    KEY_SKIP_BAD,
    KEY_MODEL,
    KEY_DIM,
    KEY_HIDDEN,
    KEY_VIEW,
    KEY_EPOCHS,
    KEY_BATCH,
    KEY_LR,
    KEY_TIERS,
    KEY_DENSE_LR,
    KEY_STALE,
    KEY_SEED,
    KEY_PATIENCE,
    KEY_EVALUATIONS,
    KEY_WORKERS,
    KEY_KAPPA,
    KEY_SEARCH_EVERY,
    KEY_GROW,
    KEY_GROW_INIT,
    KEY_STRATEGY,
    KEY_ESTIMATOR,
    KEY_BASIS,
    KEY_COUNT,
    KEY_RANK,
    KEY_MIN_DIM,
    KEY_STRATEGY_OPTIONS,
    KEY_SAMPLES,
    KEY_TRIAL_SAMPLES,
    KEY_STAY,
    KEY_SCORE_BATCH,
    KEY_RETRAIN,
    KEY_RETRAIN_EPOCHS,
    KEY_REPORT,
    KEY_QUIET,
};

static const struct argp_option table[] = {
    {NULL, 0, NULL, 0, "Cluster", 1},
    {"coordinator", KEY_COORDINATOR, "EP", 0,
     "The cluster (default $DIMFIT_COORDINATOR, else tcp://127.0.0.1:7700)", 1},
    {"timeout", KEY_TIMEOUT, "SECONDS", 0, "Limit of one call to the cluster (30)", 1},
    {"workers", KEY_WORKERS, "N", 0, "Train with N processes (1)", 1},

    {NULL, 0, NULL, 0, "Data", 2},
    {"data", KEY_DATA, "FILE", 0, "Data file; may be repeated, further arguments are files too", 2},
    {"format", KEY_FORMAT, "FORMAT", 0, "csv, criteo, libffm or slots (csv)", 2},
    {"label", KEY_LABEL, "COL", 0, "csv: the label's column (label)", 2},
    {"numeric", KEY_NUMERIC, "COL", 0, "csv: bucket this column by quantiles; may be repeated", 2},
    {"categorical", KEY_CATEGORICAL, "COL", 0, "csv: take this column's values as they are", 2},
    {"buckets", KEY_BUCKETS, "N", 0, "csv: quantile buckets of a numeric column (32)", 2},
    {"valid", KEY_VALID, "FILE", 0, "Validation data, instead of a share of --data", 2},
    {"test", KEY_TEST, "FILE", 0, "Test data, instead of a share of --data", 2},
    {"split", KEY_SPLIT, "A,B,C", 0, "Shares of training, validation and test (80,10,10)", 2},
    {"split-seed", KEY_SPLIT_SEED, "S", 0, "Seed of the split (1)", 2},
    {"skip-bad", KEY_SKIP_BAD, NULL, 0, "Skip and count malformed lines", 2},

    {NULL, 0, NULL, 0, "Model and training", 3},
    {"model", KEY_MODEL, "MODEL", 0, "fm, wdl or deepfm (fm)", 3},
    {"dim", KEY_DIM, "D", 0, "Width of the embeddings before any search (16)", 3},
    {"hidden", KEY_HIDDEN, "N,N...", 0, "Hidden layers of wdl and deepfm (128,64)", 3},
    {"view", KEY_VIEW, "VIEW", 0,
     "full: rows at model width whatever is stored; compact: rows as stored, with a trained "
     "transform a slot (full)",
     3},
    {"epochs", KEY_EPOCHS, "N", 0, "Passes over the training part at most (10)", 3},
    {"patience", KEY_PATIENCE, "P", 0,
     "Stop after P validations without a gain, or once overfitting is plain; 0: never (4)", 3},
    {"evaluations", KEY_EVALUATIONS, "N", 0, "Validations an epoch (8)", 3},
    {"batch", KEY_BATCH, "B", 0, "Samples a training step (1024)", 3},
    {"lr", KEY_LR, "X", 0, "Learning rate of embeddings declared here (the cluster's default)", 3},
    {"tiers", KEY_TIERS, "N,N...", 0,
     "Declare slots with popularity tiers that begin at these show counts, sorted into after every "
     "epoch and before a search (none)",
     3},
    {"dense-lr", KEY_DENSE_LR, "X", 0, "Learning rate of dense layers, Adam (0.001)", 3},
    {"stale", KEY_STALE, NULL, 0,
     "Pull the next batch before this one's step: faster on a slow network, rows lack one step", 3},
    {"seed", KEY_SEED, "S", 0, "Seed of shuffling and dense weights (1)", 3},

    {NULL, 0, NULL, 0, "Search", 4},
    {"search-kappa", KEY_KAPPA, "K", 0, "After training, keep this share of the parameters", 4},
    {"search-every", KEY_SEARCH_EVERY, "N", 0,
     "Search during training instead, every N epochs (such as 0.5): the first keeps the share K, "
     "those after it the memory there is, until the layout settles",
     4},
    {"grow", KEY_GROW, NULL, 0, "Slots may get new units where those they have earn enough", 4},
    {"grow-init", KEY_GROW_INIT, "I", 0, "What rows have in new units: drawn, zero or linear", 4},
    {"strategy", KEY_STRATEGY, "S", 0,
     "Strategy plugin (auto; sseds where estimator or rank is chosen, or slots may grow)", 4},
    {"estimator", KEY_ESTIMATOR, "E", 0, "single, step, fisher, row, curvature, taylor or guarded",
     4},
    {"basis", KEY_BASIS, "B", 0, "axis, rotated or kfac", 4},
    {"count", KEY_COUNT, "C", 0, "Budget in params or dims", 4},
    {"rank", KEY_RANK, "R", 0, "Order units by score or density", 4},
    {"min-dim", KEY_MIN_DIM, "N", 0, "Least width of a slot", 4},
    {"strategy-options", KEY_STRATEGY_OPTIONS, "K=V,...", 0, "Passed to the strategy", 4},
    {"samples", KEY_SAMPLES, "N", 0, "Score on this many samples (half of the validation part)", 4},
    {"trial-samples", KEY_TRIAL_SAMPLES, "N", 0, "Try plans on this many validation samples (8192)",
     4},
    {"stay", KEY_STAY, NULL, 0,
     "After all that, answer searches (score, evaluate trials) until the cluster stops", 4},
    {"score-batch", KEY_SCORE_BATCH, "B", 0,
     "Samples a scoring step (512, fewer where that would be less than 32 steps)", 4},
    {"retrain", KEY_RETRAIN, NULL, 0, "Train again in the new layout", 4},
    {"retrain-epochs", KEY_RETRAIN_EPOCHS, "N", 0, "Passes of that at most (--epochs)", 4},

    {NULL, 0, NULL, 0, "Output", 5},
    {"report", KEY_REPORT, "FILE", 0, "Write the figures as JSON", 5},
    {"quiet", KEY_QUIET, NULL, 0, "Print errors only", 5},
    {0},
};

/* ---- values ---------------------------------------------------------------------------------- */

static uint64_t whole(struct argp_state *state, const char *option, const char *text, uint64_t min,
                      uint64_t max) {
    uint64_t v = 0;
    if (!sample_parse_u64(text, &v) || v < min || v > max)
        argp_error(state, "--%s %s: not a whole number of %llu to %llu", option, text,
                   (unsigned long long)min, (unsigned long long)max);
    return v;
}

static double positive(struct argp_state *state, const char *option, const char *text) {
    double v = 0;
    if (!sample_parse_number(text, &v) || v <= 0)
        argp_error(state, "--%s %s: not a positive number", option, text);
    return v;
}

static size_t word(struct argp_state *state, const char *option, const char *text,
                   const char *const *words, size_t n) {
    char list[128] = "";
    for (size_t i = 0; i < n; i++) {
        if (strcmp(text, words[i]) == 0)
            return i;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i > 0 ? ", " : "",
                 words[i]);
    }
    argp_error(state, "--%s %s: not one of %s", option, text, list);
    return 0;
}

/* "a,b,c" as at most cap numbers; the number of them, 0 when the text is not such a list. */
static size_t numbers(const char *text, double *out, size_t cap) {
    size_t n = 0;
    for (const char *p = text; p != NULL; n++) {
        char one[32];
        const char *const comma = strchr(p, ',');
        const size_t len = comma != NULL ? (size_t)(comma - p) : strlen(p);
        if (n == cap || len >= sizeof one)
            return 0;
        memcpy(one, p, len);
        one[len] = '\0';
        if (!sample_parse_number(one, &out[n]) || out[n] < 0)
            return 0;
        p = comma != NULL ? comma + 1 : NULL;
    }
    return n;
}

static void append(const char *const **list, size_t *n, const char *text) {
    const char **const items = mem_resize((void *)*list, *n + 1, sizeof *items);
    items[(*n)++] = text;
    *list = items;
}

static void parse_split(struct argp_state *state, const char *text, double *split) {
    double v[DATASET_PARTS];
    if (numbers(text, v, DATASET_PARTS) != DATASET_PARTS || v[DATASET_TRAIN] == 0)
        argp_error(state, "--split %s: not three shares such as 80,10,10", text);
    else
        memcpy(split, v, sizeof v);
}

static void parse_hidden(struct argp_state *state, const char *text, struct model_shape *shape) {
    enum { WIDTH_MAX = 65536 };
    double v[MLP_HIDDEN_MAX];
    const size_t n = numbers(text, v, MLP_HIDDEN_MAX);
    bool good = n > 0;
    for (size_t i = 0; i < n; i++) {
        good &= v[i] >= 1 && v[i] <= WIDTH_MAX && v[i] == floor(v[i]);
        shape->hidden[i] = good ? (size_t)v[i] : 1;
    }
    shape->n_hidden = n;
    if (!good)
        argp_error(state, "--hidden %s: not 1 to %d layer widths such as 128,64", text,
                   MLP_HIDDEN_MAX);
}

static void parse_tiers(struct argp_state *state, const char *text, struct learner_spec *l) {
    double v[LAYOUT_TIERS_MAX - 1];
    const size_t n = numbers(text, v, ARRAY_LEN(v));
    bool good = n > 0;
    for (size_t i = 0; i < n; i++) {
        good &= v[i] >= 1 && v[i] <= LAYOUT_TIER_SHOWS_MAX && v[i] == floor(v[i]) &&
                (i == 0 || v[i] > v[i - 1]);
        l->tiers[i] = good ? (uint32_t)v[i] : 0;
    }
    l->n_tiers = n;
    if (!good)
        argp_error(state, "--tiers %s: not 1 to %d ascending show counts such as 10,100", text,
                   LAYOUT_TIERS_MAX - 1);
}

/* ---- options, by group ----------------------------------------------------------------------- */

static error_t parse_data(int key, char *arg, struct argp_state *state, struct dataset_spec *d) {
    static const char *const names[] = {"csv", "criteo", "libffm", "slots"};
    switch (key) {
    case ARGP_KEY_ARG:
    case KEY_DATA:
        append(&d->data, &d->n_data, arg);
        return 0;
    case KEY_FORMAT:
        d->format = (enum dataset_format)word(state, "format", arg, names, ARRAY_LEN(names));
        return 0;
    case KEY_LABEL:
        d->csv.label = arg;
        return 0;
    case KEY_NUMERIC:
        append(&d->csv.numeric, &d->csv.n_numeric, arg);
        return 0;
    case KEY_CATEGORICAL:
        append(&d->csv.categorical, &d->csv.n_categorical, arg);
        return 0;
    case KEY_BUCKETS:
        d->buckets = whole(state, "buckets", arg, 2, 1 << 20);
        return 0;
    case KEY_VALID:
        d->valid = arg;
        return 0;
    case KEY_TEST:
        d->test = arg;
        return 0;
    case KEY_SPLIT:
        parse_split(state, arg, d->split);
        return 0;
    case KEY_SPLIT_SEED:
        d->split_seed = whole(state, "split-seed", arg, 0, UINT64_MAX);
        return 0;
    case KEY_SKIP_BAD:
        d->skip_bad = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_model(int key, char *arg, struct argp_state *state, struct learner_spec *l) {
    enum { DIM_MAX = 512, BATCH_MAX = 1 << 20 };
    static const char *const models[] = {"fm", "wdl", "deepfm"}, *const views[] = {"full",
                                                                                   "compact"};
    switch (key) {
    case KEY_COORDINATOR:
        l->endpoint = arg;
        return 0;
    case KEY_TIMEOUT:
        l->timeout = positive(state, "timeout", arg);
        return 0;
    case KEY_WORKERS:
        l->workers = (uint32_t)whole(state, "workers", arg, 1, 1024);
        return 0;
    case KEY_MODEL:
        l->shape.kind = (enum model_kind)word(state, "model", arg, models, ARRAY_LEN(models));
        return 0;
    case KEY_DIM:
        l->shape.dim = whole(state, "dim", arg, 1, DIM_MAX);
        return 0;
    case KEY_HIDDEN:
        parse_hidden(state, arg, &l->shape);
        return 0;
    case KEY_VIEW:
        l->view = (enum dimfit_view)word(state, "view", arg, views, ARRAY_LEN(views));
        return 0;
    case KEY_BATCH:
        l->batch = whole(state, "batch", arg, 1, BATCH_MAX);
        return 0;
    case KEY_SCORE_BATCH:
        l->score_batch = whole(state, "score-batch", arg, 1, BATCH_MAX);
        return 0;
    case KEY_LR:
        l->lr = positive(state, "lr", arg);
        return 0;
    case KEY_TIERS:
        parse_tiers(state, arg, l);
        return 0;
    case KEY_DENSE_LR:
        l->dense_lr = positive(state, "dense-lr", arg);
        return 0;
    case KEY_STALE:
        l->stale = true;
        return 0;
    case KEY_SEED:
        l->seed = whole(state, "seed", arg, 0, UINT64_MAX);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* What the cluster knows better (names of strategies and the like) is left for it to refuse. */
static error_t parse_search(int key, char *arg, struct argp_state *state,
                            struct search_options *s) {
    switch (key) {
    case KEY_KAPPA:
        s->kappa = positive(state, "search-kappa", arg);
        return 0;
    case KEY_GROW:
        s->grow = true;
        return 0;
    case KEY_GROW_INIT:
        s->grow_init = arg;
        return 0;
    case KEY_STRATEGY:
        s->strategy = arg;
        return 0;
    case KEY_ESTIMATOR:
        s->estimator = arg;
        return 0;
    case KEY_BASIS:
        s->basis = arg;
        return 0;
    case KEY_COUNT:
        s->count = arg;
        return 0;
    case KEY_RANK:
        s->rank = arg;
        return 0;
    case KEY_MIN_DIM:
        s->min_dim = (int64_t)whole(state, "min-dim", arg, 0, 65536);
        return 0;
    case KEY_STRATEGY_OPTIONS:
        s->options = arg;
        return 0;
    case KEY_SAMPLES:
        s->samples = whole(state, "samples", arg, 1, INT64_MAX);
        return 0;
    case KEY_TRIAL_SAMPLES:
        s->trial_samples = whole(state, "trial-samples", arg, 1, INT64_MAX);
        return 0;
    case KEY_STAY:
        s->stay = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_course(int key, char *arg, struct argp_state *state, struct train_options *o) {
    enum { EPOCHS_MAX = 1000000 };
    switch (key) {
    case KEY_EPOCHS:
        o->epochs = (unsigned)whole(state, "epochs", arg, 0, EPOCHS_MAX);
        return 0;
    case KEY_SEARCH_EVERY:
        o->search_every = positive(state, "search-every", arg);
        return 0;
    case KEY_RETRAIN_EPOCHS:
        o->retrain_epochs = (unsigned)whole(state, "retrain-epochs", arg, 1, EPOCHS_MAX);
        return 0;
    case KEY_PATIENCE:
        o->patience = (unsigned)whole(state, "patience", arg, 0, EPOCHS_MAX);
        return 0;
    case KEY_EVALUATIONS:
        o->evaluations = (unsigned)whole(state, "evaluations", arg, 1, EPOCHS_MAX);
        return 0;
    case KEY_RETRAIN:
        o->retrain = true;
        return 0;
    case KEY_REPORT:
        o->report = arg;
        return 0;
    case KEY_QUIET:
        o->quiet = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void check(struct argp_state *state, struct train_options *o) {
    const bool no_valid = o->dataset.valid == NULL && o->dataset.split[DATASET_VALID] == 0;
    if (o->dataset.n_data == 0)
        argp_error(state, "--data FILE is needed");
    if (o->search_every > 0 && o->search.kappa == 0)
        argp_error(state, "--search-every needs --search-kappa");
    if (o->search_every > 0 && o->retrain)
        argp_error(state, "--retrain follows a search after training; --search-every searches "
                          "during it");
    if (o->retrain && o->search.kappa == 0)
        argp_error(state, "--retrain needs --search-kappa");
    if (o->search.kappa > 0 && no_valid)
        argp_error(state, "--search-kappa scores on a validation part, and there is none");
    if (o->retrain_epochs == 0)
        o->retrain_epochs = o->epochs;
}

static error_t parse_one(int key, char *arg, struct argp_state *state) {
    struct train_options *const o = state->input;
    if (key == ARGP_KEY_END) {
        struct search_options *const s = &o->search;
        const bool chosen = s->estimator != NULL || s->rank != NULL || s->grow;
        if (s->strategy == NULL)
            s->strategy = chosen ? "sseds" : "auto";
        check(state, o);
        return 0;
    }
    error_t rc = parse_data(key, arg, state, &o->dataset);
    if (rc == ARGP_ERR_UNKNOWN)
        rc = parse_model(key, arg, state, &o->learner);
    if (rc == ARGP_ERR_UNKNOWN)
        rc = parse_search(key, arg, state, &o->search);
    return rc == ARGP_ERR_UNKNOWN ? parse_course(key, arg, state, o) : rc;
}

void options_parse(int argc, char **argv, struct train_options *out) {
    static const struct argp argp = {table, parse_one, "--data FILE...", doc, NULL, NULL, NULL};
    const char *const endpoint = getenv("DIMFIT_COORDINATOR");
    *out = (struct train_options){
        .dataset = {.format = DATASET_CSV, .buckets = 32, .split = {80, 10, 10}, .split_seed = 1},
        .learner = {.endpoint = endpoint != NULL && endpoint[0] != '\0' ? endpoint
                                                                        : "tcp://127.0.0.1:7700",
                    .timeout = 30,
                    .view = DIMFIT_FULL,
                    .shape = {.kind = MODEL_FM, .dim = 16, .n_hidden = 2, .hidden = {128, 64}},
                    .batch = 1024,
                    .dense_lr = 0.001,
                    .seed = 1,
                    .workers = 1},
        .search = {.min_dim = -1},
        .epochs = 10,
        .evaluations = 8,
        .patience = 4,
    };
    argp_err_exit_status = 2;
    argp_parse(&argp, argc, argv, 0, NULL, out);
}

void options_fini(struct train_options *o) {
    free((void *)o->dataset.data);
    free((void *)o->dataset.csv.numeric);
    free((void *)o->dataset.csv.categorical);
}

const char *options_model_name(enum model_kind kind) {
    static const char *const names[] = {"fm", "wdl", "deepfm"};
    return names[kind];
}

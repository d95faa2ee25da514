#include "server/optim.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum {
    WIDTH_MAX = 67,
    STATE_MAX = 2 * WIDTH_MAX + 1,
    STEPS = 20,
    GUARD = 16, /* numbers past the end, which nobody touches */
    KINDS = OPTIMIZER_FTRL + 1,
};

static const struct optimizer settings[KINDS] = {
    {.kind = OPTIMIZER_SGD, .lr = 0.05f},
    {.kind = OPTIMIZER_ADAGRAD, .lr = 0.05f, .eps = 1e-8f},
    {.kind = OPTIMIZER_ROWWISE_ADAGRAD, .lr = 0.05f, .eps = 1e-8f},
    {.kind = OPTIMIZER_ADAM, .lr = 0.05f, .eps = 1e-8f, .beta1 = 0.9f, .beta2 = 0.999f},
    {.kind = OPTIMIZER_FTRL, .lr = 0.05f, .beta = 1, .l1 = 0.125f, .l2 = 0.5f},
};

/* ---- formulas -------------------------------------------------------------------------------- */

/* One row of one width; its gradients stand one byte past a float's place. */
struct fixture {
    float values[WIDTH_MAX], state[STATE_MAX];
    double want[WIDTH_MAX], want_state[STATE_MAX];
    uint8_t wire[WIDTH_MAX * sizeof(float) + 1];
};

static float grad_at(const struct fixture *f, size_t k) {
    return load_f32(f->wire + 1 + k * sizeof(float));
}

static void setup(struct fixture *f, size_t n) {
    *f = (struct fixture){0};
    for (size_t k = 0; k < n; k++)
        f->want[k] = f->values[k] = (float)cos((double)k);
}

static void next_grads(struct fixture *f, size_t n, int step) {
    for (size_t k = 0; k < n; k++) {
        const float g = (float)(sin((double)(k * 7 + (size_t)step * 3)) * (step % 5));
        memcpy(f->wire + 1 + k * sizeof g, &g, sizeof g);
    }
}

/* McMahan et al. 2013, algorithm 1, per coordinate; z begins where the row is its solution. */
static void ftrl_formula(const struct optimizer *o, double g, double *z, double *n, double *w) {
    if (*n == 0)
        *z = -*w * (o->beta / (double)o->lr + o->l2) - (*w > 0 ? o->l1 : *w < 0 ? -o->l1 : 0);
    const double sigma = (sqrt(*n + g * g) - sqrt(*n)) / o->lr;
    *z += g - sigma * *w;
    *n += g * g;
    if (*n == 0)
        return;
    const double rate = (o->beta + sqrt(*n)) / o->lr + o->l2;
    *w = fabs(*z) <= o->l1 ? 0 : -(*z - (*z < 0 ? -o->l1 : o->l1)) / rate;
}

/* The formulas of the header, element by element in float64. */
static void formula(struct fixture *f, const struct optimizer *o, size_t n) {
    double *const s = f->want_state;
    double squares = 0;
    for (size_t k = 0; k < n; k++)
        squares += (double)grad_at(f, k) * grad_at(f, k);
    if (o->kind == OPTIMIZER_ROWWISE_ADAGRAD || o->kind == OPTIMIZER_ADAM)
        s[0] += o->kind == OPTIMIZER_ADAM ? 1 : squares;
    for (size_t k = 0; k < n; k++) {
        const double g = grad_at(f, k);
        double step = 0;
        if (o->kind == OPTIMIZER_FTRL) {
            ftrl_formula(o, g, &s[k], &s[n + k], &f->want[k]);
        } else if (o->kind == OPTIMIZER_SGD) {
            step = g;
        } else if (o->kind == OPTIMIZER_ADAGRAD) {
            s[k] += g * g;
            step = g / (sqrt(s[k]) + o->eps);
        } else if (o->kind == OPTIMIZER_ROWWISE_ADAGRAD) {
            step = g / (sqrt(s[0]) + o->eps);
        } else {
            double *const m = &s[1 + k], *const v = &s[1 + n + k];
            *m = o->beta1 * *m + (1 - (double)o->beta1) * g;
            *v = o->beta2 * *v + (1 - (double)o->beta2) * g * g;
            step = *m / (1 - pow(o->beta1, s[0])) / (sqrt(*v / (1 - pow(o->beta2, s[0]))) + o->eps);
        }
        f->want[k] -= o->lr * step;
    }
}

/* One row through a variant. */
static void step(struct fixture *f, size_t variant, const struct optimizer *o, size_t n) {
    size_t n_variants;
    float *const values = f->values, *const states = f->state;
    const struct optim_rows row = {&values, &states, f->wire + 1, 1, n};
    optim_variants(&n_variants)[variant]->train(o, &row, NULL);
}

static void follows_its_formula(enum optimizer_kind kind) {
    for (size_t n = 0; n <= WIDTH_MAX; n++) {
        struct fixture f;
        setup(&f, n);
        for (int t = 0; t < STEPS; t++) {
            next_grads(&f, n, t + 1);
            step(&f, 0, &settings[kind], n);
            formula(&f, &settings[kind], n);
        }
        for (size_t k = 0; k < n; k++)
            assert_true(fabs(f.values[k] - f.want[k]) < 2e-5);
        for (size_t k = 0; k < 2 * n + 1; k++)
            assert_true(fabs(f.state[k] - f.want_state[k]) <= 1e-5 * fabs(f.want_state[k]) + 2e-5);
    }
}

static void sgd_follows_its_formula(void **state) {
    follows_its_formula(OPTIMIZER_SGD);
}

static void adagrad_follows_its_formula(void **state) {
    follows_its_formula(OPTIMIZER_ADAGRAD);
}

static void rowwise_adagrad_sums_squares_over_the_row(void **state) {
    follows_its_formula(OPTIMIZER_ROWWISE_ADAGRAD);
}

static void adam_corrects_its_bias(void **state) {
    follows_its_formula(OPTIMIZER_ADAM);
}

static void ftrl_follows_its_formula(void **state) {
    follows_its_formula(OPTIMIZER_FTRL);
}

static void a_zero_gradient_moves_no_fresh_row_even_without_eps(void **state) {
    enum { N = 21 };
    size_t n_variants;
    optim_variants(&n_variants);
    for (size_t i = 0; i < n_variants * KINDS; i++) {
        struct optimizer optimizer = settings[i % KINDS];
        optimizer.eps = optimizer.beta = optimizer.l2 = 0;
        struct fixture f;
        setup(&f, N);
        step(&f, i / KINDS, &optimizer, N);
        for (size_t k = 0; k < N; k++)
            assert_true(f.values[k] == (float)cos((double)k));
    }
}

/* Without penalties the first step is AdaGrad's, from wherever the row begins. */
static void ftrl_starts_from_the_initial_value(void **state) {
    const struct optimizer o = {.kind = OPTIMIZER_FTRL, .lr = 0.25f};
    const float grads[] = {2, -8, 0.5f}, initial[] = {1.5f, -0.75f, 0};
    float row[] = {1.5f, -0.75f, 0}, zn[6] = {0}, *const values = row, *const states = zn;
    const struct optim_rows rows = {&values, &states, grads, 1, 3};
    optim_kernels()->train(&o, &rows, NULL);
    for (size_t k = 0; k < 3; k++) {
        const float sign = grads[k] < 0 ? -1 : 1;
        assert_true(row[k] == initial[k] - 0.25f * sign);
        assert_true(zn[3 + k] == grads[k] * grads[k]);
    }
}

static void ftrl_takes_small_coordinates_to_zero(void **state) {
    const struct optimizer o = {.kind = OPTIMIZER_FTRL, .lr = 1, .beta = 1, .l1 = 1};
    const float grads[] = {0.5f, -0.5f, 3};
    float row[3] = {0}, zn[6] = {0}, *const values = row, *const states = zn;
    const struct optim_rows rows = {&values, &states, grads, 1, 3};
    optim_kernels()->train(&o, &rows, NULL);
    assert_true(row[0] == 0 && row[1] == 0);
    assert_true(row[2] == -(3.0f - 1) / (1 + 3.0f));
    assert_true(zn[0] == 0.5f && zn[1] == -0.5f && zn[2] == 3);
}

/* ---- variants -------------------------------------------------------------------------------- */

enum { ROWS = OPTIM_ROWS };

/* Fewer rows than a call names, so that some come twice. */
struct scene {
    float values[ROWS][WIDTH_MAX + GUARD], states[ROWS][STATE_MAX + GUARD];
    double g[WIDTH_MAX + GUARD], row[WIDTH_MAX + GUARD];
    uint8_t wire[ROWS * WIDTH_MAX * sizeof(float) + 1];
    float *values_of[ROWS], *states_of[ROWS];
};

static float noise(uint64_t *random) {
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*random >> 32) / 2147483648.0f;
}

static void scene_init(struct scene *s, size_t rows) {
    uint64_t random = 1;
    memset(s, 0, sizeof *s);
    for (size_t i = 0; i < ROWS; i++) {
        for (size_t k = 0; k < WIDTH_MAX + GUARD; k++)
            s->values[i][k] = noise(&random);
        const size_t at = i * 5 % (rows / 2 + 1);
        s->values_of[i] = s->values[at];
        s->states_of[i] = s->states[at];
    }
    for (size_t k = 0; k < GUARD; k++)
        s->states[0][STATE_MAX + k] = noise(&random);
}

static void scene_grads(struct scene *s, uint64_t seed, const float *special, size_t n_special) {
    for (size_t i = 0; i < ROWS * WIDTH_MAX; i++) {
        float g = noise(&seed);
        if (n_special > 0 && i % 3 == 0)
            g = special[i / 3 % n_special];
        memcpy(s->wire + 1 + i * sizeof g, &g, sizeof g);
    }
}

static void scene_work(struct scene *s, const struct optim_kernels *kernels, int kind, size_t rows,
                       size_t n, bool scored) {
    const struct optim_rows call = {s->values_of, s->states_of, s->wire + 1, rows, n};
    const struct optim_sums sums = {512, s->g, s->row};
    if (kind < KINDS)
        kernels->train(&settings[kind], &call, scored ? &sums : NULL);
    else
        kernels->score(&call, &sums);
}

/* The same bits, or both of them no number: IEEE 754 leaves open which one. */
static void assert_same_floats(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        assert_true(memcmp(&a[i], &b[i], sizeof *a) == 0 || (isnan(a[i]) && isnan(b[i])));
}

static void assert_same_doubles(const double *a, const double *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        assert_true(memcmp(&a[i], &b[i], sizeof *a) == 0 || (isnan(a[i]) && isnan(b[i])));
}

static void assert_same(const struct scene *a, const struct scene *b) {
    assert_same_floats(a->values[0], b->values[0], sizeof a->values / sizeof(float));
    assert_same_floats(a->states[0], b->states[0], sizeof a->states / sizeof(float));
    assert_same_doubles(a->g, b->g, ARRAY_LEN(a->g));
    assert_same_doubles(a->row, b->row, ARRAY_LEN(a->row));
}

/* Every variant beside the reference: all optimizers and the score alone, n = 0 .. WIDTH_MAX. */
static void assert_variants_agree(size_t rows, bool scored, const float *special,
                                  size_t n_special) {
    size_t n_variants;
    const struct optim_kernels *const *const variants = optim_variants(&n_variants);
    struct scene *const want = malloc(sizeof *want), *const got = malloc(sizeof *got);
    assert_true(n_variants >= 2);
    for (size_t v = 1; v < n_variants; v++) {
        for (size_t n = 0; n <= WIDTH_MAX; n++) {
            for (int kind = 0; kind <= KINDS; kind++) {
                scene_init(want, rows);
                scene_init(got, rows);
                for (uint64_t t = 0; t < 3; t++) {
                    scene_grads(want, t, special, n_special);
                    scene_grads(got, t, special, n_special);
                    scene_work(want, variants[0], kind, rows, n, scored);
                    scene_work(got, variants[v], kind, rows, n, scored);
                }
                assert_same(want, got);
            }
        }
    }
    free(want);
    free(got);
}

static void every_variant_gives_the_bits_of_the_reference(void **state) {
    assert_variants_agree(1, true, NULL, 0);
    assert_variants_agree(7, false, NULL, 0);
    assert_variants_agree(ROWS, true, NULL, 0);
}

static void variants_agree_on_numbers_at_the_edge(void **state) {
    const float edge[] = {0, -0.0f, FLT_TRUE_MIN, -FLT_TRUE_MIN, FLT_MIN, 1e-23f, 1e19f, -FLT_MAX};
    assert_variants_agree(3, true, edge, ARRAY_LEN(edge));
}

static void variants_agree_on_what_is_not_finite(void **state) {
    const float edge[] = {INFINITY, 1, -INFINITY, 0, NAN};
    assert_variants_agree(3, true, edge, ARRAY_LEN(edge));
}

static void the_best_variant_is_chosen(void **state) {
    size_t n;
    const struct optim_kernels *const *const variants = optim_variants(&n);
    assert_string_equal(variants[0]->name, "reference");
    assert_string_equal(variants[1]->name, "baseline");
    assert_ptr_equal(optim_kernels(), variants[n - 1]);
#ifdef __x86_64__
    size_t want = 2;
    want += __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    want += !!__builtin_cpu_supports("avx512f");
    assert_int_equal(n, want);
#endif
}

/* ---- sums ------------------------------------------------------------------------------------ */

static void scores_are_those_of_the_values_before_the_step(void **state) {
    size_t n_variants;
    const struct optim_kernels *const *const variants = optim_variants(&n_variants);
    for (size_t v = 0; v < n_variants; v++) {
        struct fixture f;
        double g[WIDTH_MAX + 1] = {0}, row[WIDTH_MAX + 1] = {0};
        long double want_g[WIDTH_MAX] = {0}, want_row[WIDTH_MAX] = {0};
        setup(&f, WIDTH_MAX);
        float *const values = f.values, *const states = f.state;
        for (int t = 1; t < STEPS; t++) {
            next_grads(&f, WIDTH_MAX, t);
            for (size_t k = 0; k < WIDTH_MAX; k++) {
                const long double part = 512.0L * ((long double)f.values[k] * grad_at(&f, k));
                want_g[k] += part;
                want_row[k] += fabsl(part);
            }
            const struct optim_rows call = {&values, &states, f.wire + 1, 1, WIDTH_MAX};
            variants[v]->train(&settings[OPTIMIZER_ROWWISE_ADAGRAD], &call,
                               &(struct optim_sums){512, g, row});
        }
        for (size_t k = 0; k < WIDTH_MAX; k++) {
            assert_true(fabsl(g[k] - want_g[k]) <= 1e-14L * want_row[k]);
            assert_true(fabsl(row[k] - want_row[k]) <= 1e-14L * want_row[k]);
        }
        assert_true(g[WIDTH_MAX] == 0 && row[WIDTH_MAX] == 0);
    }
}

/* Rows in one call do what they do one by one; one that comes twice is worked on in order. */
static void rows_of_a_call_are_worked_on_in_order(void **state) {
    enum { N = 19 };
    for (int kind = 0; kind < KINDS; kind++) {
        struct scene together, alone;
        scene_init(&together, ROWS);
        scene_init(&alone, ROWS);
        scene_grads(&together, 1, NULL, 0);
        scene_work(&together, optim_kernels(), kind, ROWS, N, true);
        for (size_t i = 0; i < ROWS; i++) {
            scene_grads(&alone, 1, NULL, 0);
            const struct optim_rows one = {&alone.values_of[i], &alone.states_of[i],
                                           alone.wire + 1 + i * N * sizeof(float), 1, N};
            optim_kernels()->train(&settings[kind], &one,
                                   &(struct optim_sums){512, alone.g, alone.row});
        }
        assert_memory_equal(together.values, alone.values, sizeof alone.values);
        assert_memory_equal(together.states, alone.states, sizeof alone.states);
        for (size_t k = 0; k < N; k++) {
            assert_true(fabs(together.g[k] - alone.g[k]) <= 1e-14 * alone.row[k]);
            assert_true(fabs(together.row[k] - alone.row[k]) <= 1e-14 * alone.row[k]);
        }
    }
}

/* ---- moments --------------------------------------------------------------------------------- */

enum { MOMENT_ROWS = 37 };

struct products {
    double C[WIDTH_MAX * WIDTH_MAX + GUARD], b[WIDTH_MAX + GUARD];
};

static void products_init(struct products *p) {
    for (size_t i = 0; i < ARRAY_LEN(p->C); i++)
        p->C[i] = sin((double)i);
    for (size_t i = 0; i < ARRAY_LEN(p->b); i++)
        p->b[i] = cos((double)i);
}

static void moments_fill(double *values, double *grads, size_t n, size_t stride) {
    uint64_t random = 7;
    for (size_t i = 0; i < MOMENT_ROWS * stride; i++) {
        values[i] = i % stride < n ? (double)noise(&random) : 0;
        grads[i] = i % stride < n ? (double)noise(&random) : 0;
    }
}

static void moments_are_sums_of_products_in_every_variant(void **state) {
    enum { STRIDE = (WIDTH_MAX + OPTIM_STRIDE - 1) / OPTIM_STRIDE * OPTIM_STRIDE };
    static double values[MOMENT_ROWS * STRIDE], grads[MOMENT_ROWS * STRIDE];
    static struct products start, want, got;
    size_t n_variants;
    const struct optim_kernels *const *const variants = optim_variants(&n_variants);
    products_init(&start);
    for (size_t n = 0; n <= WIDTH_MAX; n++) {
        const size_t stride = (n + OPTIM_STRIDE - 1) / OPTIM_STRIDE * OPTIM_STRIDE;
        struct optim_moments m = {values, grads, MOMENT_ROWS, n, stride, 3, want.C, want.b};
        moments_fill(values, grads, n, stride);
        want = start;
        variants[0]->moments(&m);
        for (size_t at = 0; at < n * n; at++) {
            long double sum = 0, size = 1;
            for (size_t i = 0; i < MOMENT_ROWS; i++) {
                const long double part = 3.0L * ((long double)values[i * stride + at / n] *
                                                 grads[i * stride + at % n]);
                sum += part;
                size += fabsl(part);
            }
            assert_true(fabsl(want.C[at] - (start.C[at] + sum)) <= 1e-14L * size);
        }
        for (size_t k = 0; k < n; k++) {
            long double sum = 0;
            for (size_t i = 0; i < MOMENT_ROWS; i++)
                sum += 3.0L * grads[i * stride + k];
            assert_true(fabsl(want.b[k] - (start.b[k] + sum)) <= 1e-12L);
        }
        for (size_t v = 1; v < n_variants; v++) {
            got = start;
            m.C = got.C;
            m.b = got.b;
            variants[v]->moments(&m);
            assert_memory_equal(&got, &want, sizeof want);
        }
    }
}

static void floats_are_widened_wherever_they_stand(void **state) {
    size_t n_variants;
    const struct optim_kernels *const *const variants = optim_variants(&n_variants);
    struct fixture f;
    setup(&f, WIDTH_MAX);
    next_grads(&f, WIDTH_MAX, 3);
    for (size_t v = 0; v < n_variants; v++) {
        for (size_t n = 0; n <= WIDTH_MAX; n++) {
            double out[WIDTH_MAX + 1];
            out[n] = 7;
            variants[v]->widen(f.wire + 1, n, out);
            for (size_t k = 0; k < n; k++)
                assert_true(out[k] == grad_at(&f, k));
            assert_true(out[n] == 7);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sgd_follows_its_formula),
        cmocka_unit_test(adagrad_follows_its_formula),
        cmocka_unit_test(rowwise_adagrad_sums_squares_over_the_row),
        cmocka_unit_test(adam_corrects_its_bias),
        cmocka_unit_test(ftrl_follows_its_formula),
        cmocka_unit_test(a_zero_gradient_moves_no_fresh_row_even_without_eps),
        cmocka_unit_test(ftrl_starts_from_the_initial_value),
        cmocka_unit_test(ftrl_takes_small_coordinates_to_zero),
        cmocka_unit_test(every_variant_gives_the_bits_of_the_reference),
        cmocka_unit_test(variants_agree_on_numbers_at_the_edge),
        cmocka_unit_test(variants_agree_on_what_is_not_finite),
        cmocka_unit_test(the_best_variant_is_chosen),
        cmocka_unit_test(scores_are_those_of_the_values_before_the_step),
        cmocka_unit_test(rows_of_a_call_are_worked_on_in_order),
        cmocka_unit_test(floats_are_widened_wherever_they_stand),
        cmocka_unit_test(moments_are_sums_of_products_in_every_variant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

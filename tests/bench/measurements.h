/*
 * What dimfit-bench can measure, one function a name of its command line. Each brings along the
 * rows it needs and prints its series (bench.h); docs/performance.md says what each figure is.
 */
#ifndef TESTS_BENCH_MEASUREMENTS_H
#define TESTS_BENCH_MEASUREMENTS_H

#include "tests/bench/load.h"

typedef void measurement(const struct run *run);

/* rate_bench.c */
measurement bench_pull, bench_push; /* beside Redis */
measurement bench_scoring;          /* a push with scores beside one without */
measurement bench_moments; /* a push whose scores serve a fitted basis beside axis scores */
measurement bench_half;    /* a pull of float16 beside one of float32 */
measurement bench_memory;  /* of a row */

/* sweep_bench.c */
measurement bench_batch;  /* by batch size, beside Redis */
measurement bench_width;  /* by row width, beside rows of 16 floats */
measurement bench_shards; /* of two targets: two shards beside one */
measurement bench_16m;    /* rows out of 16 M beside rows out of 1 M */

/* latency_bench.c */
measurement bench_latency; /* percentiles of a pull */
measurement bench_growing; /* of a pull while the table grows */
measurement bench_shrink;  /* of a pull while rows are evicted */
measurement bench_live;    /* of a pull while a layout change is applied */

/* load20m_bench.c */
measurement bench_load20m; /* memory of 20 M rows beside what the layout says */

#endif

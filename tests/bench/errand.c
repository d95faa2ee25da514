#include "tests/bench/errand.h"

#include "tests/bench/latency.h"

#include <jansson.h>
#include <string.h>

#define POLL_INTERVAL 0.005 /* seconds */

const struct errand errand_plan = {
    .command = "search start",
    .args = "{\"kappa\": 0.5, \"strategy\": \"uniform\", \"basis\": \"rotated\", "
            "\"plan_only\": true}",
    .status = "search status",
    .field = "phase",
    .done = "planned",
    .failed = "aborted",
};

const struct errand errand_apply = {
    .command = "search apply",
    .status = "search status",
    .field = "phase",
    .done = "committed",
    .failed = "aborted",
    .left = "moving_rows",
};

const struct errand errand_shrink = {
    .command = "shrink",
    .args = "{\"shows\": 2}",
    .status = "shrink status",
    .field = "state",
    .done = "done",
    .failed = "failed",
};

void admin_do(const struct target *target, const char *command, const char *args) {
    char *reply = NULL;
    target_must(target, dimfit_admin(target->c, command, args, &reply));
    dimfit_free(reply);
}

static bool is_over(const struct errand *errand, const struct target *target) {
    char *text = NULL;
    target_must(target, dimfit_admin(target->c, errand->status, NULL, &text));
    json_t *const status = json_loads(text, 0, NULL);
    const char *const now = json_string_value(json_object_get(status, errand->field));
    if (now == NULL || strcmp(now, errand->failed) == 0)
        bench_die("%s: %s", errand->command, text);
    const bool over = strcmp(now, errand->done) == 0;
    json_decref(status);
    dimfit_free(text);
    return over && (errand->left == NULL || target_total(target, errand->left) == 0);
}

double errand_do(const struct errand *errand, const struct target *target, double *peak) {
    const double begun = bench_seconds();
    admin_do(target, errand->command, errand->args);
    while (!is_over(errand, target)) {
        const double now = peak != NULL ? target_total(target, "resident_bytes") : 0;
        if (peak != NULL && now > *peak)
            *peak = now;
        sleep_until(bench_seconds() + POLL_INTERVAL);
    }
    return bench_seconds() - begun;
}

static void *errand_main(void *self) {
    struct errand_run *const run = self;
    run->seconds = errand_do(run->errand, &run->target, &run->peak);
    atomic_store(&run->over, true);
    return NULL;
}

void errand_start(struct errand_run *run, const struct errand *errand,
                  const struct target *target) {
    run->errand = errand;
    run->peak = 0;
    run->target = (struct target){.endpoint = target->endpoint};
    target_open(&run->target);
    atomic_store(&run->over, false);
    if (pthread_create(&run->thread, NULL, errand_main, run) != 0)
        bench_die("no thread for %s", errand->command);
}

double errand_join(struct errand_run *run) {
    pthread_join(run->thread, NULL);
    target_close(&run->target);
    return run->seconds;
}

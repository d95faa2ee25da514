/*
 * The daemon: reads its configuration, starts the actors its role needs, waits for a reason to
 * stop.
 */
#include "server/config.h"
#include "server/coordinator_host.h"
#include "server/eviction_log.h"
#include "server/http.h"
#include "server/shard_host.h"
#include "server/spill.h"
#include "server/stock.h"

#include <cblas.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>

enum {
    EXIT_USAGE = 2,
    JOIN_TIMEOUT_MS = 30000,
    SIGNAL_CHECK_MS = 200,
};

struct daemon {
    struct config config;
    struct strategies *strategies;
    struct coordinator_host_options coordinator_options;
    struct shard_host_options shard_options;
    char endpoint[CLUSTER_ENDPOINT_MAX + 1];
    zactor_t *coordinator;
    struct http *http;      /* NULL: none */
    zactor_t *eviction_log; /* NULL: none */
    zactor_t *spill;        /* NULL: rows before a change stay in memory, or are not kept */
    size_t n_shards;
    zactor_t **shards;
    _Atomic bool failed; /* a shard could not do its work */
};

static _Atomic bool asked_to_stop; /* a signal may come on any thread */

static void on_signal(int number) {
    asked_to_stop = true;
}

static void catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* Never 0. */
static uint64_t random_number(void) {
    uint64_t number = 0;
    if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number)
        number = (uint64_t)zclock_usecs();
    return number | 1;
}

static dimfit_err start_coordinator(struct daemon *d, struct err_detail *detail) {
    const struct config *const config = &d->config;
    dimfit_err err = strategies_load(config->strategies, &d->strategies, detail);
    if (err != DIMFIT_OK)
        return err;
    for (size_t i = 0; i < strategies_refused(d->strategies); i++)
        log_warn("strategies", "refused %s", strategies_refusal(d->strategies, i));
    d->coordinator_options = (struct coordinator_host_options){
        .bind = config->bind,
        .data_dir = config->data_dir,
        .audit_log = config->audit_log,
        .coordinator =
            {
                .shards = config->shards,
                .seed = config->seed,
                .cluster = random_number(),
                .auto_slots = config->auto_slots,
                .defaults = config->defaults,
                .n_slots = config->n_slots,
                .slots = config->slots,
                .scoring_timeout_ms = (int64_t)(config->scoring_timeout * 1000),
                .step_timeout_ms = (int64_t)(config->prepare_timeout * 1000),
                .shrink_at = config->shrink_at,
                .strategies = d->strategies,
            },
    };
    return coordinator_host_start(&d->coordinator_options, d->endpoint, sizeof d->endpoint,
                                  &d->coordinator, detail);
}

static dimfit_err start_http(struct daemon *d, struct err_detail *detail) {
    if (d->config.http_bind[0] == 0)
        return DIMFIT_OK;
    const dimfit_err err = http_start(d->config.http_bind, d->endpoint, &d->http, detail);
    if (err == DIMFIT_OK)
        log_info("dimfitd", "HTTP at %s, port %u", d->config.http_bind, http_port(d->http));
    return err;
}

/* Where the rows before a change go: a folder, memory, or nowhere, which is said. */
static dimfit_err choose_spill(struct daemon *d, struct err_detail *detail) {
    const struct config *const config = &d->config;
    const char *const given = config->rollback_dir[0] != 0 ? config->rollback_dir
                                                           : config->data_dir;
    if (given[0] == 0)
        log_info("dimfitd", "rows before a layout change are not kept, so that it can't be rolled "
                            "back: there is neither --rollback-dir nor --data-dir");
    d->shard_options.shard.keep = given[0] != 0 && strcmp(given, "none") != 0;
    if (!d->shard_options.shard.keep || strcmp(given, "memory") == 0)
        return DIMFIT_OK;
    d->shard_options.spill = given;
    return spill_start(given, &d->spill, detail);
}

/* A folder to keep the rows in is there, or they are not kept, which is said. */
static dimfit_err choose_durability(struct daemon *d, struct err_detail *detail) {
    const struct config *const config = &d->config;
    const bool folder = config->data_dir[0] != 0;
    enum durability *const out = &d->shard_options.durability;
    switch (config->durability) {
    case KEEP_AUTO:
        *out = folder ? DURABILITY_PROCESS : DURABILITY_NONE;
        break;
    case KEEP_NONE:
        *out = DURABILITY_NONE;
        break;
    case KEEP_PROCESS:
        *out = DURABILITY_PROCESS;
        break;
    case KEEP_DISK:
        *out = DURABILITY_DISK;
        break;
    }
    if (*out == DURABILITY_NONE)
        log_info("dimfitd", "rows are not kept when this process ends: %s",
                 folder ? "--durability none" : "there is no --data-dir");
    else if (!folder)
        return err_set(detail, DIMFIT_ERR_CONFIG, "--durability needs a --data-dir for the rows");
    if (folder && mkdir(config->data_dir, 0700) != 0 && errno != EEXIST)
        return err_set(detail, DIMFIT_ERR_IO, "--data-dir %s: cannot make it: %s", config->data_dir,
                       strerror(errno));
    return DIMFIT_OK;
}

static dimfit_err start_shards(struct daemon *d, struct err_detail *detail) {
    const struct config *const config = &d->config;
    d->shard_options = (struct shard_host_options){
        .bind = config->shard_bind,
        .coordinator = config->role == ROLE_SHARD ? config->coordinator : d->endpoint,
        .shard =
            {
                .score_memory = config->score_memory,
                .score_sample = config->score_sample,
                .max_memory = config->max_memory,
                .row_memory = config->max_memory / config->shards,
                .skip_new = config->over_memory == OVER_SKIP,
            },
        .join_timeout_ms = JOIN_TIMEOUT_MS,
        .eviction_log = config->eviction_log[0] != 0,
        .failed = &d->failed,
        .data_dir = config->data_dir,
        .snapshot_bytes = config->snapshot_every,
    };
    const dimfit_err keeps = choose_durability(d, detail);
    if (keeps != DIMFIT_OK)
        return keeps;
    if (d->shard_options.eviction_log) {
        const dimfit_err err = eviction_log_start(config->eviction_log, &d->eviction_log, detail);
        if (err != DIMFIT_OK)
            return err;
    }
    const dimfit_err spills = choose_spill(d, detail);
    if (spills != DIMFIT_OK)
        return spills;
    d->shards = calloc(config->shards, sizeof *d->shards);
    if (d->shards == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for %u shards", config->shards);
    const dimfit_err stocked = stock_start(detail);
    if (stocked != DIMFIT_OK)
        return stocked;
    uint32_t from = 0;
    while (d->n_shards < config->shards) {
        struct disk *folder = NULL;
        dimfit_err err = d->shard_options.durability == DURABILITY_NONE
                             ? DIMFIT_OK
                             : shard_host_find_folder(config->data_dir, &from, &folder, detail);
        if (err == DIMFIT_OK)
            err = shard_host_start(&d->shard_options, &folder, &d->shards[d->n_shards], detail);
        if (err != DIMFIT_OK)
            return err;
        d->n_shards++;
    }
    return DIMFIT_OK;
}

/* Until a signal, or until any actor has ended by itself: told to by the coordinator, or failed. */
static void wait_for_the_end(struct daemon *d) {
    zpoller_t *poller = zpoller_new(NULL);
    if (poller == NULL)
        return;
    zpoller_set_nonstop(poller, true);
    if (d->coordinator != NULL)
        zpoller_add(poller, d->coordinator);
    for (size_t i = 0; i < d->n_shards; i++)
        zpoller_add(poller, d->shards[i]);
    void *ended = NULL;
    while (!asked_to_stop && ended == NULL)
        ended = zpoller_wait(poller, SIGNAL_CHECK_MS);
    zpoller_destroy(&poller);
    if (asked_to_stop)
        log_info("dimfitd", "asked to stop by a signal");
}

static void stop(struct daemon *d) {
    http_stop(&d->http);
    zactor_destroy(&d->coordinator); /* first: it tells the shards */
    for (size_t i = 0; i < d->n_shards; i++)
        zactor_destroy(&d->shards[i]);
    free(d->shards);
    zactor_destroy(&d->eviction_log); /* after those who write to it */
    zactor_destroy(&d->spill);
    stock_stop();
    strategies_destroy(&d->strategies);
    config_fini(&d->config);
}

static int fail(struct daemon *d, dimfit_err err, const struct err_detail *detail) {
    fprintf(stderr, "dimfitd: %s\n", detail->text[0] != 0 ? detail->text : err_text(err));
    stop(d);
    return EXIT_FAILURE;
}

int main(int argc, char **argv) {
    struct daemon d = {0};
    struct err_detail detail = {{0}};
    dimfit_err err = config_parse_args(argc, argv, &d.config, &detail);
    if (err != DIMFIT_OK) {
        fprintf(stderr, "dimfitd: %s\n", detail.text);
        return err == DIMFIT_ERR_INVALID ? EXIT_USAGE : EXIT_FAILURE;
    }
    if (d.config.print) {
        config_print(&d.config, stdout);
        config_fini(&d.config);
        return EXIT_SUCCESS;
    }
    log_set_level(d.config.log_level);
    zsys_handler_set(NULL); /* signals are ours */
    catch_signals();
    openblas_set_num_threads(1); /* a shard is one thread */

    if (d.config.role != ROLE_SHARD)
        err = start_coordinator(&d, &detail);
    if (err == DIMFIT_OK && d.config.role != ROLE_SHARD)
        err = start_http(&d, &detail);
    if (err == DIMFIT_OK && d.config.role != ROLE_COORDINATOR)
        err = start_shards(&d, &detail);
    if (err != DIMFIT_OK)
        return fail(&d, err, &detail);
    if (d.config.role == ROLE_SHARD)
        printf("dimfitd: %u shards for the coordinator at %s\n", d.config.shards,
               d.config.coordinator);
    else
        printf("dimfitd: coordinator at %s, %u shards\n", d.endpoint, d.config.shards);
    fflush(stdout);
    wait_for_the_end(&d);
    stop(&d);
    return d.failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

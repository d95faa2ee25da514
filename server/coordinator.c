#include "server/coordinator_internal.h"

#include "server/log.h"

#include <stdlib.h>

struct asker asker_of(const struct route *from, const struct wire_header *header) {
    return (struct asker){.route = *from, .kind = header->kind, .request = header->request};
}

bool coordinator_frozen(const struct coordinator *c) {
    const enum wire_phase phase = c->search.phase;
    return c->search.freeze &&
           (phase == PHASE_SCORING || (!c->search.plan_only && !c->apply.dry_run &&
                                       (phase == PHASE_PLANNING || phase == PHASE_PREPARING)));
}

void coordinator_reply(struct coordinator *c, const struct asker *to, struct wire_header *reply,
                       const void *body, size_t len) {
    reply->kind = to->kind;
    reply->request = to->request;
    reply->reply = true;
    reply->epoch = c->layout->epoch;
    reply->phase = c->search.phase;
    reply->frozen = coordinator_frozen(c);
    reply->curvature = search_wants_curvature(&c->search);
    c->io.send(c->io.self, &to->route, reply, body, len);
}

void coordinator_answer(struct coordinator *c, const struct asker *to, dimfit_err status,
                        const struct err_detail *detail, const void *body, size_t len) {
    struct wire_header reply = {.status = status};
    if (detail != NULL)
        reply.detail = *detail;
    coordinator_reply(c, to, &reply, body, len);
}

/* What a slot keeps for life; its width is the searches' to change. */
static const char *lifelong_difference(const struct layout_slot *a, const struct layout_slot *b) {
    if (a->dim != b->dim)
        return "dim";
    if (a->optimizer.kind != b->optimizer.kind)
        return "optimizer";
    if (a->optimizer.lr != b->optimizer.lr || a->optimizer.eps != b->optimizer.eps ||
        a->optimizer.beta1 != b->optimizer.beta1 || a->optimizer.beta2 != b->optimizer.beta2)
        return "lr, eps, beta1 or beta2";
    if (a->optimizer.kind == OPTIMIZER_FTRL && /* others' layouts do not say */
        (a->optimizer.beta != b->optimizer.beta || a->optimizer.l1 != b->optimizer.l1 ||
         a->optimizer.l2 != b->optimizer.l2))
        return "ftrl_beta, l1 or l2";
    if (a->init != b->init || a->init_scale != b->init_scale)
        return "init or init_scale";
    if (a->search != b->search)
        return "search";
    struct retention wanted = a->retention;
    retention_complete(&wanted);
    const char *const kept = retention_difference(&wanted, &b->retention);
    if (kept != NULL)
        return kept;
    const uint32_t n_tiers = a->n_tiers > 0 ? a->n_tiers : 1;
    if (n_tiers != b->n_tiers ||
        memcmp(a->tier_shows, b->tier_shows, n_tiers * sizeof *a->tier_shows) != 0)
        return "tiers";
    return strcmp(a->name, b->name) != 0 ? "name" : NULL;
}

static dimfit_err add_configured(struct coordinator *c, struct err_detail *detail) {
    for (size_t i = 0; i < c->options.n_slots; i++) {
        const struct layout_slot *const spec = &c->options.slots[i];
        const struct layout_slot *const there = layout_find(c->layout, spec->id);
        const char *const other = there == NULL ? NULL : lifelong_difference(spec, there);
        if (other != NULL)
            return err_set(detail, DIMFIT_ERR_CONFIG,
                           "slot %u: %s in the configuration differs from the stored layout and "
                           "can't be changed; give the old value, or another --data-dir",
                           spec->id, other);
        const dimfit_err err = there == NULL ? layout_add_slot(c->layout, spec, detail) : DIMFIT_OK;
        if (err != DIMFIT_OK)
            return err;
    }
    return DIMFIT_OK;
}

dimfit_err coordinator_new(const struct coordinator_options *options,
                           const struct coordinator_io *io, const void *state, size_t len,
                           struct coordinator **out, struct err_detail *detail) {
    base_assert(options->shards > 0 && options->shards <= CLUSTER_SHARDS_MAX);
    struct coordinator *c = calloc(1, sizeof *c);
    if (c == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for the coordinator");
    c->magic = COORDINATOR_MAGIC;
    c->options = *options;
    c->io = *io;
    c->started_ms = c->awake_ms = io->now_ms(io->self);
    dimfit_err err = DIMFIT_ERR_NOMEM;
    c->cluster = options->cluster;
    c->members = calloc(options->shards, sizeof *c->members);
    c->kept = calloc(options->shards, sizeof *c->kept);
    if (c->members != NULL && c->kept != NULL)
        err = cluster_map_new(options->shards, &c->map);
    if (err == DIMFIT_OK)
        err = state != NULL ? coordinator_load(c, state, len, detail)
                            : layout_new(0, options->seed, &c->layout);
    if (err == DIMFIT_OK)
        err = add_configured(c, detail);
    if (err == DIMFIT_OK)
        err = coordinator_save(c, c->layout, &c->undo, detail);
    if (err != DIMFIT_OK) {
        coordinator_destroy(&c);
        return err;
    }
    c->options.slots = NULL;
    shrink_init(c);
    *out = c;
    return DIMFIT_OK;
}

void coordinator_destroy(struct coordinator **coordinator) {
    struct coordinator *const c = *coordinator;
    if (c == NULL)
        return;
    CHECK_OBJ_NOTNULL(c, COORDINATOR_MAGIC);
    op_list_destroy(c);
    barrier_list_destroy(c);
    search_fini(c);
    apply_fini(c);
    undo_fini(&c->undo);
    kept_plans_fini(&c->plans);
    shrink_fini(c);
    layout_destroy(&c->layout);
    cluster_map_destroy(&c->map);
    free(c->members);
    free(c->kept);
    c->magic = 0;
    free(c);
    *coordinator = NULL;
}

bool coordinator_complete(const struct coordinator *c, struct err_detail *detail) {
    size_t n = 0;
    for (size_t i = 0; i < c->options.shards; i++)
        n += c->members[i].registered;
    if (n == c->options.shards)
        return true;
    err_set(detail, DIMFIT_ERR_BUSY, "waiting for shards: %zu of %zu are here", n,
            c->options.shards);
    return false;
}

bool coordinator_answering(const struct coordinator *c, struct err_detail *detail) {
    if (!coordinator_complete(c, detail))
        return false;
    const int64_t now = c->io.now_ms(c->io.self);
    for (size_t i = 0; i < c->options.shards; i++) {
        const int64_t silence = now - c->members[i].seen_ms;
        if (silence <= SILENT_AFTER_MS)
            continue;
        err_set(detail, DIMFIT_ERR_TIMEOUT,
                "shard %zu at %s has been silent for %.0f s; see whether its process is alive", i,
                c->map->endpoints[i], (double)silence / 1000);
        return false;
    }
    return true;
}

/* While we were stopped ourselves (a signal, a suspended machine) nobody was silent to us. */
static void notice_pause(struct coordinator *c) {
    const int64_t now = c->io.now_ms(c->io.self), gap = now - c->awake_ms;
    for (size_t i = 0; gap > PAUSE_MS && i < c->options.shards; i++)
        c->members[i].seen_ms += gap;
    c->awake_ms = now;
}

void coordinator_receive(struct coordinator *coordinator, const struct route *from,
                         const struct wire_header *header, const uint8_t *body, size_t len) {
    struct coordinator *const c = coordinator;
    CHECK_OBJ_NOTNULL(c, COORDINATOR_MAGIC);
    notice_pause(c);
    if (header->reply) {
        size_t number;
        if (members_find(c, from, &number))
            op_reply(c, number, header, body, len);
        return;
    }
    switch (header->kind) {
    case WIRE_CONNECT:
        members_connect(c, from, header);
        break;
    case WIRE_DECLARE:
        members_declare(c, from, header, body, len);
        break;
    case WIRE_BARRIER:
        barrier_arrive(c, from, header);
        break;
    case WIRE_SCORE_NEXT:
        search_score_next(c, from, header);
        break;
    case WIRE_TRIAL_NEXT:
        search_trial_next(c, from, header, body, len);
        break;
    case WIRE_ADMIN:
        admin_request(c, from, header, body, len);
        break;
    case WIRE_REGISTER:
        members_register(c, from, header, body, len);
        break;
    case WIRE_HEARTBEAT:
        members_heartbeat(c, from, header);
        break;
    default: {
        struct err_detail detail;
        err_set(&detail, DIMFIT_ERR_UNSUPPORTED,
                "a coordinator answers no request of kind %d; rows are asked of shards",
                (int)header->kind);
        const struct asker asker = asker_of(from, header);
        coordinator_answer(c, &asker, DIMFIT_ERR_UNSUPPORTED, &detail, NULL, 0);
    }
    }
}

void coordinator_tick(struct coordinator *coordinator) {
    struct coordinator *const c = coordinator;
    CHECK_OBJ_NOTNULL(c, COORDINATOR_MAGIC);
    notice_pause(c);
    const int64_t now = c->io.now_ms(c->io.self);
    op_tick(c, now);
    barrier_tick(c, now);
    catch_up_tick(c, now);
    search_tick(c, now);
    search_trial_tick(c, now);
    apply_tick(c, now);
    shrink_tick(c, now);
}

void coordinator_stop(struct coordinator *coordinator) {
    struct coordinator *const c = coordinator;
    if (c->stopping)
        return;
    c->stopping = true;
    log_info("coordinator", "stopping the cluster");
    const struct wire_header stop = {.kind = WIRE_STOP};
    for (size_t i = 0; i < c->options.shards; i++) {
        if (c->members[i].registered)
            c->io.send(c->io.self, &c->members[i].route, &stop, NULL, 0);
    }
    c->io.stop(c->io.self);
}

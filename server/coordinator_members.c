#include "server/coordinator_internal.h"

#include "server/log.h"

#include <math.h>

static bool route_equal(const struct route *a, const struct route *b) {
    return a->len == b->len && memcmp(a->id, b->id, a->len) == 0;
}

bool members_find(const struct coordinator *c, const struct route *from, size_t *number) {
    for (size_t i = 0; i < c->options.shards; i++) {
        if (c->members[i].registered && route_equal(&c->members[i].route, from)) {
            *number = i;
            return true;
        }
    }
    return false;
}

/* A place for a shard that has no rows: not one whose rows are on somebody's disk. */
static dimfit_err place_new(const struct coordinator *c, size_t *number,
                            struct err_detail *detail) {
    size_t waiting = SIZE_MAX;
    for (size_t i = 0; i < c->options.shards; i++) {
        if (!c->members[i].registered && !c->kept[i]) {
            *number = i;
            return DIMFIT_OK;
        }
        if (!c->members[i].registered && waiting == SIZE_MAX)
            waiting = i;
    }
    if (waiting != SIZE_MAX)
        return err_set(detail, DIMFIT_ERR_EXISTS,
                       "shard %zu has its rows in a folder shard-%zu of its --data-dir, which this "
                       "process has not: start it with that; if the folder is lost its rows are, "
                       "too: start the cluster anew, with another --data-dir",
                       waiting, waiting);
    return err_set(detail, DIMFIT_ERR_EXISTS,
                   "the cluster has all its %zu shards; one that died keeps its place: start it "
                   "again with its "
                   "--data-dir, or, where it kept none and its rows are lost with it, restart the "
                   "cluster, with "
                   "a larger --shards to make it larger",
                   c->options.shards);
}

/* Which number a shard gets: its own again, or the first free one for a new shard. */
static dimfit_err place(const struct coordinator *c, const struct hello *hello, uint64_t identity,
                        size_t *number, struct err_detail *detail) {
    for (size_t i = 0; i < c->options.shards; i++) {
        if (c->members[i].identity == identity) {
            *number = i;
            return DIMFIT_OK;
        }
    }
    if (hello->number == HELLO_NO_NUMBER)
        return place_new(c, number, detail);
    if (hello->number >= c->options.shards || c->members[hello->number].registered)
        return err_set(detail, DIMFIT_ERR_EXISTS,
                       "shard %u is another cluster's, or its place is taken", hello->number);
    *number = hello->number;
    return DIMFIT_OK;
}

/* Rows on a disk belong to one cluster, spread over so many shards. */
static dimfit_err check_cluster(const struct coordinator *c, const struct hello *hello,
                                struct err_detail *detail) {
    if (hello->cluster == 0)
        return DIMFIT_OK;
    if (hello->cluster != c->cluster)
        return err_set(
            detail, DIMFIT_ERR_STATE,
            "the rows in its folder shard-%u are of cluster %016llx, this is %016llx: give "
            "it another --data-dir, or the coordinator the one it had",
            hello->number, (unsigned long long)hello->cluster, (unsigned long long)c->cluster);
    if (hello->shards == c->options.shards)
        return DIMFIT_OK;
    return err_set(detail, DIMFIT_ERR_STATE,
                   "its rows are of a cluster of %u shards, this one has %zu; give "
                   "the coordinator the old --shards",
                   hello->shards, c->options.shards);
}

/* A shard with rows of an older layout can only follow if it prepared the change to the one in
 * force. */
static dimfit_err check_epoch(const struct coordinator *c, const struct hello *hello,
                              struct err_detail *detail) {
    if (hello->number == HELLO_NO_NUMBER || hello->epoch == c->layout->epoch ||
        hello->prepared_epoch == c->layout->epoch)
        return DIMFIT_OK;
    return err_set(detail, DIMFIT_ERR_STATE,
                   "the shard's rows are of epoch %llu, the cluster is at %llu and the change "
                   "between was never prepared there",
                   (unsigned long long)hello->epoch, (unsigned long long)c->layout->epoch);
}

/* From now on its place is for these rows alone, before anybody pushes to it. */
static dimfit_err keep_place(struct coordinator *c, const struct hello *hello, size_t number,
                             struct err_detail *detail) {
    if (hello->cluster == 0 || c->kept[number])
        return DIMFIT_OK;
    c->kept[number] = true;
    const dimfit_err err = coordinator_save(c, c->layout, &c->undo, detail);
    c->kept[number] = err == DIMFIT_OK;
    return err;
}

static dimfit_err check_hello(struct coordinator *c, const struct hello *hello, uint64_t identity,
                              size_t *number, struct err_detail *detail) {
    dimfit_err err = check_cluster(c, hello, detail);
    if (err == DIMFIT_OK)
        err = check_epoch(c, hello, detail);
    if (err == DIMFIT_OK)
        err = place(c, hello, identity, number, detail);
    return err == DIMFIT_OK ? keep_place(c, hello, *number, detail) : err;
}

static void welcome(struct coordinator *c, const struct asker *asker, size_t number) {
    struct buf buf;
    buf_init(&buf);
    buf_put_u64(&buf, c->cluster);
    buf_put_u32(&buf, (uint32_t)c->options.shards);
    layout_encode(c->layout, &buf);
    struct wire_header reply = {.status = buf_status(&buf), .tag = number};
    coordinator_reply(c, asker, &reply, buf.data, buf.failed ? 0 : buf.len);
    buf_fini(&buf);
}

void members_register(struct coordinator *c, const struct route *from,
                      const struct wire_header *header, const uint8_t *body, size_t len) {
    const struct asker asker = asker_of(from, header);
    struct err_detail detail = {{0}};
    struct hello hello;
    size_t number = 0;
    dimfit_err err = hello_decode(body, len, &hello);
    if (err != DIMFIT_OK)
        err_set(&detail, err, "malformed registration");
    else
        err = check_hello(c, &hello, header->client, &number, &detail);
    if (err != DIMFIT_OK) {
        log_warn("coordinator", "a shard was refused: %s", detail.text);
        coordinator_answer(c, &asker, err, &detail, NULL, 0);
        return;
    }

    const bool is_new = hello.number == HELLO_NO_NUMBER;
    struct member *const member = &c->members[number];
    if (!member->registered || member->pid != hello.pid)
        log_info("coordinator", "shard %zu joins: %s, process %llu", number, hello.endpoint,
                 (unsigned long long)hello.pid);
    *member = (struct member){
        .registered = true,
        .route = *from,
        .identity = header->client,
        .pid = hello.pid,
        .epoch = is_new ? c->layout->epoch : hello.epoch,
        .seen_ms = c->io.now_ms(c->io.self),
    };
    memcpy(c->map->endpoints[number], hello.endpoint, sizeof hello.endpoint);
    c->map->version++;
    c->uneven |= !is_new && (hello.epoch != c->layout->epoch || hello.slots != c->layout->n_slots);
    if (c->next_search < hello.search)
        c->next_search = hello.search; /* another coordinator's: ours are told from it */
    welcome(c, &asker, number);
}

/* A heartbeat from a shard we don't know (we restarted): it is told to register again. */
void members_heartbeat(struct coordinator *c, const struct route *from,
                       const struct wire_header *header) {
    size_t number;
    if (!members_find(c, from, &number)) {
        const struct asker asker = asker_of(from, header);
        coordinator_answer(c, &asker, DIMFIT_ERR_NOT_FOUND, NULL, NULL, 0);
        return;
    }
    c->members[number].seen_ms = c->io.now_ms(c->io.self);
    c->members[number].epoch = header->epoch;
    c->members[number].moving = header->moving;
    if (header->tag == c->search.id) {
        if (header->samples != c->members[number].samples && !c->search.freeze)
            c->search.progress_ms = c->io.now_ms(c->io.self);
        c->members[number].samples = header->samples;
        c->members[number].full = (header->mode & SCORE_FULL) != 0;
    }
    /* It did not hear that the search is over, or the search went with the coordinator before us.
     */
    if (header->mode != 0 && c->search.phase != PHASE_SCORING && !coordinator_frozen(c)) {
        const struct wire_header stop = {
            .kind = WIRE_SCORE_STOP, .phase = c->search.phase, .epoch = c->layout->epoch};
        c->io.send(c->io.self, from, &stop, NULL, 0);
    }
}

static void answer_connect(struct coordinator *c, const struct asker *to) {
    struct buf map, layout, body;
    buf_init(&map);
    buf_init(&layout);
    buf_init(&body);
    cluster_map_encode(c->map, &map);
    layout_encode(c->layout, &layout);
    buf_put_part(&body, &map);
    buf_put_part(&body, &layout);
    coordinator_answer(c, to, body.failed ? DIMFIT_ERR_NOMEM : DIMFIT_OK, NULL, body.data,
                       body.failed ? 0 : body.len);
    buf_fini(&map);
    buf_fini(&layout);
    buf_fini(&body);
}

/* Only a layout that every shard has may reach a worker. */
static bool ready(const struct coordinator *c, struct err_detail *detail) {
    if (!coordinator_complete(c, detail))
        return false;
    if (c->adding == 0 && !c->uneven)
        return true;
    err_set(detail, DIMFIT_ERR_BUSY, "slots are being added on every shard");
    return false;
}

void members_connect(struct coordinator *c, const struct route *from,
                     const struct wire_header *header) {
    const struct asker asker = asker_of(from, header);
    struct err_detail detail;
    if (ready(c, &detail))
        answer_connect(c, &asker);
    else
        coordinator_answer(c, &asker, DIMFIT_ERR_BUSY, &detail, NULL, 0);
}

struct declaration {
    uint32_t slot, dim;
    char name[LAYOUT_NAME_MAX + 1], optimizer[32], init[32];
    bool search;
    double lr, init_scale;
    uint32_t tiers[UINT8_MAX];
    uint8_t n_tiers; /* thresholds; DECLARE_NO_TIERS: not said */
};

static bool declaration_read(struct reader *r, struct declaration *out) {
    out->slot = reader_u32(r);
    out->dim = reader_u32(r);
    reader_str(r, out->name, sizeof out->name);
    out->search = reader_u8(r) != 0;
    reader_str(r, out->optimizer, sizeof out->optimizer);
    out->lr = reader_f64(r);
    reader_str(r, out->init, sizeof out->init);
    out->init_scale = reader_f64(r);
    out->n_tiers = reader_u8(r);
    for (uint32_t i = 0; out->n_tiers != DECLARE_NO_TIERS && i < out->n_tiers; i++)
        out->tiers[i] = reader_u32(r);
    return !r->failed;
}

static dimfit_err declared_tiers(const struct declaration *d, struct layout_slot *spec,
                                 struct err_detail *detail) {
    if (d->n_tiers == DECLARE_NO_TIERS)
        return DIMFIT_OK;
    if (d->n_tiers >= LAYOUT_TIERS_MAX)
        return err_set(detail, DIMFIT_ERR_INVALID, "slot %u: tiers has %u show counts, %d at most",
                       d->slot, d->n_tiers, LAYOUT_TIERS_MAX - 1);
    spec->n_tiers = d->n_tiers + 1u;
    memcpy(spec->tier_shows + 1, d->tiers, d->n_tiers * sizeof *d->tiers);
    return DIMFIT_OK;
}

static dimfit_err declaration_spec(const struct coordinator *c, const struct declaration *d,
                                   struct layout_slot *out, struct err_detail *detail) {
    struct layout_slot spec = c->options.defaults;
    spec.id = d->slot;
    if (d->dim != 0)
        spec.dim = d->dim;
    if (spec.width == 0 || spec.width > spec.dim)
        spec.width = spec.dim;
    if (d->name[0] != 0)
        memcpy(spec.name, d->name, sizeof spec.name);
    else
        snprintf(spec.name, sizeof spec.name, "slot%u", d->slot);
    spec.search = d->search;
    if (d->optimizer[0] != 0 && !optimizer_parse(d->optimizer, &spec.optimizer.kind))
        return err_set(detail, DIMFIT_ERR_INVALID, "slot %u: '%s' is no optimizer", d->slot,
                       d->optimizer);
    if (d->init[0] != 0 && !init_parse(d->init, &spec.init))
        return err_set(detail, DIMFIT_ERR_INVALID, "slot %u: '%s' is no way to initialise", d->slot,
                       d->init);
    if (!isfinite(d->lr) || d->lr < 0 || !isfinite(d->init_scale) || d->init_scale < 0)
        return err_set(detail, DIMFIT_ERR_INVALID, "slot %u: lr and init_scale must be >= 0",
                       d->slot);
    if (d->lr > 0)
        spec.optimizer.lr = (float)d->lr;
    if (d->init_scale > 0)
        spec.init_scale = (float)d->init_scale;
    const dimfit_err err = declared_tiers(d, &spec, detail);
    if (err == DIMFIT_OK)
        *out = spec;
    return err;
}

/* Slots that are there must agree; new ones go into `layout` and are appended to `added`. */
static dimfit_err declare_one(const struct coordinator *c, const struct declaration *d,
                              struct layout *layout, struct buf *added, uint32_t *n_added,
                              struct err_detail *detail) {
    const struct layout_slot *const there = layout_find(layout, d->slot);
    if (there != NULL) {
        if (d->dim != 0 && d->dim != there->dim)
            return err_set(detail, DIMFIT_ERR_WIDTH,
                           "slot %u ('%s') has dim %u in this cluster, the worker wants %u",
                           d->slot, there->name, there->dim, d->dim);
        return DIMFIT_OK;
    }
    if (!c->options.auto_slots)
        return err_set(detail, DIMFIT_ERR_UNKNOWN_SLOT,
                       "slot %u is not in the configuration; list it under 'slots:' or set "
                       "'auto_slots: true'",
                       d->slot);
    if (c->search.phase == PHASE_PREPARING)
        return err_set(detail, DIMFIT_ERR_BUSY, "the layout is changing");
    struct layout_slot spec;
    dimfit_err err = declaration_spec(c, d, &spec, detail);
    if (err == DIMFIT_OK)
        err = layout_add_slot(layout, &spec, detail);
    if (err != DIMFIT_OK)
        return err;
    layout_slot_encode(layout_find(layout, d->slot), added);
    ++*n_added;
    return DIMFIT_OK;
}

static void declare_done(struct coordinator *c, struct op *op) {
    c->adding--;
    c->uneven |= op->err != DIMFIT_OK;
    if (op->err == DIMFIT_OK)
        answer_connect(c, &op->asker);
    else
        coordinator_answer(c, &op->asker, op->err, &op->detail, NULL, 0);
}

/* Send the new slots to every shard; the worker is answered when all have them. */
static dimfit_err add_slots(struct coordinator *c, const struct asker *asker,
                            struct layout **layout, const struct buf *slots, uint32_t n,
                            struct err_detail *detail) {
    struct buf body;
    buf_init(&body);
    buf_put_u32(&body, n);
    buf_put(&body, slots->data, slots->len);
    dimfit_err err = slots->failed ? DIMFIT_ERR_NOMEM : buf_status(&body);
    if (err == DIMFIT_OK)
        err = coordinator_save(c, *layout, &c->undo, detail);
    struct op *op;
    const struct wire_header command = {.kind = WIRE_ADD_SLOTS};
    if (err == DIMFIT_OK)
        err = op_start(c, &command, body.data, body.len, declare_done, &op);
    buf_fini(&body);
    if (err != DIMFIT_OK)
        return err;
    op->asker = *asker;
    c->adding++;
    layout_destroy(&c->layout);
    c->layout = *layout;
    *layout = NULL;
    return DIMFIT_OK;
}

void members_declare(struct coordinator *c, const struct route *from,
                     const struct wire_header *header, const uint8_t *body, size_t len) {
    const struct asker asker = asker_of(from, header);
    struct err_detail detail = {{0}};
    struct layout *layout = NULL;
    struct buf added;
    buf_init(&added);
    uint32_t n_added = 0;
    dimfit_err err = ready(c, &detail) ? DIMFIT_OK : DIMFIT_ERR_BUSY;
    if (err == DIMFIT_OK)
        err = layout_copy(c->layout, &layout);
    struct reader r = reader_of(body, len);
    const uint32_t n = reader_u32(&r);
    for (uint32_t i = 0; err == DIMFIT_OK && i < n; i++) {
        struct declaration d;
        err = declaration_read(&r, &d)
                  ? declare_one(c, &d, layout, &added, &n_added, &detail)
                  : err_set(&detail, DIMFIT_ERR_PROTOCOL, "malformed declaration %u", i);
    }
    if (err == DIMFIT_OK && !reader_done(&r))
        err = err_set(&detail, DIMFIT_ERR_PROTOCOL, "bytes left over after the declarations");
    if (err == DIMFIT_OK && n_added > 0)
        err = add_slots(c, &asker, &layout, &added, n_added, &detail);
    if (err != DIMFIT_OK)
        coordinator_answer(c, &asker, err, &detail, NULL, 0);
    else if (n_added == 0)
        answer_connect(c, &asker);
    layout_destroy(&layout);
    buf_fini(&added);
}

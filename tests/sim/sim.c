#include "tests/sim/sim.h"

#include "proto/buf.h"
#include "server/hello.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    NODE_COORDINATOR = 0,
    NODE_SHARD = 1,
    NODE_WORKER = 1 + SIM_SHARDS_MAX,
    NODES = 1 + SIM_SHARDS_MAX + SIM_WORKERS_MAX
};

enum { PLANS_MAX = 64 };

/* A file of the coordinator's. */
struct saved_plan {
    uint64_t id;
    uint8_t *bytes;
    size_t len;
};

struct message {
    struct message *next;
    uint8_t from, to;
    struct wire_header header;
    size_t len;
    uint8_t body[];
};

struct sim {
    struct sim_options options;
    uint64_t random;
    int64_t now_ms;
    bool faults;
    int lose[SIM_SHARDS_MAX]; /* a kind of command */
    bool idle[SIM_SHARDS_MAX];
    int64_t wall_s;       /* at now_ms 0 */
    struct message *head; /* oldest first */
    struct plan_job *job;
    struct strategies *strategies;
    struct coordinator_options coordinator_options;
    struct coordinator *coordinator;
    struct shard *shards[SIM_SHARDS_MAX];
    uint32_t numbers[SIM_SHARDS_MAX];
    uint8_t *body; /* of the reply a shard is making */
    struct sim_reply replies[SIM_WORKERS_MAX];
    bool answered[SIM_WORKERS_MAX];
    uint64_t asked[SIM_WORKERS_MAX];
    uint8_t *saved;
    size_t saved_len;
    uint8_t *trials;
    size_t trials_len;
    size_t n_plans;
    struct saved_plan plans[PLANS_MAX];
    bool chaos;
    bool dead; /* the coordinator; comes back at: */
    int64_t back_ms;
    size_t crashes;
    int lost; /* the shard that lost its memory, -1: none */
    int64_t replace_ms;
};

static void *sure(void *memory) {
    base_assert(memory != NULL);
    return memory;
}

static uint64_t draw(struct sim *sim) {
    uint64_t z = sim->random += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static bool chance(struct sim *sim, double p) {
    return sim->faults && (double)(draw(sim) >> 11) * 0x1p-53 < p;
}

/* One time in n, while anything may fail. */
static bool mishap(struct sim *sim, uint64_t n) {
    return sim->chaos && draw(sim) % n == 0;
}

static void append(struct sim *sim, int from, int to, const struct wire_header *header,
                   const void *body, size_t len) {
    struct message *const m = sure(calloc(1, sizeof *m + len));
    m->from = (uint8_t)from;
    m->to = (uint8_t)to;
    /* Through the codec, so that what can't be encoded can't be relied on. */
    uint8_t bytes[WIRE_HEADER_MAX];
    const size_t n = wire_encode(header, bytes);
    base_assert(wire_decode(bytes, n, &m->header, NULL) == DIMFIT_OK);
    m->len = len;
    if (len > 0)
        memcpy(m->body, body, len);
    struct message **at = &sim->head;
    while (*at != NULL)
        at = &(*at)->next;
    *at = m;
}

static void post(struct sim *sim, int from, int to, const struct wire_header *header,
                 const void *body, size_t len) {
    if (chance(sim, sim->options.drop))
        return;
    append(sim, from, to, header, body, len);
    if (chance(sim, sim->options.repeat))
        append(sim, from, to, header, body, len);
}

/* ---- what the cores see ---------------------------------------------------------------------- */

static struct route route_of(int node) {
    return (struct route){.len = 1, .id = {(uint8_t)node}};
}

static void io_send(void *self, const struct route *to, const struct wire_header *header,
                    const void *body, size_t len) {
    struct sim *const sim = self;
    const int node = to->id[0];
    if (sim->dead)
        return;
    if (node >= NODE_WORKER || sim->lose[node - NODE_SHARD] != (int)header->kind)
        post(sim, NODE_COORDINATOR, node, header, body, len);
}

static int64_t io_now_ms(void *self) {
    return ((const struct sim *)self)->now_ms;
}

static int64_t io_wall_s(void *self) {
    const struct sim *const sim = self;
    return sim->wall_s + sim->now_ms / 1000;
}

static void kill_coordinator(struct sim *sim) {
    sim->dead = true;
    sim->crashes++;
    sim->back_ms = sim->now_ms + (int64_t)(draw(sim) % 2000);
}

/* What a dead one does in the rest of its event reaches nobody. */
static bool disk_fails(struct sim *sim, struct err_detail *detail) {
    const bool dies = mishap(sim, 25);
    if (dies)
        kill_coordinator(sim);
    if (!sim->dead && !mishap(sim, 25))
        return false;
    err_set(detail, DIMFIT_ERR_IO, "the disk is full");
    return true;
}

static dimfit_err io_save(void *self, const void *bytes, size_t len, struct err_detail *detail) {
    struct sim *const sim = self;
    if (disk_fails(sim, detail))
        return DIMFIT_ERR_IO;
    free(sim->saved);
    sim->saved = sure(malloc(len));
    memcpy(sim->saved, bytes, len);
    sim->saved_len = len;
    if (mishap(sim, 20))
        kill_coordinator(sim);
    return DIMFIT_OK;
}

static struct saved_plan *find_plan(struct sim *sim, uint64_t id) {
    for (size_t i = 0; i < sim->n_plans; i++) {
        if (sim->plans[i].id == id)
            return &sim->plans[i];
    }
    return NULL;
}

static dimfit_err io_keep_trials(void *self, const void *bytes, size_t len,
                                 struct err_detail *detail) {
    struct sim *const sim = self;
    free(sim->trials);
    sim->trials = sure(malloc(len + 1));
    if (len > 0)
        memcpy(sim->trials, bytes, len);
    sim->trials_len = len;
    return DIMFIT_OK;
}

static dimfit_err io_kept_trials(void *self, struct buf *out, struct err_detail *detail) {
    const struct sim *const sim = self;
    if (sim->trials_len == 0)
        return DIMFIT_ERR_NOT_FOUND;
    buf_put(out, sim->trials, sim->trials_len);
    return buf_status(out);
}

static dimfit_err io_save_plan(void *self, uint64_t id, const void *bytes, size_t len,
                               struct err_detail *detail) {
    struct sim *const sim = self;
    if (disk_fails(sim, detail))
        return DIMFIT_ERR_IO;
    struct saved_plan *plan = find_plan(sim, id);
    if (plan == NULL && bytes == NULL)
        return DIMFIT_OK;
    if (plan == NULL) {
        base_assert(sim->n_plans < PLANS_MAX);
        plan = &sim->plans[sim->n_plans++];
    } else {
        free(plan->bytes);
    }
    if (bytes == NULL) {
        *plan = sim->plans[--sim->n_plans];
        return DIMFIT_OK;
    }
    *plan = (struct saved_plan){id, sure(malloc(len)), len};
    memcpy(plan->bytes, bytes, len);
    return DIMFIT_OK;
}

static void io_plan(void *self, struct plan_job *job) {
    struct sim *const sim = self;
    base_assert(sim->job == NULL);
    sim->job = job;
}

static void io_stop(void *self) {
}

static uint8_t *io_body(void *self, size_t len) {
    struct sim *const sim = self;
    base_assert(sim->body == NULL);
    return sim->body = sure(malloc(len));
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static void shard_answer(struct sim *sim, int node, const struct message *m) {
    struct shard *const shard = sim->shards[node - NODE_SHARD];
    struct shard_reply reply;
    if (m->from == NODE_COORDINATOR)
        shard_command(shard, &m->header, m->body, m->len, &reply);
    else
        shard_request(shard, &m->header, m->body, m->len, &reply);
    if (reply.later)
        return;
    post(sim, node, m->from, &reply.header, sim->body, reply.len);
    free(sim->body);
    sim->body = NULL;
}

/* A slice between messages, and what became due by it. */
static void shard_slice(struct sim *sim, size_t i) {
    struct shard_reply reply;
    (void)shard_work(sim->shards[i]);
    while (shard_due(sim->shards[i], &reply)) {
        post(sim, NODE_SHARD + (int)i, NODE_COORDINATOR, &reply.header, sim->body, reply.len);
        free(sim->body);
        sim->body = NULL;
    }
}

static void shard_begin(struct sim *sim, int node, const struct message *m) {
    const uint64_t memory = sim->options.score_memory;
    const struct shard_options options = {
        .score_memory = memory != 0 ? memory : 1 << 24,
        .row_memory = sim->options.row_memory,
        .skip_new = sim->options.skip_new,
        .keep = true,
        .score_sample = 1,
    };
    const struct shard_io io = {.self = sim, .body = io_body};
    struct layout *layout = NULL;
    base_assert(m->header.status == DIMFIT_OK);
    struct reader r = reader_of(m->body, m->len);
    (void)reader_u64(&r); /* the cluster */
    base_assert(reader_u32(&r) == sim->options.shards);
    base_assert(layout_decode(r.data, r.left, &layout, NULL) == DIMFIT_OK);
    base_assert(shard_new(layout, &options, &io, &sim->shards[node - NODE_SHARD]) == DIMFIT_OK);
    sim->numbers[node - NODE_SHARD] = (uint32_t)m->header.tag;
    layout_destroy(&layout);
}

static void say_hello(struct sim *sim, size_t shard) {
    struct hello hello = {.number = HELLO_NO_NUMBER, .pid = 1};
    snprintf(hello.endpoint, sizeof hello.endpoint, "sim://%zu", shard);
    if (sim->shards[shard] != NULL) {
        hello.number = sim->numbers[shard];
        hello.epoch = shard_epoch(sim->shards[shard]);
        hello.prepared_epoch = shard_prepared_epoch(sim->shards[shard]);
        hello.search = shard_search(sim->shards[shard]);
        hello.slots = (uint32_t)shard_slots(sim->shards[shard]);
    }
    struct buf buf;
    buf_init(&buf);
    hello_encode(&hello, &buf);
    const uint64_t life = sim->lost == (int)shard ? 2 : 1;
    const struct wire_header header = {.kind = WIRE_REGISTER, .client = 100 * life + shard};
    append(sim, NODE_SHARD + (int)shard, NODE_COORDINATOR, &header, buf.data, buf.len);
    buf_fini(&buf);
}

static void worker_hear(struct sim *sim, size_t worker, const struct message *m) {
    if (m->header.request != sim->asked[worker] || sim->answered[worker])
        return;
    struct sim_reply *const reply = &sim->replies[worker];
    free(reply->body);
    reply->header = m->header;
    reply->len = m->len;
    reply->body = sure(malloc(m->len + 1));
    memcpy(reply->body, m->body, m->len);
    sim->answered[worker] = true;
}

static void deliver(struct sim *sim, const struct message *m) {
    if (m->to == NODE_COORDINATOR && !sim->dead) {
        const struct route from = route_of(m->from);
        coordinator_receive(sim->coordinator, &from, &m->header, m->body, m->len);
    } else if (m->to == NODE_COORDINATOR) {
        return;
    } else if (m->to >= NODE_WORKER) {
        worker_hear(sim, (size_t)m->to - NODE_WORKER, m);
    } else if (m->header.kind == WIRE_HEARTBEAT) {
        say_hello(sim, (size_t)m->to - NODE_SHARD);
    } else if (m->header.kind == WIRE_REGISTER) {
        if (sim->shards[m->to - NODE_SHARD] == NULL)
            shard_begin(sim, m->to, m);
    } else if (sim->shards[m->to - NODE_SHARD] != NULL && !m->header.reply) {
        shard_answer(sim, m->to, m);
    }
}

/* One message, drawn among the oldest of each pair of nodes. */
static bool deliver_one(struct sim *sim) {
    bool seen[NODES][NODES] = {{false}};
    struct message **pick = NULL;
    uint64_t n = 0;
    for (struct message **at = &sim->head; *at != NULL; at = &(*at)->next) {
        if (seen[(*at)->from][(*at)->to])
            continue;
        seen[(*at)->from][(*at)->to] = true;
        if (draw(sim) % ++n == 0)
            pick = at;
    }
    if (pick == NULL)
        return false;
    struct message *const m = *pick;
    *pick = m->next;
    deliver(sim, m);
    free(m);
    return true;
}

/* A shard with work between messages, drawn; SIZE_MAX: none has any. */
static size_t busy_shard(struct sim *sim) {
    size_t pick = SIZE_MAX;
    uint64_t n = 0;
    for (size_t i = 0; i < sim->options.shards; i++) {
        if (sim->shards[i] != NULL && !sim->idle[i] && shard_has_work(sim->shards[i]) &&
            draw(sim) % ++n == 0)
            pick = i;
    }
    return pick;
}

static void drop_messages(struct sim *sim, int node) {
    for (struct message **at = &sim->head, *m; (m = *at) != NULL;) {
        if (m->from != node && m->to != node) {
            at = &m->next;
            continue;
        }
        *at = m->next;
        free(m);
    }
}

static void kill_shard(struct sim *sim, size_t shard) {
    sim->lost = (int)shard;
    sim->replace_ms = sim->now_ms + (int64_t)(draw(sim) % 8000);
    shard_destroy(&sim->shards[shard]);
    drop_messages(sim, NODE_SHARD + (int)shard);
}

static void fail_somewhere(struct sim *sim) {
    if (!sim->dead && mishap(sim, 2000))
        kill_coordinator(sim);
    if (sim->lost < 0 && mishap(sim, 8000))
        kill_shard(sim, draw(sim) % sim->options.shards);
}

static void settle(struct sim *sim) {
    while (!mishap(sim, 30)) { /* the rest is late */
        fail_somewhere(sim);
        if (sim->dead)
            plan_job_destroy(&sim->job);
        const size_t busy = busy_shard(sim);
        if (sim->job != NULL && draw(sim) % 4 == 0) {
            struct plan_job *job = sim->job;
            sim->job = NULL;
            plan_job_run(job);
            coordinator_planned(sim->coordinator, &job);
        } else if (busy != SIZE_MAX && (sim->head == NULL || draw(sim) % 2 == 0)) {
            shard_slice(sim, busy);
        } else if (!deliver_one(sim) && sim->job == NULL) {
            return;
        }
    }
}

static void heartbeats(struct sim *sim) {
    for (size_t i = 0; i < sim->options.shards; i++) {
        if (sim->shards[i] == NULL)
            continue;
        const struct wire_header header = shard_heartbeat(sim->shards[i]);
        post(sim, NODE_SHARD + (int)i, NODE_COORDINATOR, &header, NULL, 0);
    }
}

/* The shards that live come first, so that the new one has the place of the one that is gone. */
static void replace_shard(struct sim *sim) {
    const bool faults = sim->faults, chaos = sim->chaos;
    const size_t lost = (size_t)sim->lost;
    sim->faults = sim->chaos = false;
    sim_restart_coordinator(sim, NULL);
    for (size_t i = 0; i < sim->options.shards; i++) {
        if (i != lost)
            say_hello(sim, i);
    }
    settle(sim);
    say_hello(sim, lost);
    settle(sim);
    base_assert(sim->shards[lost] != NULL && sim->numbers[lost] == lost);
    sim->faults = faults;
    sim->chaos = chaos;
}

static void bring_back(struct sim *sim) {
    if (sim->lost >= 0 && sim->shards[sim->lost] == NULL && sim->now_ms >= sim->replace_ms)
        replace_shard(sim);
    else if (sim->dead && sim->now_ms >= sim->back_ms)
        sim_restart_coordinator(sim, NULL);
}

void sim_chaos(struct sim *sim, bool on) {
    sim->chaos = on;
    if (on)
        return;
    sim->back_ms = sim->replace_ms = sim->now_ms;
    bring_back(sim);
    bring_back(sim);
}

bool sim_shard_lost(const struct sim *sim, size_t shard) {
    return sim->lost == (int)shard;
}

size_t sim_crashes(const struct sim *sim) {
    return sim->crashes;
}

uint64_t sim_draw(struct sim *sim) {
    return draw(sim);
}

void sim_run(struct sim *sim, int64_t ms) {
    const int64_t until = sim->now_ms + ms;
    settle(sim);
    while (sim->now_ms < until) {
        sim->now_ms += 100;
        bring_back(sim);
        heartbeats(sim);
        if (!sim->dead)
            coordinator_tick(sim->coordinator);
        settle(sim);
    }
}

void sim_tell(struct sim *sim, size_t worker, const struct wire_header *header) {
    append(sim, NODE_WORKER + (int)worker, NODE_COORDINATOR, header, NULL, 0);
}

const struct sim_reply *sim_ask(struct sim *sim, size_t worker, int shard,
                                struct wire_header *header, const void *body, size_t len) {
    const int to = shard < 0 ? NODE_COORDINATOR : NODE_SHARD + shard;
    header->client = worker + 1;
    header->incarnation = 1;
    header->request = ++sim->asked[worker];
    sim->answered[worker] = false;
    for (int tries = 0; !sim->answered[worker]; tries++) {
        base_assert(tries < 1000);
        if (shard >= 0 && sim->shards[shard] == NULL) {
            sim->replies[worker].header = (struct wire_header){.status = DIMFIT_ERR_UNREACHABLE};
            break;
        }
        post(sim, NODE_WORKER + (int)worker, to, header, body, len);
        sim_run(sim, 100);
    }
    return &sim->replies[worker];
}

/* ---- life ------------------------------------------------------------------------------------ */

static void join(struct sim *sim, size_t shard) {
    say_hello(sim, shard);
    settle(sim);
    base_assert(sim->shards[shard] != NULL && sim->numbers[shard] == shard);
}

/* Restoring may write and remove plans. */
static void restore_plans(struct sim *sim) {
    uint64_t ids[PLANS_MAX];
    const size_t n = sim->n_plans;
    for (size_t i = 0; i < n; i++)
        ids[i] = sim->plans[i].id;
    for (size_t i = 0; i < n; i++) {
        const struct saved_plan *const plan = find_plan(sim, ids[i]);
        struct buf bytes;
        buf_init(&bytes);
        if (plan != NULL) {
            buf_put(&bytes, plan->bytes, plan->len);
            base_assert(coordinator_restore_plan(sim->coordinator, bytes.data, bytes.len, NULL) ==
                        DIMFIT_OK);
        }
        buf_fini(&bytes);
    }
}

static void begin_coordinator(struct sim *sim) {
    const struct coordinator_io io = {
        .self = sim,
        .send = io_send,
        .now_ms = io_now_ms,
        .wall_s = io_wall_s,
        .save = io_save,
        .save_plan = io_save_plan,
        .keep_trials = io_keep_trials,
        .kept_trials = io_kept_trials,
        .plan = io_plan,
        .stop = io_stop,
    };
    struct buf state;
    buf_init(&state);
    buf_put(&state, sim->saved, sim->saved_len);
    base_assert(coordinator_new(&sim->coordinator_options, &io, state.data, state.len,
                                &sim->coordinator, NULL) == DIMFIT_OK);
    buf_fini(&state);
    restore_plans(sim);
}

void sim_restart_coordinator(struct sim *sim, const struct layout_slot *more) {
    const bool chaos = sim->chaos;
    sim->chaos = sim->dead = false; /* one that can't begin would be begun again */
    coordinator_destroy(&sim->coordinator);
    plan_job_destroy(&sim->job);
    drop_messages(sim, NODE_COORDINATOR);
    if (more != NULL)
        sim->options.slots[sim->coordinator_options.n_slots++] = *more;
    begin_coordinator(sim);
    sim->chaos = chaos;
}

void sim_idle(struct sim *sim, size_t shard, bool on) {
    sim->idle[shard] = on;
}

void sim_set_clock(struct sim *sim, int64_t wall_s) {
    sim->wall_s = wall_s - sim->now_ms / 1000;
}

void sim_lose(struct sim *sim, size_t shard, int kind) {
    sim->lose[shard] = kind;
}

struct sim *sim_new(const struct sim_options *options) {
    struct sim *const sim = sure(calloc(1, sizeof *sim));
    sim->options = *options;
    sim->wall_s = options->wall_s;
    sim->random = options->seed;
    sim->lost = -1;
    struct err_detail detail = {{0}};
    if (strategies_load(STRATEGIES_BUILT, &sim->strategies, &detail) != DIMFIT_OK)
        fprintf(stderr, "%s\n", detail.text);
    sim->coordinator_options = (struct coordinator_options){
        .shards = options->shards,
        .seed = 7,
        .cluster = 77,
        .auto_slots = options->auto_slots,
        .defaults = options->slots[0],
        .n_slots = options->n_slots,
        .slots = sim->options.slots,
        .scoring_timeout_ms = 60000,
        .step_timeout_ms = 5000,
        .shrink_at = options->shrink_at,
        .strategies = sure(sim->strategies),
    };
    begin_coordinator(sim);
    for (size_t i = 0; i < options->shards; i++)
        join(sim, i);
    return sim;
}

void sim_free(struct sim *sim) {
    while (sim->head != NULL) {
        struct message *const m = sim->head;
        sim->head = m->next;
        free(m);
    }
    plan_job_destroy(&sim->job);
    coordinator_destroy(&sim->coordinator);
    for (size_t i = 0; i < sim->options.shards; i++)
        shard_destroy(&sim->shards[i]);
    for (size_t i = 0; i < SIM_WORKERS_MAX; i++)
        free(sim->replies[i].body);
    strategies_destroy(&sim->strategies);
    free(sim->trials);
    for (size_t i = 0; i < sim->n_plans; i++)
        free(sim->plans[i].bytes);
    free(sim->saved);
    free(sim);
}

void sim_faults(struct sim *sim, bool on) {
    sim->faults = on;
}

uint64_t sim_shard_epoch(const struct sim *sim, size_t shard) {
    return shard_epoch(sim->shards[shard]);
}

size_t sim_shard_of(uint32_t slot, uint64_t feasign, size_t shards) {
    struct cluster_map *map = NULL;
    base_assert(cluster_map_new(shards, &map) == DIMFIT_OK);
    const size_t shard = cluster_map_shard(map, key_hash(slot, feasign));
    cluster_map_destroy(&map);
    return shard;
}

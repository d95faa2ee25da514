/*
 * What every shard must have, sent until it has: the commit of the epoch in force and the slots of
 * its layout. A command may be lost with a connection, and a coordinator may end between its state
 * file and the last shard.
 */
#include "server/coordinator_internal.h"

#include "server/log.h"

enum { REPEAT_MS = 1000 };

static bool behind(const struct coordinator *c) {
    for (size_t i = 0; i < c->options.shards; i++) {
        if (c->members[i].epoch < c->layout->epoch)
            return true;
    }
    return false;
}

static void commit_done(struct coordinator *c, struct op *op) {
    c->committing = false;
    if (op->err != DIMFIT_OK) {
        log_warn("coordinator", "commit of epoch %llu is repeated: %s",
                 (unsigned long long)op->command.tag, op->detail.text);
        search_commit_delayed(c, op->err, &op->detail);
    } else if (op->command.tag == c->layout->epoch) {
        search_committed(c);
    }
}

void catch_up_commit(struct coordinator *c) {
    const struct wire_header commit = {.kind = WIRE_COMMIT, .tag = c->layout->epoch};
    c->repeat_ms = c->io.now_ms(c->io.self) + REPEAT_MS;
    c->committing = op_start(c, &commit, NULL, 0, commit_done, NULL) == DIMFIT_OK;
}

static void slots_done(struct coordinator *c, struct op *op) {
    c->adding--;
    c->uneven |= op->err != DIMFIT_OK;
    if (op->err != DIMFIT_OK)
        log_warn("coordinator", "the layout's slots are sent again: %s", op->detail.text);
}

/* All slots: a shard passes over those that it has. */
static void send_slots(struct coordinator *c) {
    struct buf body;
    buf_init(&body);
    buf_put_u32(&body, (uint32_t)c->layout->n_slots);
    for (size_t i = 0; i < c->layout->n_slots; i++)
        layout_slot_encode(&c->layout->slots[i], &body);
    const struct wire_header command = {.kind = WIRE_ADD_SLOTS};
    c->repeat_ms = c->io.now_ms(c->io.self) + REPEAT_MS;
    if (!body.failed && op_start(c, &command, body.data, body.len, slots_done, NULL) == DIMFIT_OK) {
        c->adding++;
        c->uneven = false;
    }
    buf_fini(&body);
}

void catch_up_tick(struct coordinator *c, int64_t now) {
    if (now < c->repeat_ms || !coordinator_complete(c, NULL))
        return;
    if (behind(c)) {
        if (!c->committing)
            catch_up_commit(c);
        return;
    }
    if (!c->committing)
        search_committed(c); /* heartbeats say so: an answer was lost */
    if (c->uneven && c->adding == 0 && c->search.phase != PHASE_PREPARING)
        send_slots(c);
}

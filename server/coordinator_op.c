#include "server/coordinator_internal.h"

#include <stdlib.h>

enum { SUMS_TIMEOUTS = 10 };

static void op_destroy(struct coordinator *c, struct op *op) {
    stats_destroy(&op->stats);
    for (size_t i = 0; op->figures != NULL && i < c->options.shards; i++)
        shard_figures_fini(&op->figures[i]);
    free(op->figures);
    free(op);
}

void op_list_destroy(struct coordinator *c) {
    while (c->ops != NULL) {
        struct op *const op = c->ops;
        c->ops = op->next;
        op_destroy(c, op);
    }
}

size_t op_count(const struct coordinator *c) {
    size_t n = 0;
    for (const struct op *op = c->ops; op != NULL; op = op->next)
        n++;
    return n;
}

/* Unlink before the continuation runs: it may start the next operation. */
static void op_finish(struct coordinator *c, struct op *op) {
    struct op **at = &c->ops;
    while (*at != op)
        at = &(*at)->next;
    *at = op->next;
    op->done(c, op);
    op_destroy(c, op);
}

dimfit_err op_start(struct coordinator *c, const struct wire_header *command, const void *body,
                    size_t len, op_done *done, struct op **out) {
    struct op *const op = calloc(1, sizeof *op);
    if (op == NULL)
        return DIMFIT_ERR_NOMEM;
    if (command->kind == WIRE_GATHER && (command->mode & GATHER_FIGURES) != 0) {
        op->figures = calloc(c->options.shards, sizeof *op->figures);
        if (op->figures == NULL) {
            free(op);
            return DIMFIT_ERR_NOMEM;
        }
    }
    op->id = ++c->next_op;
    op->command = *command;
    op->command.request = op->id;
    op->command.phase = c->search.phase;
    op->command.epoch = c->layout->epoch;
    /* Sums over the rows are added up between requests, however many there are. */
    const bool sums = command->kind == WIRE_GATHER &&
                      (command->mode & (GATHER_MOMENTS | GATHER_LOOKUPS)) != 0;
    op->began_ms = c->io.now_ms(c->io.self);
    op->deadline_ms = op->began_ms + (sums ? SUMS_TIMEOUTS : 1) * c->options.step_timeout_ms;
    op->missing = c->options.shards;
    op->done = done;
    op->next = c->ops;
    c->ops = op;
    for (size_t i = 0; i < c->options.shards; i++)
        c->io.send(c->io.self, &c->members[i].route, &op->command, body, len);
    if (out != NULL)
        *out = op;
    return DIMFIT_OK;
}

static dimfit_err take_body(struct op *op, size_t shard, const uint8_t *body, size_t len,
                            struct err_detail *detail) {
    if (op->command.kind != WIRE_GATHER)
        return DIMFIT_OK;
    if (op->figures != NULL)
        return shard_figures_decode(body, len, &op->figures[shard]);
    struct stats *part = NULL;
    dimfit_err err = stats_decode(body, len, &part, detail);
    if (err != DIMFIT_OK)
        return err;
    if (op->stats == NULL) {
        op->stats = part;
        return DIMFIT_OK;
    }
    err = stats_merge(op->stats, part, detail);
    stats_destroy(&part);
    return err;
}

void op_reply(struct coordinator *c, size_t shard, const struct wire_header *header,
              const uint8_t *body, size_t len) {
    c->members[shard].seen_ms = c->io.now_ms(c->io.self);
    c->members[shard].epoch = header->epoch;
    struct op *op = c->ops;
    while (op != NULL && op->id != header->request)
        op = op->next;
    if (op == NULL || op->answered[shard])
        return;
    op->answered[shard] = true;
    op->missing--;
    struct err_detail detail = header->detail;
    dimfit_err err = header->status;
    if (err == DIMFIT_OK)
        err = take_body(op, shard, body, len, &detail);
    /* One that is busy can be asked again; another reason tells more. */
    if (err != DIMFIT_OK && (op->err == DIMFIT_OK || op->err == DIMFIT_ERR_BUSY)) {
        op->err = err;
        err_set(&op->detail, err, "shard %zu: %.300s", shard,
                detail.text[0] != 0 ? detail.text : err_text(err));
    }
    if (op->missing == 0)
        op_finish(c, op);
}

/* The first shard that owes an answer is named: it is where the operator looks. */
void op_tick(struct coordinator *c, int64_t now) {
    for (struct op *op = c->ops, *next; op != NULL; op = next) {
        next = op->next;
        if (now < op->deadline_ms)
            continue;
        size_t silent = 0;
        while (op->answered[silent])
            silent++;
        op->err = err_set(&op->detail, DIMFIT_ERR_TIMEOUT,
                          "shard %zu at %s did not answer %s within %.0f s", silent,
                          c->map->endpoints[silent], wire_kind_name(op->command.kind),
                          (double)(op->deadline_ms - op->began_ms) / 1000);
        op_finish(c, op);
        next = c->ops; /* the continuation may have changed the list */
        if (c->stopping)
            break;
    }
}

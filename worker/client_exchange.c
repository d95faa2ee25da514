#include "worker/client_internal.h"

#include <stdio.h>

enum {
    FIRST_WAIT_MS = 1000, /* a silent shard is asked again after so long, then twice as long ... */
    LONGEST_WAIT_MS = 8000,
    FIND_MS = 250, /* for the coordinator to say where a silent shard is now */
    FIRST_BACKOFF_MS = 1,
    LONGEST_BACKOFF_MS = 100,
};

void exchange_fini(struct exchange *x) {
    for (size_t i = 0; i < x->n_parts; i++) {
        view_drop(&x->parts[i].view);
        zmq_msg_close(&x->parts[i].body);
        zmq_msg_close(&x->parts[i].answer);
    }
}

static void fail(struct part *part, dimfit_err err, const struct link *link, const char *text) {
    const struct err_detail why = part->detail; /* text may stand in there */
    const bool own = text == part->detail.text;
    part->state = PART_FAILED;
    part->err = err;
    err_set(&part->detail, err, "shard %zu at %s: %.250s", part->shard, link->endpoint,
            own ? why.text : text);
}

/* The message stays with the part: ZeroMQ counts the references to its bytes. */
static bool send_part(const struct link *link, const struct part *part) {
    uint8_t header[WIRE_HEADER_MAX];
    const size_t len = wire_encode(&part->header, header);
    zmq_msg_t body;
    zmq_msg_init(&body);
    zmq_msg_copy(&body, (zmq_msg_t *)&part->body);
    const bool sent = zmq_send(link->socket, header, len, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0 &&
                      zmq_msg_send(&body, link->socket, ZMQ_DONTWAIT) >= 0;
    zmq_msg_close(&body);
    return sent;
}

static void make_and_send(struct dimfit *c, struct exchange *x, struct part *part, int64_t now) {
    struct link *const link = &c->links[part->shard];
    zmq_msg_close(&part->body);
    zmq_msg_init(&part->body);
    part->header = (struct wire_header){
        .client = c->client,
        .incarnation = link->incarnation,
        .seq = x->recorded ? link->seq + 1 : 0,
        .epoch = c->view->shown.epoch,
        .request = ++c->next_request,
        .timeout_ms = (uint32_t)c->timeout_ms,
    };
    view_drop(&part->view);
    part->view = view_hold(c->view);
    const dimfit_err err = x->make(c, x, part);
    if (err != DIMFIT_OK) {
        fail(part, err, link, part->detail.text[0] != 0 ? part->detail.text : err_text(err));
        return;
    }
    part->err = DIMFIT_OK;
    part->state = PART_WAITING;
    part->sent |= send_part(link, part);
    part->repeated = false;
    part->wait_ms = FIRST_WAIT_MS;
    part->due_ms = now + part->wait_ms;
}

static void back_off(struct part *part, int64_t now) {
    part->backoff_ms = part->backoff_ms == 0 ? FIRST_BACKOFF_MS : 2 * part->backoff_ms;
    if (part->backoff_ms > LONGEST_BACKOFF_MS)
        part->backoff_ms = LONGEST_BACKOFF_MS;
    part->state = PART_BACKOFF;
    part->due_ms = now + part->backoff_ms;
}

/* Leave a numbering behind whose last number may or may not be taken: what is still under way must
 * not be mistaken for the next request, nor be applied after the caller was told. */
static void fence(struct link *link) {
    link->incarnation++;
    link->seq = 0;
}

/* An answer that leaves the number unused: the shard did not take the request. A second copy of it
 * may meet another answer. */
static void refused(struct exchange *x, struct link *link, struct part *part, int64_t now) {
    if (x->recorded && part->repeated)
        fence(link);
    part->sent = false;
    if (part->err == DIMFIT_ERR_FROZEN && !x->hold)
        part->state = PART_HELD;
    else
        back_off(part, now);
}

static void take_answer(struct dimfit *c, struct exchange *x, struct part *part,
                        const struct wire_header *header, zmq_msg_t *body, int64_t now) {
    struct link *const link = &c->links[part->shard];
    struct layout *layout = NULL;
    part->err = header->status;
    part->detail = header->detail;
    switch (header->status) {
    case DIMFIT_OK:
        zmq_msg_move(&part->answer, body);
        part->err = x->take(c, x, part, header);
        part->state = PART_DONE;
        if (part->err != DIMFIT_OK)
            fail(part, part->err, link, part->detail.text);
        break;
    case DIMFIT_ERR_STALE_EPOCH:
        part->sent = false;
        part->err = layout_decode(zmq_msg_data(body), zmq_msg_size(body), &layout, &part->detail);
        if (part->err == DIMFIT_OK)
            part->err = client_take_layout(c, layout);
        if (part->err != DIMFIT_OK)
            fail(part, part->err, link, "no usable layout came with the answer");
        else
            make_and_send(c, x, part, now);
        return; /* the number is still unused */
    case DIMFIT_ERR_EPOCH_AHEAD:
    case DIMFIT_ERR_FROZEN:
        refused(x, link, part, now);
        return;
    case DIMFIT_ERR_SEQ_GAP:
        fail(part, DIMFIT_ERR_FENCED, link,
             "it does not know this client's earlier requests: it has been started anew; "
             "connect again");
        return;
    default:
        fail(part, part->err, link,
             header->detail.text[0] != 0 ? header->detail.text : err_text(header->status));
        break;
    }
    if (x->recorded)
        link->seq++;
}

/* ---- receiving ------------------------------------------------------------------------------- */

static bool receive_header(struct link *link, zmq_msg_t *part, struct wire_header *header) {
    if (zmq_msg_recv(part, link->socket, ZMQ_DONTWAIT) < 0)
        return false;
    if (wire_decode(zmq_msg_data(part), zmq_msg_size(part), header, NULL) != DIMFIT_OK)
        header->request = 0; /* nobody's */
    return true;
}

/* The frame after the header, empty where there is none; false when there are more than that. */
static bool receive_body(struct link *link, zmq_msg_t *frame) {
    if (!zmq_msg_more(frame)) {
        zmq_msg_close(frame);
        zmq_msg_init(frame);
        return true;
    }
    bool good = zmq_msg_recv(frame, link->socket, 0) >= 0;
    while (zmq_msg_more(frame)) {
        good = false;
        if (zmq_msg_recv(frame, link->socket, 0) < 0)
            break;
    }
    return good;
}

/* Every message that is there; late answers to what was given up on are dropped by their number. */
static void receive_all(struct dimfit *c, struct exchange *x, struct part *part, int64_t now) {
    struct link *const link = &c->links[part->shard];
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    struct wire_header header;
    while (receive_header(link, &frame, &header)) {
        if (!receive_body(link, &frame))
            header.request = 0;
        if (!header.reply || header.request != part->header.request || part->state != PART_WAITING)
            continue;
        link->heard = true;
        client_heard(c, &header);
        take_answer(c, x, part, &header, &frame, now);
    }
    zmq_msg_close(&frame);
}

static int64_t wait_for_events(struct dimfit *c, struct exchange *x, int64_t now,
                               int64_t deadline) {
    zmq_pollitem_t items[CLUSTER_SHARDS_MAX];
    size_t parts[CLUSTER_SHARDS_MAX];
    int n = 0;
    int64_t until = deadline;
    for (size_t i = 0; i < x->n_parts; i++) {
        const struct part *const part = &x->parts[i];
        if (part->state != PART_WAITING && part->state != PART_BACKOFF)
            continue;
        until = part->due_ms < until ? part->due_ms : until;
        if (part->state == PART_BACKOFF)
            continue;
        parts[n] = i;
        items[n++] = (zmq_pollitem_t){
            .socket = c->links[part->shard].socket,
            .events = ZMQ_POLLIN,
        };
    }
    zmq_poll(items, n, until > now ? (long)(until - now) : 0);
    now = client_now_ms();
    for (int i = 0; i < n; i++) {
        if (items[i].revents != 0)
            receive_all(c, x, &x->parts[parts[i]], now);
    }
    return now;
}

/* ---- deadlines ------------------------------------------------------------------------------- */

/* A shard may be silent because it is elsewhere by now: the coordinator is asked before it is. */
static void repeat(struct dimfit *c, struct part *part, int64_t now, bool *asked) {
    const int64_t left = c->deadline_ms - now;
    if (!*asked)
        client_find_shards(c, left < FIND_MS ? left : FIND_MS);
    *asked = part->repeated = true;
    part->sent |= send_part(&c->links[part->shard], part);
    part->wait_ms = 2 * part->wait_ms < LONGEST_WAIT_MS ? 2 * part->wait_ms : LONGEST_WAIT_MS;
    part->due_ms = now + part->wait_ms;
}

static void repeat_due(struct dimfit *c, struct exchange *x, int64_t now) {
    bool asked = false;
    for (size_t i = 0; i < x->n_parts; i++) {
        struct part *const part = &x->parts[i];
        if (now < part->due_ms || now >= c->deadline_ms)
            continue;
        if (part->state == PART_BACKOFF) {
            make_and_send(c, x, part, now);
        } else if (part->state == PART_WAITING) {
            repeat(c, part, now, &asked);
        }
    }
}

static void give_up(struct dimfit *c, struct exchange *x, struct part *part) {
    struct link *const link = &c->links[part->shard];
    char text[160];
    const double seconds = (double)c->timeout_ms / 1000;
    if (part->state == PART_BACKOFF) {
        snprintf(text, sizeof text, "still refused after %.1f s: %s", seconds, err_text(part->err));
        fail(part, part->err, link, text);
        return;
    }
    snprintf(text, sizeof text, "no answer to a %s within %.1f s", x->what, seconds);
    if (x->recorded && part->sent) {
        fence(link);
        fail(part, DIMFIT_ERR_MAYBE, link, text);
    } else {
        fail(part, link->heard ? DIMFIT_ERR_TIMEOUT : DIMFIT_ERR_UNREACHABLE, link, text);
    }
}

static bool under_way(const struct exchange *x) {
    for (size_t i = 0; i < x->n_parts; i++) {
        if (x->parts[i].state == PART_WAITING || x->parts[i].state == PART_BACKOFF)
            return true;
    }
    return false;
}

dimfit_err exchange_run(struct dimfit *c, struct exchange *x) {
    int64_t now = client_now_ms();
    const int64_t deadline = c->deadline_ms;
    for (size_t i = 0; i < x->n_parts; i++) {
        zmq_msg_init(&x->parts[i].body);
        zmq_msg_init(&x->parts[i].answer);
    }
    if (now >= deadline)
        return err_set(&c->detail, DIMFIT_ERR_TIMEOUT, "no time was left for a %s", x->what);
    for (size_t i = 0; i < x->n_parts; i++)
        make_and_send(c, x, &x->parts[i], now);
    while (under_way(x) && now < deadline) {
        now = wait_for_events(c, x, now, deadline);
        repeat_due(c, x, now);
    }
    dimfit_err err = DIMFIT_OK;
    for (size_t i = 0; i < x->n_parts; i++) {
        struct part *const part = &x->parts[i];
        if (part->state == PART_WAITING || part->state == PART_BACKOFF)
            give_up(c, x, part);
        if (part->state == PART_FAILED && (err == DIMFIT_OK || err == DIMFIT_ERR_FROZEN)) {
            err = part->err;
            c->detail = part->detail;
        } else if (part->state == PART_HELD && err == DIMFIT_OK) {
            err = err_set(&c->detail, DIMFIT_ERR_FROZEN,
                          "a search scores with training held; score, then flush");
        }
    }
    return err;
}

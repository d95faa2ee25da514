#include "proto/pack.h"
#include "worker/client_internal.h"

#include <stdio.h>
#include <stdlib.h>

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

static struct link *link_of(struct dimfit *c, const struct part *part) {
    return &c->links[part->shard];
}

static bool is_under_way(const struct part *part) {
    return part->state == PART_WAITING || part->state == PART_BACKOFF || part->state == PART_QUEUED;
}

/* ---- what is under way on a link --------------------------------------------------------------
 */

static void link_add(struct link *link, struct part *part) {
    struct part **at = &link->first;
    while (*at != NULL)
        at = &(*at)->next;
    *at = part;
}

static void link_remove(struct link *link, const struct part *part) {
    struct part **at = &link->first;
    while (*at != NULL && *at != part)
        at = &(*at)->next;
    if (*at != NULL)
        *at = part->next;
}

static struct part *number_before(const struct link *link, const struct part *part) {
    struct part *before = NULL;
    for (struct part *p = link->first; p != part; p = p->next) {
        if (p->number != 0)
            before = p;
    }
    return before;
}

static struct part *number_after(const struct part *part) {
    struct part *p = part->next;
    while (p != NULL && p->number == 0)
        p = p->next;
    return p;
}

/* The numbers up to here are settled: used, or of no part that is under way. */
static uint64_t settled(const struct link *link) {
    for (const struct part *p = link->first; p != NULL; p = p->next) {
        if (p->number != 0)
            return p->number - 1;
    }
    return link->number;
}

/* ---- sending ----------------------------------------------------------------------------------
 */

static void fail(struct part *part, dimfit_err err, const struct link *link, const char *text) {
    const struct err_detail why = part->detail; /* text may stand in there */
    const bool own = text == part->detail.text;
    part->state = PART_FAILED;
    part->err = err;
    err_set(&part->detail, err, "shard %zu at %s: %.250s", part->shard, link->endpoint,
            own ? why.text : text);
}

/* The message stays with the part: ZeroMQ counts the references to its bytes. */
static bool send_part(struct link *link, struct part *part) {
    part->place = ++link->places;
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

/* Packed where that makes it smaller; where there is no memory to try, it goes as it is. */
static void pack_body(struct part *part) {
    const size_t plain = zmq_msg_size(&part->body), bound = pack_bound(plain);
    uint8_t *const bytes = bound > 0 ? malloc(bound) : NULL;
    const size_t len = bytes != NULL ? pack(zmq_msg_data(&part->body), plain, bytes) : 0;
    zmq_msg_t packed;
    if (len > 0 && zmq_msg_init_size(&packed, len) == 0) {
        memcpy(zmq_msg_data(&packed), bytes, len);
        zmq_msg_move(&part->body, &packed);
        part->header.plain = plain;
    }
    free(bytes);
}

static dimfit_err make(struct dimfit *c, struct part *part) {
    const struct link *const link = link_of(c, part);
    zmq_msg_close(&part->body);
    zmq_msg_init(&part->body);
    part->header = (struct wire_header){
        .client = c->client,
        .incarnation = link->incarnation,
        .seq = part->number,
        .epoch = c->view->shown.epoch,
        .request = ++c->next_request,
        .timeout_ms = (uint32_t)c->timeout_ms,
    };
    view_drop(&part->view);
    part->view = view_hold(c->view);
    const dimfit_err err = part->of->make(c, part->of, part);
    if (err == DIMFIT_OK && c->pack)
        pack_body(part);
    return err;
}

static void abandon(struct dimfit *c, struct part *part, int64_t now);

/* The part that keeps a part from being taken: the first before it that is not queued itself. */
static const struct part *obstacle(const struct link *link, const struct part *part) {
    while (part->state == PART_QUEUED)
        part = number_before(link, part);
    return part;
}

/* It waits for the number before it, unless that means to wait for the end of a freeze. */
static void queue(struct dimfit *c, struct part *part, int64_t now) {
    part->state = PART_QUEUED;
    if (!part->of->hold && obstacle(link_of(c, part), part)->err == DIMFIT_ERR_FROZEN) {
        abandon(c, part, now);
        part->state = PART_HELD;
    }
}

/* Make and send one part, or see that it has to wait for the number before it. */
static void advance(struct dimfit *c, struct part *part, int64_t now) {
    struct link *const link = link_of(c, part);
    if (part->of->recorded && part->number == 0)
        part->number = ++link->number;
    const struct part *const before = part->number != 0 ? number_before(link, part) : NULL;
    if (before != NULL && before->state != PART_WAITING) {
        queue(c, part, now);
        return;
    }
    const dimfit_err err = make(c, part);
    if (err != DIMFIT_OK) {
        abandon(c, part, now);
        fail(part, err, link, part->detail.text[0] != 0 ? part->detail.text : err_text(err));
        return;
    }
    part->err = DIMFIT_OK;
    part->state = PART_WAITING;
    part->settled = settled(link);
    part->sent |= send_part(link, part);
    part->wait_ms = FIRST_WAIT_MS;
    part->due_ms = now + part->wait_ms;
}

/* The next in number, if it waits to be sent. */
static struct part *queued_after(const struct part *part) {
    struct part *const after = part->number != 0 ? number_after(part) : NULL;
    return after != NULL && after->state == PART_QUEUED ? after : NULL;
}

/* The part, and behind it those that waited for its number. */
static void make_and_send(struct dimfit *c, struct part *part, int64_t now) {
    for (; part != NULL; part = queued_after(part))
        advance(c, part, now);
}

/* ---- ends -------------------------------------------------------------------------------------
 */

/* A part that is done, its number used. Those that waited behind it go on. */
static void settle(struct dimfit *c, struct part *part, int64_t now) {
    struct part *const after = queued_after(part);
    link_remove(link_of(c, part), part);
    make_and_send(c, after, now);
}

static const char *const UNKNOWN =
    "an earlier push to this shard got no answer, and nobody can tell what became of this one";

/*
 * The part's number will not be used, or nobody knows whether it was. The last number given out is
 * taken back. Otherwise the numbering is left behind for a new one: what is still on its way must
 * not be mistaken for a later request. Of the other parts, those of which a copy may have been
 * taken share the uncertainty; those behind a number that surely was not taken can't have been.
 */
static void abandon(struct dimfit *c, struct part *part, int64_t now) {
    struct link *const link = link_of(c, part);
    const uint64_t number = part->number;
    const bool unknown = part->sent;
    struct part *const after = number != 0 ? number_after(part) : NULL;
    link_remove(link, part);
    part->number = 0;
    if (number == 0)
        return;
    if (after == NULL && !unknown) {
        link->number--;
        return;
    }
    link->incarnation++;
    link->number = 0;
    struct part *again = NULL;
    for (struct part *p = link->first, *next; p != NULL; p = next) {
        next = p->next;
        if (p->number == 0)
            continue;
        if (p->sent && (unknown || p->number < number)) {
            link_remove(link, p);
            fail(p, DIMFIT_ERR_MAYBE, link, UNKNOWN);
            continue;
        }
        p->number = ++link->number;
        p->sent = p->repeated = false;
        p->state = p->state == PART_BACKOFF ? PART_BACKOFF : PART_QUEUED;
        again = again == NULL ? p : again;
    }
    if (again != NULL && again->state == PART_QUEUED)
        make_and_send(c, again, now);
}

static void back_off(struct part *part, int64_t now) {
    part->backoff_ms = part->backoff_ms == 0 ? FIRST_BACKOFF_MS : 2 * part->backoff_ms;
    if (part->backoff_ms > LONGEST_BACKOFF_MS)
        part->backoff_ms = LONGEST_BACKOFF_MS;
    part->state = PART_BACKOFF;
    part->due_ms = now + part->backoff_ms;
}

/* The shard did not take this copy. A second one may meet another answer. */
static void not_taken(struct part *part) {
    part->sent = part->repeated;
}

static void refused(struct dimfit *c, struct part *part, int64_t now) {
    not_taken(part);
    if (part->err == DIMFIT_ERR_FROZEN && !part->of->hold) {
        abandon(c, part, now);
        part->state = PART_HELD;
    } else {
        back_off(part, now);
    }
}

/* ---- answers ----------------------------------------------------------------------------------
 */

static void take_layout(struct dimfit *c, struct part *part, zmq_msg_t *body, int64_t now) {
    struct layout *layout = NULL;
    not_taken(part);
    part->err = layout_decode(zmq_msg_data(body), zmq_msg_size(body), &layout, &part->detail);
    if (part->err == DIMFIT_OK)
        part->err = client_take_layout(c, layout);
    if (part->err == DIMFIT_OK) {
        make_and_send(c, part, now);
        return;
    }
    abandon(c, part, now);
    fail(part, part->err, link_of(c, part), "no usable layout came with the answer");
}

/* The number before it was refused, or got lost, so that it came too early. Behind a copy sent
 * since then it has its turn; otherwise it waits for one. Or the shard lacks what it has
 * acknowledged. */
static void take_gap(struct dimfit *c, struct part *part, uint64_t expected, int64_t now) {
    if (expected > part->settled) {
        const struct part *const before = number_before(link_of(c, part), part);
        not_taken(part);
        if (before == NULL || before->place > part->place)
            make_and_send(c, part, now);
        else
            queue(c, part, now);
        return;
    }
    fail(
        part, DIMFIT_ERR_FENCED, link_of(c, part),
        "it does not know this client's earlier requests: it has been started anew; connect again");
    settle(c, part, now);
}

static void take_answer(struct dimfit *c, struct part *part, const struct wire_header *header,
                        zmq_msg_t *body, int64_t now) {
    struct link *const link = link_of(c, part);
    part->err = header->status;
    part->detail = header->detail;
    switch (header->status) {
    case DIMFIT_OK:
        zmq_msg_move(&part->answer, body);
        part->err = part->of->take(c, part->of, part, header);
        part->state = PART_DONE;
        if (part->err != DIMFIT_OK)
            fail(part, part->err, link, part->detail.text);
        settle(c, part, now);
        break;
    case DIMFIT_ERR_STALE_EPOCH:
        take_layout(c, part, body, now);
        break;
    case DIMFIT_ERR_EPOCH_AHEAD:
    case DIMFIT_ERR_FROZEN:
    case DIMFIT_ERR_LOG:
        refused(c, part, now);
        break;
    case DIMFIT_ERR_SEQ_GAP:
        take_gap(c, part, header->seq, now);
        break;
    default:
        fail(part, part->err, link,
             header->detail.text[0] != 0 ? header->detail.text : err_text(header->status));
        settle(c, part, now);
        break;
    }
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

/* NULL: a late answer to what was given up on or sent anew. */
static struct part *asker(const struct link *link, const struct wire_header *header) {
    if (!header->reply)
        return NULL;
    struct part *p = link->first;
    while (p != NULL && (p->state != PART_WAITING || p->header.request != header->request))
        p = p->next;
    return p;
}

/* Every message that is there. */
static void receive_all(struct dimfit *c, struct link *link, int64_t now) {
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    struct wire_header header;
    while (receive_header(link, &frame, &header)) {
        if (!receive_body(link, &frame))
            header.request = 0;
        struct part *const part = asker(link, &header);
        if (part == NULL)
            continue;
        link->heard = true;
        client_heard(c, &header);
        take_answer(c, part, &header, &frame, now);
    }
    zmq_msg_close(&frame);
}

static bool listens(const struct link *link, int64_t *until) {
    bool waiting = false;
    for (const struct part *p = link->first; p != NULL; p = p->next) {
        waiting |= p->state == PART_WAITING;
        if (p->state != PART_QUEUED && p->due_ms < *until)
            *until = p->due_ms;
    }
    return waiting;
}

static int64_t wait_for_events(struct dimfit *c, int64_t now) {
    zmq_pollitem_t items[CLUSTER_SHARDS_MAX];
    struct link *links[CLUSTER_SHARDS_MAX];
    int n = 0;
    int64_t until = c->deadline_ms;
    for (size_t i = 0; i < c->n_links; i++) {
        if (!listens(&c->links[i], &until))
            continue;
        links[n] = &c->links[i];
        items[n++] = (zmq_pollitem_t){.socket = c->links[i].socket, .events = ZMQ_POLLIN};
    }
    zmq_poll(items, n, until > now ? (long)(until - now) : 0);
    now = client_now_ms();
    for (int i = 0; i < n; i++) {
        if (items[i].revents != 0)
            receive_all(c, links[i], now);
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
    part->sent |= send_part(link_of(c, part), part);
    part->wait_ms = 2 * part->wait_ms < LONGEST_WAIT_MS ? 2 * part->wait_ms : LONGEST_WAIT_MS;
    part->due_ms = now + part->wait_ms;
    make_and_send(c, queued_after(part), now);
}

static struct part *first_due(const struct link *link, int64_t now) {
    struct part *p = link->first;
    while (p != NULL && (p->state == PART_QUEUED || now < p->due_ms))
        p = p->next;
    return p;
}

/* What was due is later, or off the list, once it was seen to. */
static void repeat_due(struct dimfit *c, int64_t now) {
    bool asked = false;
    for (size_t i = 0; i < c->n_links && now < c->deadline_ms; i++) {
        struct part *part;
        while ((part = first_due(&c->links[i], now)) != NULL) {
            if (part->state == PART_BACKOFF)
                make_and_send(c, part, now);
            else
                repeat(c, part, now, &asked);
        }
    }
}

static void give_up(struct dimfit *c, struct part *part, int64_t now) {
    struct link *const link = link_of(c, part);
    const struct part *const why = obstacle(link, part);
    const bool refused = why->state == PART_BACKOFF;
    const dimfit_err refusal = why->err;
    const bool unknown = part->of->recorded && part->sent;
    const double seconds = (double)c->timeout_ms / 1000;
    char text[320];
    if (refused)
        snprintf(text, sizeof text, "still refused after %.1f s: %s%s%.200s", seconds,
                 err_text(refusal), why->detail.text[0] != 0 ? ": " : "", why->detail.text);
    else
        snprintf(text, sizeof text, "no answer to a %s within %.1f s", part->of->what, seconds);
    abandon(c, part, now);
    dimfit_err err = link->heard ? DIMFIT_ERR_TIMEOUT : DIMFIT_ERR_UNREACHABLE;
    if (unknown)
        err = DIMFIT_ERR_MAYBE;
    else if (refused)
        err = refusal;
    fail(part, err, link, text);
}

/* ---- running ----------------------------------------------------------------------------------
 */

dimfit_err exchange_start(struct dimfit *c, struct exchange *x) {
    const int64_t now = client_now_ms();
    for (size_t i = 0; i < x->n_parts; i++) {
        zmq_msg_init(&x->parts[i].body);
        zmq_msg_init(&x->parts[i].answer);
        x->parts[i].of = x;
    }
    if (now >= c->deadline_ms)
        return err_set(&c->detail, DIMFIT_ERR_TIMEOUT, "no time was left for a %s", x->what);
    for (size_t i = 0; i < x->n_parts; i++) {
        link_add(link_of(c, &x->parts[i]), &x->parts[i]);
        make_and_send(c, &x->parts[i], now);
    }
    return DIMFIT_OK;
}

static bool under_way(const struct exchange *x) {
    for (size_t i = 0; i < x->n_parts; i++) {
        if (is_under_way(&x->parts[i]))
            return true;
    }
    return false;
}

dimfit_err exchange_finish(struct dimfit *c, struct exchange *x) {
    for (int64_t now = client_now_ms(); under_way(x) && now < c->deadline_ms;) {
        now = wait_for_events(c, now);
        repeat_due(c, now);
    }
    dimfit_err err = DIMFIT_OK;
    for (size_t i = 0; i < x->n_parts; i++) {
        struct part *const part = &x->parts[i];
        if (is_under_way(part))
            give_up(c, part, client_now_ms());
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

void exchange_drop(struct dimfit *c, struct exchange *x) {
    for (size_t i = 0; i < x->n_parts; i++) {
        if (is_under_way(&x->parts[i]))
            link_remove(link_of(c, &x->parts[i]), &x->parts[i]);
    }
}

#include "worker/client_call.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int64_t client_now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void client_sleep_ms(int64_t ms) {
    const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

dimfit_err client_begin(struct dimfit *c) {
    CHECK_OBJ_NOTNULL(c, CLIENT_MAGIC);
    if (c->pid != getpid())
        return err_set(&c->detail, DIMFIT_ERR_STATE,
                       "this handle belongs to process %ld; connect again after a fork",
                       (long)c->pid);
    c->detail.text[0] = 0;
    c->deadline_ms = client_now_ms() + c->timeout_ms;
    return DIMFIT_OK;
}

/* ---- errors ---------------------------------------------------------------------------------- */

const char *dimfit_errmsg(const struct dimfit *c) {
    return c == NULL ? client_connect_detail()->text : c->detail.text;
}

const char *dimfit_strerror(dimfit_err err) {
    return err_text(err);
}

const char *dimfit_errname(dimfit_err err) {
    return err_name(err);
}

#define TEXT_OF(x) #x
#define TEXT(x)    TEXT_OF(x)

const char *dimfit_version(void) {
    return TEXT(DIMFIT_VERSION_MAJOR) "." TEXT(DIMFIT_VERSION_MINOR) "." TEXT(DIMFIT_VERSION_PATCH);
}

void dimfit_free(void *memory) {
    free(memory);
}

/* ---- what is known of the cluster ------------------------------------------------------------ */

void client_heard(struct dimfit *c, const struct wire_header *header) {
    if (header->epoch < c->epoch)
        return; /* said before what we know by now */
    c->epoch = header->epoch;
    c->phase = header->phase;
    c->frozen = header->frozen;
    c->curvature = header->curvature;
}

struct dimfit_state dimfit_state(const struct dimfit *c) {
    CHECK_OBJ_NOTNULL(c, CLIENT_MAGIC);
    return (struct dimfit_state){
        .phase = wire_phase_name(c->phase),
        .scoring = c->phase == PHASE_SCORING,
        .frozen = c->frozen,
        .epoch = c->epoch,
    };
}

const struct dimfit_layout *dimfit_layout(const struct dimfit *c) {
    CHECK_OBJ_NOTNULL(c, CLIENT_MAGIC);
    return &c->view->shown;
}

const struct dimfit_slot *dimfit_slot(const struct dimfit *c, uint32_t slot) {
    CHECK_OBJ_NOTNULL(c, CLIENT_MAGIC);
    const size_t i = view_find(c->view, slot);
    return i == SIZE_MAX ? NULL : &c->view->slots[i];
}

/* Slots are added within an epoch: more of them is newer too. */
static bool is_newer(const struct layout *layout, const struct view *than) {
    return than == NULL || layout->epoch > than->source->epoch ||
           (layout->epoch == than->source->epoch && layout->n_slots > than->source->n_slots);
}

dimfit_err client_take_layout(struct dimfit *c, struct layout *layout) {
    if (!is_newer(layout, c->view)) {
        layout_destroy(&layout);
        return DIMFIT_OK;
    }
    struct view *view = NULL;
    const dimfit_err err = view_new(layout, &view);
    if (err != DIMFIT_OK) {
        layout_destroy(&layout);
        return err;
    }
    if (c->view != NULL && c->view->source->epoch != layout->epoch) {
        view_drop(&c->before);
        c->before = c->view;
        c->view = NULL;
    }
    view_drop(&c->view);
    c->view = view;
    return DIMFIT_OK;
}

/* The old socket stays in use when the new one cannot be had. */
static bool connect_link(struct dimfit *c, struct link *link, const char *endpoint) {
    const int64_t largest = WIRE_BODY_MAX;
    const int linger = 0, handshake = 10000;
    void *const socket = zmq_socket(c->context, ZMQ_DEALER);
    if (socket == NULL)
        return false;
    if (zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &largest, sizeof largest) != 0 ||
        zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger) != 0 ||
        zmq_setsockopt(socket, ZMQ_HANDSHAKE_IVL, &handshake, sizeof handshake) != 0 ||
        zmq_connect(socket, endpoint) != 0) {
        const int saved = zmq_errno();
        zmq_close(socket);
        errno = saved;
        return false;
    }
    if (link->socket != NULL)
        zmq_close(link->socket);
    link->socket = socket;
    link->heard = false;
    snprintf(link->endpoint, sizeof link->endpoint, "%s", endpoint);
    return true;
}

static dimfit_err grow_links(struct dimfit *c, size_t n) {
    if (n <= c->n_links)
        return DIMFIT_OK;
    struct link *const links = realloc(c->links, n * sizeof *links);
    if (links == NULL)
        return DIMFIT_ERR_NOMEM;
    c->links = links;
    for (; c->n_links < n; c->n_links++)
        links[c->n_links] = (struct link){.incarnation = c->incarnation};
    return DIMFIT_OK;
}

/* Whatever its version: a coordinator that was started anew counts from the beginning. */
dimfit_err client_take_map(struct dimfit *c, struct cluster_map *map) {
    dimfit_err err = grow_links(c, map->n_shards);
    for (size_t i = 0; err == DIMFIT_OK && i < map->n_shards; i++) {
        if (strcmp(c->links[i].endpoint, map->endpoints[i]) != 0 &&
            !connect_link(c, &c->links[i], map->endpoints[i]))
            err = err_set(&c->detail, DIMFIT_ERR_UNREACHABLE, "shard %zu at '%s': %s", i,
                          map->endpoints[i], zmq_strerror(zmq_errno()));
    }
    if (err != DIMFIT_OK) {
        cluster_map_destroy(&map);
        return err;
    }
    cluster_map_destroy(&c->map);
    c->map = map;
    return DIMFIT_OK;
}

dimfit_err client_slot(struct dimfit *c, uint32_t slot, size_t *out) {
    size_t i = view_find(c->view, slot);
    if (i == SIZE_MAX) {
        const struct dimfit_declare declare = {.slot = slot, .search = 1};
        const dimfit_err err = client_declare(c, &declare, 1);
        if (err != DIMFIT_OK)
            return err;
        i = view_find(c->view, slot);
        if (i == SIZE_MAX)
            return err_set(&c->detail, DIMFIT_ERR_UNKNOWN_SLOT, "slot %u is not in the layout",
                           slot);
    }
    *out = i;
    return DIMFIT_OK;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void disconnect(struct dimfit *c) {
    rpc_close(&c->coordinator);
    for (size_t i = 0; i < c->n_links; i++) {
        if (c->links[i].socket != NULL)
            zmq_close(c->links[i].socket);
    }
    if (c->context != NULL)
        zmq_ctx_term(c->context);
}

void dimfit_close(struct dimfit **client) {
    struct dimfit *const c = *client;
    if (c == NULL)
        return;
    CHECK_OBJ_NOTNULL(c, CLIENT_MAGIC);
    if (c->pid ==
        getpid()) /* after a fork the sockets' thread is missing: closing would wait for it */
        disconnect(c);
    calls_destroy(c);
    free(c->links);
    held_destroy(&c->held);
    trial_destroy(&c->trial);
    view_drop(&c->view);
    view_drop(&c->before);
    cluster_map_destroy(&c->map);
    c->magic = 0;
    free(c);
    *client = NULL;
}

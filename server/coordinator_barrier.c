#include "server/coordinator_internal.h"

#include <stdlib.h>

enum {
    BARRIER_WORKERS_MAX = 65536,
    BARRIERS_MAX = 4096,
    BARRIER_KEPT_MS = 10000, /* an open one, for those whose answer was lost */
};

static void barrier_destroy(struct barrier *barrier) {
    free(barrier->members);
    free(barrier);
}

void barrier_list_destroy(struct coordinator *c) {
    while (c->barriers != NULL) {
        struct barrier *const barrier = c->barriers;
        c->barriers = barrier->next;
        barrier_destroy(barrier);
    }
}

static struct barrier *find_or_add(struct coordinator *c, const char *name, size_t wanted) {
    size_t n = 0;
    for (struct barrier *b = c->barriers; b != NULL; b = b->next, n++) {
        if (strcmp(b->name, name) == 0)
            return b;
    }
    struct barrier *const b = n < BARRIERS_MAX ? calloc(1, sizeof *b) : NULL;
    if (b == NULL)
        return NULL;
    memcpy(b->name, name, sizeof b->name);
    b->wanted = wanted;
    b->next = c->barriers;
    c->barriers = b;
    return b;
}

static struct barrier_member *find_member(struct barrier *barrier, uint64_t client) {
    for (size_t i = 0; i < barrier->n; i++) {
        if (barrier->members[i].client == client)
            return &barrier->members[i];
    }
    return NULL;
}

static struct barrier_member *add_member(struct barrier *barrier) {
    if (barrier->n == barrier->cap) {
        const size_t cap = barrier->cap == 0 ? 8 : 2 * barrier->cap;
        struct barrier_member *const members = realloc(barrier->members, cap * sizeof *members);
        if (members == NULL)
            return NULL;
        barrier->members = members;
        barrier->cap = cap;
    }
    return &barrier->members[barrier->n++];
}

static void remove_barrier(struct coordinator *c, struct barrier *barrier) {
    struct barrier **at = &c->barriers;
    while (*at != barrier)
        at = &(*at)->next;
    *at = barrier->next;
    barrier_destroy(barrier);
}

/* The worker whose answer was lost asks again with the same number: the way is free for it. */
static bool passed_before(const struct barrier *barrier, const struct barrier_member *member,
                          const struct asker *asker) {
    return barrier->open && member != NULL && member->asker.request == asker->request;
}

static void open_barrier(struct coordinator *c, struct barrier *barrier) {
    barrier->open = true;
    barrier->open_ms = c->io.now_ms(c->io.self);
    for (size_t i = 0; i < barrier->n; i++)
        coordinator_answer(c, &barrier->members[i].asker, DIMFIT_OK, NULL, NULL, 0);
}

void barrier_arrive(struct coordinator *c, const struct route *from,
                    const struct wire_header *header) {
    const struct asker asker = asker_of(from, header);
    struct err_detail detail;
    if (header->tag == 0 || header->tag > BARRIER_WORKERS_MAX || header->name[0] == 0) {
        err_set(&detail, DIMFIT_ERR_INVALID, "a barrier has a name and 1 to %d workers",
                BARRIER_WORKERS_MAX);
        coordinator_answer(c, &asker, DIMFIT_ERR_INVALID, &detail, NULL, 0);
        return;
    }
    struct barrier *barrier = find_or_add(c, header->name, header->tag);
    if (barrier != NULL && barrier->open &&
        passed_before(barrier, find_member(barrier, header->client), &asker)) {
        coordinator_answer(c, &asker, DIMFIT_OK, NULL, NULL, 0);
        return;
    }
    if (barrier != NULL && (barrier->open || barrier->n == 0)) {
        remove_barrier(c, barrier); /* the next round of this name begins */
        barrier = find_or_add(c, header->name, header->tag);
    }
    if (barrier == NULL) {
        err_set(&detail, DIMFIT_ERR_LIMIT, "no room for a further barrier (%d at most)",
                BARRIERS_MAX);
        coordinator_answer(c, &asker, DIMFIT_ERR_LIMIT, &detail, NULL, 0);
        return;
    }
    if (barrier->wanted != header->tag) {
        err_set(&detail, DIMFIT_ERR_INVALID, "barrier '%s' waits for %zu workers, not %llu",
                barrier->name, barrier->wanted, (unsigned long long)header->tag);
        coordinator_answer(c, &asker, DIMFIT_ERR_INVALID, &detail, NULL, 0);
        return;
    }
    struct barrier_member *member = find_member(barrier, header->client);
    if (member == NULL)
        member = add_member(barrier);
    if (member == NULL) {
        coordinator_answer(c, &asker, DIMFIT_ERR_NOMEM, NULL, NULL, 0);
        return;
    }
    *member = (struct barrier_member){
        .asker = asker,
        .client = header->client,
        .deadline_ms = c->io.now_ms(c->io.self) + header->timeout_ms,
    };
    if (barrier->n == barrier->wanted)
        open_barrier(c, barrier);
}

void barrier_tick(struct coordinator *c, int64_t now) {
    for (struct barrier *b = c->barriers, *next; b != NULL; b = next) {
        next = b->next;
        for (size_t i = 0; !b->open && i < b->n;) {
            if (now < b->members[i].deadline_ms) {
                i++;
                continue;
            }
            struct err_detail detail;
            err_set(&detail, DIMFIT_ERR_TIMEOUT, "barrier '%s': %zu of %zu workers came", b->name,
                    b->n, b->wanted);
            coordinator_answer(c, &b->members[i].asker, DIMFIT_ERR_TIMEOUT, &detail, NULL, 0);
            b->members[i] = b->members[--b->n];
        }
        if (b->n == 0 || (b->open && now - b->open_ms > BARRIER_KEPT_MS))
            remove_barrier(c, b);
    }
}

#include "server/session.h"

#include "proto/key_hash.h"

#include <stdlib.h>

struct session {
    uint64_t client, incarnation;
    uint64_t applied; /* the newest number recorded */
    uint64_t used;    /* clock of the last use */
    uint64_t refused; /* number that `detail` belongs to */
    uint8_t status[SESSION_WINDOW];
    struct err_detail detail;
};

/* Open addressing over pointers; at most half full, so a probe ends soon. */
struct sessions {
    uint64_t clock;
    size_t n, cap; /* cap: power of two */
    struct session **at;
};

static size_t home(const struct sessions *sessions, uint64_t client) {
    return (size_t)key_hash(0, client) & (sessions->cap - 1);
}

static struct session **find(const struct sessions *sessions, uint64_t client) {
    size_t i = home(sessions, client);
    while (sessions->at[i] != NULL && sessions->at[i]->client != client)
        i = (i + 1) & (sessions->cap - 1);
    return &sessions->at[i];
}

dimfit_err sessions_new(struct sessions **out) {
    struct sessions *const sessions = calloc(1, sizeof *sessions);
    if (sessions == NULL)
        return DIMFIT_ERR_NOMEM;
    sessions->cap = 64;
    sessions->at = calloc(sessions->cap, sizeof *sessions->at);
    if (sessions->at == NULL) {
        free(sessions);
        return DIMFIT_ERR_NOMEM;
    }
    *out = sessions;
    return DIMFIT_OK;
}

void sessions_destroy(struct sessions **sessions) {
    if (*sessions == NULL)
        return;
    for (size_t i = 0; i < (*sessions)->cap; i++)
        free((*sessions)->at[i]);
    free((*sessions)->at);
    free(*sessions);
    *sessions = NULL;
}

size_t sessions_count(const struct sessions *sessions) {
    return sessions->n;
}

static dimfit_err rehash(struct sessions *sessions, size_t cap) {
    struct session **const old = sessions->at;
    const size_t old_cap = sessions->cap;
    struct session **const at = calloc(cap, sizeof *at);
    if (at == NULL)
        return DIMFIT_ERR_NOMEM;
    sessions->at = at;
    sessions->cap = cap;
    for (size_t i = 0; i < old_cap; i++) {
        if (old[i] != NULL)
            *find(sessions, old[i]->client) = old[i];
    }
    free(old);
    return DIMFIT_OK;
}

/* Rare: once for each new client past the limit. */
static dimfit_err forget_oldest(struct sessions *sessions) {
    struct session **oldest = NULL;
    for (size_t i = 0; i < sessions->cap; i++) {
        if (sessions->at[i] != NULL && (oldest == NULL || sessions->at[i]->used < (*oldest)->used))
            oldest = &sessions->at[i];
    }
    base_assert(oldest != NULL);
    struct session *const gone = *oldest;
    *oldest = NULL;
    const dimfit_err err = rehash(sessions, sessions->cap);
    if (err != DIMFIT_OK) {
        *oldest = gone;
        return err;
    }
    free(gone);
    sessions->n--;
    return DIMFIT_OK;
}

static dimfit_err add(struct sessions *sessions, uint64_t client, struct session **out) {
    dimfit_err err = DIMFIT_OK;
    if (sessions->n == SESSION_CLIENTS_MAX)
        err = forget_oldest(sessions);
    else if (2 * (sessions->n + 1) > sessions->cap)
        err = rehash(sessions, 2 * sessions->cap);
    if (err != DIMFIT_OK)
        return err;
    struct session *const session = calloc(1, sizeof *session);
    if (session == NULL)
        return DIMFIT_ERR_NOMEM;
    session->client = client;
    *find(sessions, client) = session;
    sessions->n++;
    *out = session;
    return DIMFIT_OK;
}

dimfit_err session_check(struct sessions *sessions, uint64_t client, uint64_t incarnation,
                         uint64_t seq, enum session_verdict *verdict,
                         struct session_answer *answer) {
    struct session *session = *find(sessions, client);
    if (session == NULL) {
        const dimfit_err err = add(sessions, client, &session);
        if (err != DIMFIT_OK)
            return err;
        session->incarnation = incarnation;
    }
    session->used = ++sessions->clock;
    *answer = (struct session_answer){0};
    if (incarnation < session->incarnation) {
        *verdict = SESSION_FENCED;
        return DIMFIT_OK;
    }
    if (incarnation > session->incarnation) {
        session->incarnation = incarnation;
        session->applied = 0;
        session->refused = 0;
    }
    answer->expected = session->applied + 1;
    if (seq > session->applied) {
        *verdict = seq == session->applied + 1 ? SESSION_NEXT : SESSION_GAP;
        return DIMFIT_OK;
    }
    *verdict = SESSION_REPEAT;
    if (session->applied - seq < SESSION_WINDOW)
        answer->status = session->status[seq % SESSION_WINDOW];
    if (session->refused == seq)
        answer->detail = session->detail;
    return DIMFIT_OK;
}

void session_record(struct sessions *sessions, uint64_t client, uint64_t seq, dimfit_err status,
                    const struct err_detail *detail) {
    struct session *const session = *find(sessions, client);
    base_assert(session != NULL && seq == session->applied + 1);
    session->applied = seq;
    session->status[seq % SESSION_WINDOW] = (uint8_t)status;
    if (status != DIMFIT_OK) {
        session->refused = seq;
        session->detail = *detail;
    }
}

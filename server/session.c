#include "server/session.h"

#include "proto/key_hash.h"
#include "server/archive.h"

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
    struct session *spare; /* for the next new client; NULL: none */
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
    free((*sessions)->spare);
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

/* Rare: once for each new client past the limit. Those that a probe came to by way of it move up.
 */
static void forget_oldest(struct sessions *sessions) {
    size_t oldest = SIZE_MAX;
    for (size_t i = 0; i < sessions->cap; i++) {
        if (sessions->at[i] != NULL &&
            (oldest == SIZE_MAX || sessions->at[i]->used < sessions->at[oldest]->used))
            oldest = i;
    }
    base_assert(oldest != SIZE_MAX);
    free(sessions->at[oldest]);
    sessions->at[oldest] = NULL;
    sessions->n--;
    const size_t mask = sessions->cap - 1;
    for (size_t i = (oldest + 1) & mask; sessions->at[i] != NULL; i = (i + 1) & mask) {
        struct session *const moved = sessions->at[i];
        sessions->at[i] = NULL;
        *find(sessions, moved->client) = moved;
    }
}

/* So that a new client can be added without fail. */
static dimfit_err reserve(struct sessions *sessions) {
    if (sessions->spare == NULL)
        sessions->spare = malloc(sizeof *sessions->spare);
    if (sessions->spare == NULL)
        return DIMFIT_ERR_NOMEM;
    return 2 * (sessions->n + 1) > sessions->cap ? rehash(sessions, 2 * sessions->cap) : DIMFIT_OK;
}

/* After reserve(). */
static struct session *add(struct sessions *sessions, uint64_t client) {
    if (sessions->n == SESSION_CLIENTS_MAX)
        forget_oldest(sessions);
    struct session *const session = sessions->spare;
    base_assert(session != NULL);
    sessions->spare = NULL;
    *session = (struct session){.client = client};
    *find(sessions, client) = session;
    sessions->n++;
    return session;
}

dimfit_err session_check(struct sessions *sessions, uint64_t client, uint64_t incarnation,
                         uint64_t seq, enum session_verdict *verdict,
                         struct session_answer *answer) {
    const struct session *const session = *find(sessions, client);
    const dimfit_err err = session == NULL ? reserve(sessions) : DIMFIT_OK;
    if (err != DIMFIT_OK)
        return err;
    *answer = (struct session_answer){0};
    if (session != NULL && incarnation < session->incarnation) {
        *verdict = SESSION_FENCED;
        return DIMFIT_OK;
    }
    const bool known = session != NULL && incarnation == session->incarnation;
    const uint64_t applied = known ? session->applied : 0;
    answer->expected = applied + 1;
    if (seq > applied) {
        *verdict = seq == applied + 1 ? SESSION_NEXT : SESSION_GAP;
        return DIMFIT_OK;
    }
    *verdict = SESSION_REPEAT;
    if (known && applied - seq < SESSION_WINDOW)
        answer->status = session->status[seq % SESSION_WINDOW];
    if (known && session->refused == seq)
        answer->detail = session->detail;
    return DIMFIT_OK;
}

void session_record(struct sessions *sessions, uint64_t client, uint64_t incarnation, uint64_t seq,
                    dimfit_err status, const struct err_detail *detail) {
    struct session *session = *find(sessions, client);
    if (session == NULL)
        session = add(sessions, client);
    base_assert(incarnation >= session->incarnation);
    if (incarnation > session->incarnation) {
        session->incarnation = incarnation;
        session->applied = 0;
        session->refused = 0;
    }
    base_assert(seq == session->applied + 1);
    session->used = ++sessions->clock;
    session->applied = seq;
    session->status[seq % SESSION_WINDOW] = (uint8_t)status;
    if (status != DIMFIT_OK) {
        session->refused = seq;
        session->detail = *detail;
    }
}

/* ---- saved ----------------------------------------------------------------------------------- */

enum { MARK = 0x53534553 }; /* "SESS" */

void sessions_save(const struct sessions *sessions, struct archive_writer *out) {
    archive_put_mark(out, MARK);
    archive_put_u64(out, sessions->clock);
    archive_put_u64(out, sessions->n);
    for (size_t i = 0; i < sessions->cap; i++) {
        const struct session *const s = sessions->at[i];
        if (s == NULL)
            continue;
        archive_put_u64(out, s->client);
        archive_put_u64(out, s->incarnation);
        archive_put_u64(out, s->applied);
        archive_put_u64(out, s->used);
        archive_put_u64(out, s->refused);
        archive_put(out, s->status, sizeof s->status);
        const size_t len = s->refused != 0 ? strlen(s->detail.text) : 0;
        archive_put_u32(out, (uint32_t)len);
        archive_put(out, s->detail.text, len);
    }
}

static void restore_one(struct sessions *sessions, struct archive_reader *in) {
    const uint64_t client = archive_get_u64(in);
    struct session *s = *find(sessions, client);
    if (s != NULL)
        archive_refuse(in, "client %016llx is there twice", (unsigned long long)client);
    else if (in->err == DIMFIT_OK && reserve(sessions) != DIMFIT_OK)
        archive_no_memory(in);
    if (in->err != DIMFIT_OK)
        return;
    s = add(sessions, client);
    s->incarnation = archive_get_u64(in);
    s->applied = archive_get_u64(in);
    s->used = archive_get_u64(in);
    s->refused = archive_get_u64(in);
    archive_get(in, s->status, sizeof s->status);
    const uint32_t len = archive_get_u32(in);
    if (s->used > sessions->clock || s->refused > s->applied || len >= sizeof s->detail.text)
        archive_refuse(in, "client %016llx has more than it asked for", (unsigned long long)client);
    if (in->err == DIMFIT_OK)
        archive_get(in, s->detail.text, len);
}

void sessions_restore(struct sessions *sessions, struct archive_reader *in) {
    archive_get_mark(in, MARK, "list of clients");
    sessions->clock = archive_get_u64(in);
    const uint64_t n = archive_get_u64(in);
    if (n > SESSION_CLIENTS_MAX)
        archive_refuse(in, "%llu clients", (unsigned long long)n);
    for (uint64_t i = 0; i < n && in->err == DIMFIT_OK; i++)
        restore_one(sessions, in);
}

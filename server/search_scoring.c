/*
 * The scoring phase of a search: who scores which step, and when it is enough.
 *
 * In freeze mode workers ask for steps one by one and report them; in live mode ordinary pushes are
 * scored and the shards' heartbeats tell how many samples there are.
 */
#include "server/coordinator_internal.h"

#include "server/log.h"

static struct scorer *scorer_of(struct search *s, uint64_t client) {
    for (size_t i = 0; i < s->n_scorers; i++) {
        if (s->scorers[i].client == client)
            return &s->scorers[i];
    }
    if (s->n_scorers == SCORERS_MAX)
        return NULL;
    s->scorers[s->n_scorers] = (struct scorer){.client = client};
    return &s->scorers[s->n_scorers++];
}

static bool scored_enough(const struct search *s) {
    return s->exhausted || (s->wanted > 0 && s->samples >= s->wanted);
}

/* Over when the samples asked for are there or a worker came to the set's end, and no step is half
 * done. */
static bool scoring_over(const struct search *s) {
    if (!scored_enough(s))
        return false;
    for (size_t i = 0; i < s->n_scorers; i++) {
        if (s->scorers[i].step != 0)
            return false;
    }
    return true;
}

/* Steps are handed out one by one, each to one worker: the k-th step is the k-th batch of the
 * sample set that all workers have. A request repeated for a lost answer gets the same step again.
 */
static void answer_scorer(struct coordinator *c, struct scorer *scorer) {
    struct search *const s = &c->search;
    struct wire_header reply = {.mode = SCORE_OVER, .tag = s->id};
    if (s->phase == PHASE_SCORING && !scored_enough(s)) {
        if (scorer->step == 0)
            scorer->step = ++s->next_step;
        reply.mode = 0;
        reply.step = scorer->step;
    }
    scorer->waits = false;
    coordinator_reply(c, &scorer->asker, &reply, NULL, 0);
}

void search_answer_scorers(struct coordinator *c) {
    struct search *const s = &c->search;
    for (size_t i = 0; i < s->n_scorers; i++) {
        if (s->scorers[i].waits)
            answer_scorer(c, &s->scorers[i]);
    }
}

static void take_score(struct search *s, struct scorer *scorer, const struct wire_header *header) {
    if (header->tag != 0 && header->tag != s->id)
        return; /* said of a search before this one */
    if (header->step != 0 && header->step == scorer->step) {
        s->samples += header->samples;
        s->steps++;
        scorer->step = 0;
    }
    if ((header->mode & SCORE_EXHAUSTED) != 0) {
        s->exhausted = true;
        scorer->step = 0;
    }
}

void search_score_next(struct coordinator *c, const struct route *from,
                       const struct wire_header *header) {
    struct search *const s = &c->search;
    struct scorer *const scorer = s->phase == PHASE_SCORING && s->freeze && s->scorers != NULL
                                      ? scorer_of(s, header->client)
                                      : NULL;
    if (scorer == NULL) {
        const struct asker asker = asker_of(from, header);
        struct wire_header over = {.mode = SCORE_OVER, .tag = s->id};
        coordinator_reply(c, &asker, &over, NULL, 0);
        return;
    }
    scorer->asker = asker_of(from, header);
    scorer->waits = !s->scoring;
    if (scorer->waits)
        return;
    const uint64_t done = s->steps, given = s->next_step;
    take_score(s, scorer, header);
    answer_scorer(c, scorer);
    /* Asking alone is none: a step that a lost worker holds would never run out of time. */
    if (s->steps != done || s->next_step != given)
        s->progress_ms = c->io.now_ms(c->io.self);
    if (scoring_over(s))
        search_begin_planning(c);
}

/* Nobody goes on with it: a search, and who waits for one, comes to an end. */
static void give_up_late(struct coordinator *c, int64_t now) {
    struct search *const s = &c->search;
    if (now - s->progress_ms < s->timeout_ms)
        return;
    struct err_detail detail;
    err_set(&detail, DIMFIT_ERR_TIMEOUT,
            !s->freeze ? "no training push was scored within %.0f s; is anybody training?"
            : s->n_scorers == 0
                ? "no worker scored within %.0f s; scoring in freeze mode needs one that answers "
                  "it (dimfit-train does), --mode live does not"
                : "a scoring worker was silent for %.0f s",
            (double)s->timeout_ms / 1000);
    search_fail(c, DIMFIT_ERR_TIMEOUT, &detail);
}

/* Live scoring is seen through heartbeats. Parts of one push lie on several shards under one
 * (worker, step): the largest count of a shard is a lower bound of the total. */
static void tick_live(struct coordinator *c) {
    struct search *const s = &c->search;
    uint64_t samples = 0;
    bool full = false;
    for (size_t i = 0; i < c->options.shards; i++) {
        full |= c->members[i].full;
        if (c->members[i].samples > samples)
            samples = c->members[i].samples;
    }
    s->samples = samples;
    if (full)
        log_warn("search",
                 "the score memory is full after %llu of %llu samples: planning from these",
                 (unsigned long long)samples, (unsigned long long)s->wanted);
    if (full || samples >= s->wanted)
        search_begin_planning(c);
}

void search_tick(struct coordinator *c, int64_t now) {
    if (c->search.phase != PHASE_SCORING || !c->search.scoring)
        return;
    if (!c->search.freeze)
        tick_live(c);
    if (c->search.phase == PHASE_SCORING)
        give_up_late(c, now);
}

/*
 * A plan that a search came to, kept until it is discarded.
 *
 * It holds what applying it needs, the change, and what it was shown as when it was made, JSON that
 * never changes again. Its bytes go into a file of its own; decoding trusts none of them. Plain
 * values, no behaviour; the coordinator's thread owns them.
 */
#ifndef SERVER_KEPT_PLAN_H
#define SERVER_KEPT_PLAN_H

#include "proto/change.h"

#include <jansson.h>

enum { KEPT_PLANS_MAX = 16 };

struct kept_plan {
    uint64_t id;      /* of the search that made it, > 0 */
    uint64_t applied; /* the epoch that it became, 0: none */
    bool undone;      /* ... and was taken back */
    struct change *change;
    json_t *report; /* an object */
};

void kept_plan_destroy(struct kept_plan **plan);

void kept_plan_encode(const struct kept_plan *plan, struct buf *out);
/* VERSION for another version's bytes, IO for damaged ones, NOMEM. */
dimfit_err kept_plan_decode(const void *bytes, size_t len, struct kept_plan **out,
                            struct err_detail *detail) MUST_CHECK;

/* The plans there are, ascending by id. */
struct kept_plans {
    size_t n;
    struct kept_plan *items[KEPT_PLANS_MAX];
};

void kept_plans_fini(struct kept_plans *plans);
struct kept_plan *kept_plans_find(const struct kept_plans *plans, uint64_t id);
struct kept_plan *kept_plans_last(const struct kept_plans *plans); /* NULL: there is none */
/* The one that makes room for another: the oldest of those never applied, else the oldest; NULL
 * while there is room. */
struct kept_plan *kept_plans_excess(const struct kept_plans *plans);
/* Takes the plan; one of its id goes. There must be room. */
void kept_plans_add(struct kept_plans *plans, struct kept_plan **plan);
void kept_plans_remove(struct kept_plans *plans, uint64_t id);

#endif

#include "server/kept_plan.h"

#define XXH_INLINE_ALL
#include <stdlib.h>
#include <xxhash.h>

#define PLAN_MAGIC 0x316e616c50646400ull /* "\0ddPlan1" */

void kept_plan_destroy(struct kept_plan **plan) {
    if (*plan == NULL)
        return;
    change_destroy(&(*plan)->change);
    json_decref((*plan)->report);
    free(*plan);
    *plan = NULL;
}

/* ---- bytes ----------------------------------------------------------------------------------- */

/* magic, checksum of the rest, id, applied, undone, length of the change, change, report as JSON */
void kept_plan_encode(const struct kept_plan *plan, struct buf *out) {
    struct buf body, change;
    buf_init(&body);
    buf_init(&change);
    change_encode(plan->change, &change);
    char *const text = json_dumps(plan->report, JSON_COMPACT | JSON_REAL_PRECISION(17));
    buf_put_u64(&body, plan->id);
    buf_put_u64(&body, plan->applied);
    buf_put_u8(&body, plan->undone);
    buf_put_part(&body, &change);
    if (text != NULL)
        buf_put(&body, text, strlen(text));
    const bool failed = text == NULL || body.failed;
    buf_put_u64(out, PLAN_MAGIC);
    buf_put_u64(out, failed ? 0 : XXH3_64bits(body.data, body.len));
    buf_put(out, body.data, failed ? 0 : body.len);
    out->failed |= failed;
    free(text);
    buf_fini(&change);
    buf_fini(&body);
}

static dimfit_err read_body(struct reader *r, struct kept_plan *plan) {
    plan->id = reader_u64(r);
    plan->applied = reader_u64(r);
    plan->undone = reader_u8(r) != 0;
    const uint64_t len = reader_u64(r);
    const uint8_t *const change = reader_take(r, len);
    if (r->failed || plan->id == 0)
        return DIMFIT_ERR_IO;
    const dimfit_err err = change_decode(change, len, &plan->change, NULL);
    if (err != DIMFIT_OK)
        return err == DIMFIT_ERR_NOMEM ? err : DIMFIT_ERR_IO;
    json_error_t why;
    plan->report = json_loadb((const char *)r->data, r->left, JSON_REJECT_DUPLICATES, &why);
    if (plan->report == NULL && json_error_code(&why) == json_error_out_of_memory)
        return DIMFIT_ERR_NOMEM;
    return json_is_object(plan->report) && plan->change->undoes == 0 ? DIMFIT_OK : DIMFIT_ERR_IO;
}

dimfit_err kept_plan_decode(const void *bytes, size_t len, struct kept_plan **out,
                            struct err_detail *detail) {
    struct reader r = reader_of(bytes, len);
    const uint64_t magic = reader_u64(&r), sum = reader_u64(&r);
    if (r.failed || magic != PLAN_MAGIC)
        return err_set(detail, DIMFIT_ERR_VERSION, "the plan is not one of this version");
    if (XXH3_64bits(r.data, r.left) != sum)
        return err_set(detail, DIMFIT_ERR_IO, "the plan is damaged (checksum)");
    struct kept_plan *plan = calloc(1, sizeof *plan);
    const dimfit_err err = plan == NULL ? DIMFIT_ERR_NOMEM : read_body(&r, plan);
    if (err != DIMFIT_OK) {
        kept_plan_destroy(&plan);
        return err_set(detail, err,
                       err == DIMFIT_ERR_NOMEM ? "no memory for a plan"
                                               : "the plan is damaged (its change or its report)");
    }
    *out = plan;
    return DIMFIT_OK;
}

/* ---- several --------------------------------------------------------------------------------- */

void kept_plans_fini(struct kept_plans *plans) {
    for (size_t i = 0; i < plans->n; i++)
        kept_plan_destroy(&plans->items[i]);
    plans->n = 0;
}

struct kept_plan *kept_plans_find(const struct kept_plans *plans, uint64_t id) {
    for (size_t i = 0; i < plans->n; i++) {
        if (plans->items[i]->id == id)
            return plans->items[i];
    }
    return NULL;
}

struct kept_plan *kept_plans_last(const struct kept_plans *plans) {
    return plans->n == 0 ? NULL : plans->items[plans->n - 1];
}

struct kept_plan *kept_plans_excess(const struct kept_plans *plans) {
    if (plans->n < KEPT_PLANS_MAX)
        return NULL;
    for (size_t i = 0; i < plans->n; i++) {
        if (plans->items[i]->applied == 0)
            return plans->items[i];
    }
    return plans->items[0];
}

void kept_plans_remove(struct kept_plans *plans, uint64_t id) {
    size_t n = 0;
    for (size_t i = 0; i < plans->n; i++) {
        if (plans->items[i]->id == id)
            kept_plan_destroy(&plans->items[i]);
        else
            plans->items[n++] = plans->items[i];
    }
    plans->n = n;
}

void kept_plans_add(struct kept_plans *plans, struct kept_plan **plan) {
    kept_plans_remove(plans, (*plan)->id);
    base_assert(plans->n < KEPT_PLANS_MAX);
    size_t at = plans->n++;
    for (; at > 0 && plans->items[at - 1]->id > (*plan)->id; at--)
        plans->items[at] = plans->items[at - 1];
    plans->items[at] = *plan;
    *plan = NULL;
}

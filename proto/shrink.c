#include "proto/shrink.h"

#include "proto/layout.h"

#include <math.h>
#include <stdlib.h>

enum { RULE_BYTES = 12 };

void shrink_encode(const struct shrink_rule *rules, size_t n, struct buf *out) {
    base_assert(n > 0 && n <= LAYOUT_SLOTS_MAX);
    buf_put_u32(out, (uint32_t)n);
    for (size_t i = 0; i < n; i++) {
        buf_put_u32(out, rules[i].slot);
        buf_put_u32(out, rules[i].expire_days);
        buf_put_f32(out, rules[i].expire_shows);
    }
}

static dimfit_err rule_check(const struct shrink_rule *rule, struct err_detail *detail) {
    if (rule->expire_days > RETENTION_DAYS_MAX)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "slot %u: %u days are not within 0..%d",
                       rule->slot, rule->expire_days, RETENTION_DAYS_MAX);
    if (!isfinite(rule->expire_shows) || rule->expire_shows < 0)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "slot %u: %g shows must be finite and >= 0",
                       rule->slot, (double)rule->expire_shows);
    return DIMFIT_OK;
}

dimfit_err shrink_decode(const void *bytes, size_t len, struct shrink_rule **rules, size_t *n,
                         struct err_detail *detail) {
    struct reader in = reader_of(bytes, len);
    const uint32_t count = reader_u32(&in);
    if (in.failed || count < 1 || count > LAYOUT_SLOTS_MAX || in.left != count * (size_t)RULE_BYTES)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "%zu bytes are no rules of a shrink", len);
    struct shrink_rule *const list = malloc(count * sizeof *list);
    if (list == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for %u rules of a shrink", count);
    dimfit_err err = DIMFIT_OK;
    for (uint32_t i = 0; i < count && err == DIMFIT_OK; i++) {
        list[i].slot = reader_u32(&in);
        list[i].expire_days = reader_u32(&in);
        list[i].expire_shows = reader_f32(&in);
        err = rule_check(&list[i], detail);
        if (err == DIMFIT_OK && i > 0 && list[i - 1].slot >= list[i].slot)
            err = err_set(detail, DIMFIT_ERR_PROTOCOL, "slot %u of a shrink is out of order",
                          list[i].slot);
    }
    if (err != DIMFIT_OK) {
        free(list);
        return err;
    }
    *rules = list;
    *n = count;
    return DIMFIT_OK;
}

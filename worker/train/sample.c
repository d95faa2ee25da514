#include "worker/train/sample.h"
#include "worker/train/mem.h"

#include <math.h>
#include <stdlib.h>

void sample_fini(struct sample *s) {
    free(s->items);
    *s = (struct sample){0};
}

dimfit_err sample_add(struct sample *s, uint32_t slot, uint64_t feasign, float weight) {
    if (s->n == SAMPLE_ITEMS_MAX)
        return DIMFIT_ERR_LIMIT;
    if (s->n == s->cap) {
        s->cap = s->cap > 0 ? 2 * s->cap : 64;
        s->items = mem_resize(s->items, s->cap, sizeof *s->items);
    }
    s->items[s->n++] = (struct sample_item){slot, weight, feasign};
    return DIMFIT_OK;
}

bool sample_parse_label(const char *text, float *out) {
    double v;
    if (!sample_parse_number(text, &v) || (v != 0 && v != 1 && v != -1))
        return false;
    *out = v > 0;
    return true;
}

bool sample_parse_number(const char *text, double *out) {
    /* strtod() also takes spaces, hexadecimal, "inf" and "nan", which are words in a data file. */
    if (text[0] == '\0' || text[strspn(text, "+-.0123456789eE")] != '\0')
        return false;
    char *end;
    const double v = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(v))
        return false;
    *out = v;
    return true;
}

bool sample_parse_u64(const char *text, uint64_t *out) {
    uint64_t v = 0;
    if (text[0] == '\0')
        return false;
    for (const char *p = text; *p != '\0'; p++) {
        if (*p < '0' || *p > '9' || __builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
            return false;
    }
    *out = v;
    return true;
}

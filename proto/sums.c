#include "proto/sums.h"

#include <math.h>
#include <stdlib.h>

enum { ENTRY_BYTES = 16 };

void sums_encode(const struct sums *sums, size_t n, struct buf *out) {
    buf_put_u32(out, (uint32_t)n);
    for (size_t i = 0; i < n; i++) {
        buf_put_u32(out, sums[i].slot);
        buf_put_u32(out, sums[i].width);
        buf_put_u64(out, sums[i].rows);
        buf_put(out, sums[i].g, sums[i].width * sizeof(double));
    }
}

static dimfit_err read_entry(struct reader *in, struct sums *out, struct err_detail *detail) {
    out->slot = reader_u32(in);
    out->width = reader_u32(in);
    out->rows = reader_u64(in);
    out->g = reader_take(in, (size_t)out->width * sizeof(double));
    if (in->failed)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "score sums are cut short");
    for (uint32_t k = 0; k < out->width; k++) {
        if (!isfinite(load_f64(out->g + k * sizeof(double))))
            return err_set(detail, DIMFIT_ERR_NOT_FINITE,
                           "slot %u: the score sum of dimension %u is not finite", out->slot, k);
    }
    return DIMFIT_OK;
}

dimfit_err sums_decode(const void *bytes, size_t len, struct sums **out, size_t *n,
                       struct err_detail *detail) {
    struct reader in = reader_of(bytes, len);
    const size_t count = reader_u32(&in);
    if (!reader_has(&in, count, ENTRY_BYTES))
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "score sums are cut short");
    struct sums *const sums = malloc((count + 1) * sizeof *sums);
    if (sums == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for the score sums of %zu slots",
                       count);
    dimfit_err err = DIMFIT_OK;
    for (size_t i = 0; i < count && err == DIMFIT_OK; i++) {
        err = read_entry(&in, &sums[i], detail);
        if (err == DIMFIT_OK && i > 0 && sums[i].slot <= sums[i - 1].slot)
            err = err_set(detail, DIMFIT_ERR_PROTOCOL,
                          "score sums of slot %u come after those of slot %u; slots ascend",
                          sums[i].slot, sums[i - 1].slot);
    }
    if (err == DIMFIT_OK && !reader_done(&in))
        err = err_set(detail, DIMFIT_ERR_PROTOCOL, "bytes left over after the score sums");
    if (err != DIMFIT_OK) {
        free(sums);
        return err;
    }
    *out = sums;
    *n = count;
    return DIMFIT_OK;
}

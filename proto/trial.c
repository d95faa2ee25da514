#include "proto/trial.h"

#include <math.h>

void trial_encode(const struct trial_figures *figures, struct buf *out) {
    buf_put_f64(out, figures->loss);
    buf_put_f64(out, figures->auc);
    buf_put_f64(out, figures->whole_loss);
    buf_put_f64(out, figures->whole_auc);
    buf_put_f64(out, figures->error);
}

static bool is_auc(double auc) {
    return isnan(auc) || (auc >= 0 && auc <= 1);
}

dimfit_err trial_decode(const void *bytes, size_t len, struct trial_figures *out,
                        struct err_detail *detail) {
    struct reader in = reader_of(bytes, len);
    struct trial_figures f;
    f.loss = reader_f64(&in);
    f.auc = reader_f64(&in);
    f.whole_loss = reader_f64(&in);
    f.whole_auc = reader_f64(&in);
    f.error = reader_f64(&in);
    if (!reader_done(&in))
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "%zu bytes are no figures of a trial", len);
    if (!isfinite(f.loss) || !isfinite(f.whole_loss) || !isfinite(f.error) || f.error < 0 ||
        !is_auc(f.auc) || !is_auc(f.whole_auc))
        return err_set(detail, DIMFIT_ERR_NOT_FINITE,
                       "a trial's figures (loss %g, auc %g, of the whole model %g, %g) are not "
                       "finite numbers in their range; has training diverged?",
                       f.loss, f.auc, f.whole_loss, f.whole_auc);
    *out = f;
    return DIMFIT_OK;
}

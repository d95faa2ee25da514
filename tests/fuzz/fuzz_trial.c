/* A worker's figures of a trial: what decodes is in range and encodes to the same bytes. */
#include "proto/trial.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>

bool fuzz_one(const uint8_t *bytes, size_t len) {
    struct trial_figures figures;
    struct err_detail detail;
    if (trial_decode(bytes, len, &figures, &detail) != DIMFIT_OK)
        return false;
    REQUIRE(isfinite(figures.loss) && isfinite(figures.whole_loss) && figures.error >= 0);
    REQUIRE(isnan(figures.auc) || (figures.auc >= 0 && figures.auc <= 1));
    struct buf buf;
    buf_init(&buf);
    trial_encode(&figures, &buf);
    REQUIRE(fuzz_same(&buf, bytes, len));
    buf_fini(&buf);
    return true;
}

void fuzz_seeds(struct fuzz_sink *sink) {
    const struct trial_figures figures[] = {{0.45, 0.78, 0.44, 0.79, 0.001},
                                            {0.45, NAN, 0.44, NAN, 0}};
    struct buf buf;
    buf_init(&buf);
    for (size_t i = 0; i < ARRAY_LEN(figures); i++) {
        trial_encode(&figures[i], &buf);
        fuzz_put_buf(sink, &buf);
    }
    buf_fini(&buf);
}

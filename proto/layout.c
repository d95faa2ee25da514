#include "proto/layout.h"

#include <math.h>
#include <stdlib.h>

enum {
    LAYOUT_MAGIC = 0x334c6664, /* "dfL3" */
    SLOT_BYTES_MIN = 57,       /* an encoded slot with a name of one byte and width 0 */
};

const char *optimizer_name(enum optimizer_kind kind) {
    switch (kind) {
#define OPTIMIZER_TEXT(num, name, text)                                                            \
    case OPTIMIZER_##name:                                                                         \
        return text;
        OPTIMIZER_MAP(OPTIMIZER_TEXT)
#undef OPTIMIZER_TEXT
    }
    return NULL;
}

const char *init_name(enum init_kind kind) {
    switch (kind) {
#define INIT_TEXT(num, name, text)                                                                 \
    case INIT_##name:                                                                              \
        return text;
        INIT_MAP(INIT_TEXT)
#undef INIT_TEXT
    }
    return NULL;
}

bool optimizer_parse(const char *name, enum optimizer_kind *out) {
#define OPTIMIZER_PARSE(num, kind, text)                                                           \
    if (strcmp(name, text) == 0) {                                                                 \
        *out = OPTIMIZER_##kind;                                                                   \
        return true;                                                                               \
    }
    OPTIMIZER_MAP(OPTIMIZER_PARSE)
#undef OPTIMIZER_PARSE
    return false;
}

bool init_parse(const char *name, enum init_kind *out) {
#define INIT_PARSE(num, kind, text)                                                                \
    if (strcmp(name, text) == 0) {                                                                 \
        *out = INIT_##kind;                                                                        \
        return true;                                                                               \
    }
    INIT_MAP(INIT_PARSE)
#undef INIT_PARSE
    return false;
}

size_t optimizer_state_width(enum optimizer_kind kind, size_t width) {
    switch (kind) {
    case OPTIMIZER_SGD:
        return 0;
    case OPTIMIZER_ROWWISE_ADAGRAD:
        return 1;
    case OPTIMIZER_ADAGRAD:
        return width;
    case OPTIMIZER_ADAM:
        return 2 * width + 1;
    case OPTIMIZER_FTRL:
        return 2 * width;
    }
    return 0;
}

/* ---- slots ----------------------------------------------------------------------------------- */

/* Names end up in JSON and on terminals: valid UTF-8 without control bytes. */
static bool name_is_text(const char *name) {
    const unsigned char *s = (const unsigned char *)name;
    while (*s != 0) {
        const unsigned char lead = *s++;
        if (lead < 0x20 || lead == 0x7f)
            return false;
        if (lead < 0x80)
            continue;
        const int more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
        uint32_t code = lead & (0x3fu >> more);
        if (lead < 0xc2 || lead > 0xf4)
            return false;
        for (int i = 0; i < more; i++, s++) {
            if ((*s & 0xc0) != 0x80)
                return false;
            code = code << 6 | (*s & 0x3f);
        }
        const bool overlong = (more == 2 && code < 0x800) || (more == 3 && code < 0x10000);
        if (overlong || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
            return false;
    }
    return true;
}

static bool at_least_zero(float v) {
    return isfinite(v) && v >= 0;
}

/* Everything but the arrays; bad is what the caller calls a refusal. */
static dimfit_err slot_check(const struct layout_slot *slot, dimfit_err bad,
                             struct err_detail *detail) {
    const struct optimizer *const o = &slot->optimizer;
    if (slot->dim < 1 || slot->dim > LAYOUT_DIM_MAX)
        return err_set(detail, bad, "slot %u: dim %u is not within 1..%d", slot->id, slot->dim,
                       LAYOUT_DIM_MAX);
    if (slot->width > slot->dim)
        return err_set(detail, bad, "slot %u: width %u is more than its dim %u", slot->id,
                       slot->width, slot->dim);
    if (memchr(slot->name, 0, sizeof slot->name) == NULL || slot->name[0] == 0 ||
        !name_is_text(slot->name))
        return err_set(
            detail, bad,
            "slot %u: the name must be 1 to %d bytes of UTF-8 without control characters", slot->id,
            LAYOUT_NAME_MAX);
    if (optimizer_name(o->kind) == NULL)
        return err_set(detail, bad, "slot %u: optimizer %d is not known", slot->id, (int)o->kind);
    if (!at_least_zero(o->lr) || !at_least_zero(o->eps))
        return err_set(detail, bad, "slot %u: lr %g and eps %g must be finite and >= 0", slot->id,
                       (double)o->lr, (double)o->eps);
    if (o->kind == OPTIMIZER_ADAM &&
        !(o->beta1 >= 0 && o->beta1 < 1 && o->beta2 >= 0 && o->beta2 < 1))
        return err_set(detail, bad, "slot %u: beta1 %g and beta2 %g must be within [0, 1)",
                       slot->id, (double)o->beta1, (double)o->beta2);
    if (o->kind == OPTIMIZER_FTRL &&
        !(o->lr > 0 && at_least_zero(o->beta) && at_least_zero(o->l1) && at_least_zero(o->l2)))
        return err_set(detail, bad,
                       "slot %u: ftrl takes an lr > 0, and a beta, l1 and l2 that are finite and "
                       ">= 0, not %g, %g, %g, %g",
                       slot->id, (double)o->lr, (double)o->beta, (double)o->l1, (double)o->l2);
    if (init_name(slot->init) == NULL)
        return err_set(detail, bad, "slot %u: init %d is not known", slot->id, (int)slot->init);
    if (!at_least_zero(slot->init_scale))
        return err_set(detail, bad, "slot %u: init_scale %g must be finite and >= 0", slot->id,
                       (double)slot->init_scale);
    const dimfit_err err = retention_check(&slot->retention, slot->id, bad, detail);
    return err == DIMFIT_OK
               ? tiers_check_shows(slot->tier_shows, slot->n_tiers, slot->id, bad, detail)
               : err;
}

void layout_slot_fini(struct layout_slot *slot) {
    free(slot->axes);
    free(slot->basis);
    free(slot->mean);
    free(slot->init_map);
    free(slot->init_shift);
    slot->axes = NULL;
    slot->basis = slot->mean = slot->init_map = slot->init_shift = NULL;
}

/* A copy that is there even for zero bytes: NULL says how a basis is kept, not how wide it is. */
static void *copy_array(const void *from, size_t bytes) {
    void *const to = malloc(bytes > 0 ? bytes : 1);
    if (to != NULL && bytes > 0)
        memcpy(to, from, bytes);
    return to;
}

dimfit_err layout_slot_copy(const struct layout_slot *from, struct layout_slot *out) {
    const size_t w = from->width, d = from->dim;
    struct layout_slot to = *from;
    to.axes = NULL;
    to.basis = to.mean = to.init_map = to.init_shift = NULL;
    bool whole;
    if (from->axes != NULL) {
        to.axes = copy_array(from->axes, w * sizeof *to.axes);
        whole = to.axes != NULL;
    } else {
        to.basis = copy_array(from->basis, d * w * sizeof *to.basis);
        to.mean = copy_array(from->mean, d * sizeof *to.mean);
        to.init_map = copy_array(from->init_map, d * w * sizeof *to.init_map);
        to.init_shift = copy_array(from->init_shift, w * sizeof *to.init_shift);
        whole = to.basis != NULL && to.mean != NULL && to.init_map != NULL && to.init_shift != NULL;
    }
    if (!whole) {
        layout_slot_fini(&to);
        return DIMFIT_ERR_NOMEM;
    }
    *out = to;
    return DIMFIT_OK;
}

/* ---- layouts --------------------------------------------------------------------------------- */

dimfit_err layout_new(uint64_t epoch, uint64_t seed, struct layout **out) {
    struct layout *const layout = calloc(1, sizeof *layout);
    if (layout == NULL)
        return DIMFIT_ERR_NOMEM;
    layout->epoch = epoch;
    layout->seed = seed;
    *out = layout;
    return DIMFIT_OK;
}

void layout_destroy(struct layout **layout) {
    if (*layout == NULL)
        return;
    for (size_t i = 0; i < (*layout)->n_slots; i++)
        layout_slot_fini(&(*layout)->slots[i]);
    free((*layout)->slots);
    free(*layout);
    *layout = NULL;
}

/* The array of slots holds a power of two of them, so that n_slots alone says when it is full. */
static dimfit_err slots_reserve(struct layout *layout) {
    const size_t n = layout->n_slots;
    if ((n & (n - 1)) != 0)
        return DIMFIT_OK;
    struct layout_slot *const slots = realloc(layout->slots, (n > 0 ? 2 * n : 1) * sizeof *slots);
    if (slots == NULL)
        return DIMFIT_ERR_NOMEM;
    layout->slots = slots;
    return DIMFIT_OK;
}

dimfit_err layout_copy(const struct layout *layout, struct layout **out) {
    struct layout *copy = NULL;
    dimfit_err err = layout_new(layout->epoch, layout->seed, &copy);
    for (size_t i = 0; i < layout->n_slots && err == DIMFIT_OK; i++) {
        err = slots_reserve(copy);
        if (err == DIMFIT_OK)
            err = layout_slot_copy(&layout->slots[i], &copy->slots[i]);
        if (err == DIMFIT_OK)
            copy->n_slots++;
    }
    if (err != DIMFIT_OK) {
        layout_destroy(&copy);
        return err;
    }
    *out = copy;
    return DIMFIT_OK;
}

/* Where the slot is, or belongs. */
static size_t slot_position(const struct layout *layout, uint32_t id) {
    size_t low = 0, high = layout->n_slots;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (layout->slots[mid].id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

const struct layout_slot *layout_find(const struct layout *layout, uint32_t id) {
    const size_t i = slot_position(layout, id);
    return i < layout->n_slots && layout->slots[i].id == id ? &layout->slots[i] : NULL;
}

/* What a specification left out. */
static void slot_complete(struct layout_slot *slot) {
    retention_complete(&slot->retention);
    if (slot->n_tiers == 0)
        slot->n_tiers = 1;
    for (uint32_t t = 0; t < LAYOUT_TIERS_MAX; t++)
        slot->tier_widths[t] = t < slot->n_tiers ? slot->width : 0;
}

static dimfit_err check_new(const struct layout *layout, const struct layout_slot *spec,
                            struct err_detail *detail) {
    const dimfit_err err = slot_check(spec, DIMFIT_ERR_INVALID, detail);
    if (err != DIMFIT_OK)
        return err;
    if (spec->width < 1)
        return err_set(detail, DIMFIT_ERR_INVALID, "slot %u: width 0 is not within 1..%u", spec->id,
                       spec->dim);
    if (layout_find(layout, spec->id) != NULL)
        return err_set(detail, DIMFIT_ERR_EXISTS, "slot %u is there already", spec->id);
    for (size_t i = 0; i < layout->n_slots; i++) {
        if (strcmp(layout->slots[i].name, spec->name) == 0)
            return err_set(detail, DIMFIT_ERR_EXISTS, "slot %u: the name '%s' is that of slot %u",
                           spec->id, spec->name, layout->slots[i].id);
    }
    if (layout->n_slots >= LAYOUT_SLOTS_MAX)
        return err_set(detail, DIMFIT_ERR_LIMIT,
                       "slot %u: there are %d slots, no more are possible", spec->id,
                       LAYOUT_SLOTS_MAX);
    return DIMFIT_OK;
}

dimfit_err layout_add_slot(struct layout *layout, const struct layout_slot *spec,
                           struct err_detail *detail) {
    struct layout_slot whole = *spec;
    slot_complete(&whole);
    dimfit_err err = check_new(layout, &whole, detail);
    if (err != DIMFIT_OK)
        return err;
    uint16_t *const axes = malloc(spec->width * sizeof *axes);
    err = axes == NULL ? DIMFIT_ERR_NOMEM : slots_reserve(layout);
    if (err != DIMFIT_OK) {
        free(axes);
        return err_set(detail, err, "slot %u: no memory to add it", spec->id);
    }
    for (uint32_t k = 0; k < spec->width; k++)
        axes[k] = (uint16_t)k;
    const size_t at = slot_position(layout, spec->id);
    memmove(&layout->slots[at + 1], &layout->slots[at],
            (layout->n_slots - at) * sizeof *layout->slots);
    struct layout_slot *const slot = &layout->slots[at];
    *slot = whole;
    slot->axes = axes;
    slot->basis = slot->mean = slot->init_map = slot->init_shift = NULL;
    layout->n_slots++;
    return DIMFIT_OK;
}

void layout_slot_basis(const struct layout_slot *slot, double *M) {
    const size_t w = slot->width, d = slot->dim;
    if (slot->axes == NULL) {
        if (w > 0)
            memcpy(M, slot->basis, d * w * sizeof *M);
        return;
    }
    for (size_t i = 0; i < d * w; i++)
        M[i] = 0;
    for (size_t k = 0; k < w; k++)
        M[slot->axes[k] * w + k] = 1;
}

void layout_slot_mean(const struct layout_slot *slot, double *mean) {
    if (slot->mean != NULL)
        memcpy(mean, slot->mean, slot->dim * sizeof *mean);
    else
        memset(mean, 0, slot->dim * sizeof *mean);
}

double layout_orthonormal_error(const double *M, size_t rows, size_t cols) {
    double products[LAYOUT_DIM_MAX];
    double worst = 0;
    base_assert(cols <= LAYOUT_DIM_MAX);
    for (size_t i = 0; i < cols; i++) {
        memset(products + i, 0, (cols - i) * sizeof *products);
        for (size_t r = 0; r < rows; r++) {
            const double *const row = M + r * cols;
            const double scale = row[i];
            for (size_t j = i; j < cols; j++)
                products[j] += scale * row[j];
        }
        products[i] -= 1;
        for (size_t j = i; j < cols; j++) {
            const double error = fabs(products[j]);
            if (!isfinite(error))
                return INFINITY;
            if (error > worst)
                worst = error;
        }
    }
    return worst;
}

uint64_t layout_bytes(const struct layout *layout) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < layout->n_slots; i++) {
        const struct layout_slot *const slot = &layout->slots[i];
        const uint64_t w = slot->width, d = slot->dim;
        bytes += slot->axes != NULL ? w * sizeof *slot->axes : (2 * d * w + d + w) * sizeof(double);
    }
    return bytes;
}

/* ---- bytes ----------------------------------------------------------------------------------- */

void layout_slot_encode(const struct layout_slot *slot, struct buf *out) {
    const size_t w = slot->width, d = slot->dim;
    buf_put_u32(out, slot->id);
    buf_put_u32(out, slot->dim);
    buf_put_u32(out, slot->width);
    buf_put_u8(out, slot->search);
    buf_put_str(out, slot->name);
    buf_put_u8(out, (uint8_t)slot->optimizer.kind);
    buf_put_f32(out, slot->optimizer.lr);
    buf_put_f32(out, slot->optimizer.eps);
    buf_put_f32(out, slot->optimizer.beta1);
    buf_put_f32(out, slot->optimizer.beta2);
    if (slot->optimizer.kind == OPTIMIZER_FTRL) {
        buf_put_f32(out, slot->optimizer.beta);
        buf_put_f32(out, slot->optimizer.l1);
        buf_put_f32(out, slot->optimizer.l2);
    }
    buf_put_u8(out, (uint8_t)slot->init);
    buf_put_f32(out, slot->init_scale);
    retention_encode(&slot->retention, out);
    buf_put_u8(out, (uint8_t)slot->n_tiers);
    tiers_encode_shows(slot->tier_shows, slot->n_tiers, out);
    tiers_encode_widths(slot->tier_widths, slot->n_tiers, out);
    buf_put_u8(out, slot->axes == NULL);
    if (slot->axes != NULL) {
        buf_put(out, slot->axes, w * sizeof *slot->axes);
        return;
    }
    buf_put(out, slot->basis, d * w * sizeof *slot->basis);
    buf_put(out, slot->mean, d * sizeof *slot->mean);
    buf_put(out, slot->init_map, d * w * sizeof *slot->init_map);
    buf_put(out, slot->init_shift, w * sizeof *slot->init_shift);
}

static bool read_flag(struct reader *in) {
    const uint8_t flag = reader_u8(in);
    if (flag > 1)
        in->failed = true;
    return flag == 1;
}

/* NULL with in->failed clear is out of memory. */
static void *read_array(struct reader *in, size_t n, size_t size) {
    if (!reader_has(in, n, size))
        return NULL;
    return copy_array(reader_take(in, n * size), n * size);
}

static bool all_finite(const double *v, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(v[i]))
            return false;
    }
    return true;
}

static dimfit_err read_axes(struct reader *in, struct layout_slot *slot,
                            struct err_detail *detail) {
    bool seen[LAYOUT_DIM_MAX] = {false};
    slot->axes = read_array(in, slot->width, sizeof *slot->axes);
    if (slot->axes == NULL)
        return in->failed ? DIMFIT_ERR_PROTOCOL : DIMFIT_ERR_NOMEM;
    for (uint32_t k = 0; k < slot->width; k++) {
        const uint16_t axis = slot->axes[k];
        if (axis >= slot->dim || seen[axis])
            return err_set(detail, DIMFIT_ERR_PROTOCOL,
                           "slot %u: axis %u is twice there or not within its dim %u", slot->id,
                           axis, slot->dim);
        seen[axis] = true;
    }
    return DIMFIT_OK;
}

static dimfit_err read_basis(struct reader *in, struct layout_slot *slot,
                             struct err_detail *detail) {
    const size_t w = slot->width, d = slot->dim;
    slot->basis = read_array(in, d * w, sizeof *slot->basis);
    slot->mean = read_array(in, d, sizeof *slot->mean);
    slot->init_map = read_array(in, d * w, sizeof *slot->init_map);
    slot->init_shift = read_array(in, w, sizeof *slot->init_shift);
    if (in->failed)
        return DIMFIT_ERR_PROTOCOL;
    if (slot->basis == NULL || slot->mean == NULL || slot->init_map == NULL ||
        slot->init_shift == NULL)
        return DIMFIT_ERR_NOMEM;
    if (!all_finite(slot->mean, d) || !all_finite(slot->init_map, d * w) ||
        !all_finite(slot->init_shift, w))
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "slot %u: mean or initial map is not finite",
                       slot->id);
    const double error = layout_orthonormal_error(slot->basis, d, w);
    if (error > 1e-6)
        return err_set(detail, DIMFIT_ERR_PROTOCOL,
                       "slot %u: the columns of its basis are %g away from orthonormal", slot->id,
                       error);
    return DIMFIT_OK;
}

dimfit_err layout_slot_decode(struct reader *in, struct layout_slot *out,
                              struct err_detail *detail) {
    struct layout_slot slot = {0};
    err_set(detail, DIMFIT_ERR_PROTOCOL, "a slot of the layout is cut short or malformed");
    slot.id = reader_u32(in);
    slot.dim = reader_u32(in);
    slot.width = reader_u32(in);
    slot.search = read_flag(in);
    reader_str(in, slot.name, sizeof slot.name);
    slot.optimizer.kind = reader_u8(in);
    slot.optimizer.lr = reader_f32(in);
    slot.optimizer.eps = reader_f32(in);
    slot.optimizer.beta1 = reader_f32(in);
    slot.optimizer.beta2 = reader_f32(in);
    if (slot.optimizer.kind == OPTIMIZER_FTRL) {
        slot.optimizer.beta = reader_f32(in);
        slot.optimizer.l1 = reader_f32(in);
        slot.optimizer.l2 = reader_f32(in);
    }
    slot.init = reader_u8(in);
    slot.init_scale = reader_f32(in);
    retention_decode(in, &slot.retention);
    slot.n_tiers = tiers_decode_number(in);
    tiers_decode_shows(in, slot.n_tiers, slot.tier_shows);
    tiers_decode_widths(in, slot.n_tiers, slot.width, slot.tier_widths);
    const bool dense = read_flag(in);
    if (in->failed)
        return DIMFIT_ERR_PROTOCOL;
    dimfit_err err = slot_check(&slot, DIMFIT_ERR_PROTOCOL, detail);
    if (err == DIMFIT_OK)
        err = tiers_check_widths(slot.tier_widths, slot.n_tiers, slot.width, slot.id,
                                 DIMFIT_ERR_PROTOCOL, detail);
    if (err == DIMFIT_OK && dense && slot.optimizer.kind == OPTIMIZER_FTRL)
        err = err_set(detail, DIMFIT_ERR_PROTOCOL, "slot %u: ftrl takes the axis basis only",
                      slot.id);
    if (err == DIMFIT_OK)
        err = dense ? read_basis(in, &slot, detail) : read_axes(in, &slot, detail);
    if (err == DIMFIT_ERR_NOMEM)
        err_set(detail, err, "slot %u: no memory for its basis", slot.id);
    if (err != DIMFIT_OK) {
        layout_slot_fini(&slot);
        return err;
    }
    *out = slot;
    return DIMFIT_OK;
}

void layout_encode(const struct layout *layout, struct buf *out) {
    buf_put_u32(out, LAYOUT_MAGIC);
    buf_put_u64(out, layout->epoch);
    buf_put_u64(out, layout->seed);
    buf_put_u32(out, (uint32_t)layout->n_slots);
    for (size_t i = 0; i < layout->n_slots; i++)
        layout_slot_encode(&layout->slots[i], out);
}

static dimfit_err read_slots(struct reader *in, uint32_t n, struct layout *layout,
                             struct err_detail *detail) {
    for (uint32_t i = 0; i < n; i++) {
        dimfit_err err = slots_reserve(layout);
        if (err != DIMFIT_OK)
            return err_set(detail, err, "no memory for a layout of %u slots", n);
        err = layout_slot_decode(in, &layout->slots[i], detail);
        if (err != DIMFIT_OK)
            return err;
        layout->n_slots++;
        if (i > 0 && layout->slots[i - 1].id >= layout->slots[i].id)
            return err_set(detail, DIMFIT_ERR_PROTOCOL, "slot %u of the layout is out of order",
                           layout->slots[i].id);
    }
    return DIMFIT_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const struct layout_slot *const *)a)->name,
                  (*(const struct layout_slot *const *)b)->name);
}

static dimfit_err check_names(const struct layout *layout, struct err_detail *detail) {
    const size_t n = layout->n_slots;
    dimfit_err err = DIMFIT_OK;
    const struct layout_slot **const sorted = malloc((n + 1) * sizeof *sorted);
    if (sorted == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for a layout of %zu slots", n);
    for (size_t i = 0; i < n; i++)
        sorted[i] = &layout->slots[i];
    qsort(sorted, n, sizeof *sorted, by_name);
    for (size_t i = 1; i < n && err == DIMFIT_OK; i++) {
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            err = err_set(detail, DIMFIT_ERR_PROTOCOL, "slots %u and %u have the same name '%s'",
                          sorted[i - 1]->id, sorted[i]->id, sorted[i]->name);
    }
    free(sorted);
    return err;
}

dimfit_err layout_decode(const void *bytes, size_t len, struct layout **out,
                         struct err_detail *detail) {
    struct reader in = reader_of(bytes, len);
    const uint32_t magic = reader_u32(&in);
    const uint64_t epoch = reader_u64(&in);
    const uint64_t seed = reader_u64(&in);
    const uint32_t n = reader_u32(&in);
    if (in.failed || magic != LAYOUT_MAGIC)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "these %zu bytes are no layout", len);
    if (n > LAYOUT_SLOTS_MAX || !reader_has(&in, n, SLOT_BYTES_MIN))
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "a layout of %zu bytes can't hold %u slots",
                       len, n);
    struct layout *layout = NULL;
    dimfit_err err = layout_new(epoch, seed, &layout);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "no memory for a layout");
    err = read_slots(&in, n, layout, detail);
    if (err == DIMFIT_OK && !reader_done(&in))
        err = err_set(detail, DIMFIT_ERR_PROTOCOL, "%zu bytes are left over after the layout",
                      in.left);
    if (err == DIMFIT_OK)
        err = check_names(layout, detail);
    if (err != DIMFIT_OK) {
        layout_destroy(&layout);
        return err;
    }
    *out = layout;
    return DIMFIT_OK;
}

#include "worker/train/lines.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

static dimfit_err refuse_label(const char *text, struct err_detail *why) {
    return err_set(why, DIMFIT_ERR_DATA, "the label is '%.40s', not 0 or 1", text);
}

static dimfit_err add(struct sample *out, uint32_t slot, uint64_t feasign, float weight,
                      struct err_detail *why) {
    if (sample_add(out, slot, feasign, weight) != DIMFIT_OK)
        return err_set(why, DIMFIT_ERR_DATA, "more than %d features", SAMPLE_ITEMS_MAX);
    return DIMFIT_OK;
}

static dimfit_err criteo_integer(uint32_t slot, const char *text, uint64_t *feasign,
                                 struct err_detail *why) {
    double x = 0;
    if (text[0] == '\0') {
        *feasign = sample_feasign(slot, "", 0);
        return DIMFIT_OK;
    }
    if (!sample_parse_number(text, &x) || x != floor(x))
        return err_set(why, DIMFIT_ERR_DATA, "field I%" PRIu32 " is '%.40s', not an integer", slot,
                       text);
    const double l = x > 2 ? log(x) : 0;
    char bucket[32];
    const int len = x > 2 ? snprintf(bucket, sizeof bucket, "log%.0f", floor(l * l))
                          : snprintf(bucket, sizeof bucket, "%.20g", x);
    *feasign = sample_feasign(slot, bucket, (size_t)len);
    return DIMFIT_OK;
}

dimfit_err lines_criteo(char *line, size_t len, struct sample *out, struct err_detail *why) {
    enum { FIELDS = 1 + CRITEO_INTEGERS + CRITEO_CATEGORIES };
    size_t tabs = 0;
    for (size_t i = 0; i < len; i++)
        tabs += line[i] == '\t';
    if (tabs + 1 != FIELDS)
        return err_set(why, DIMFIT_ERR_DATA, "%zu fields, not %d", tabs + 1, FIELDS);
    out->n = 0;
    char *text = line;
    for (uint32_t field = 0; field < FIELDS; field++) {
        char *const end = field + 1 < FIELDS ? strchr(text, '\t') : line + len;
        if (end == NULL)
            return err_set(why, DIMFIT_ERR_DATA, "a NUL byte in field %" PRIu32, field + 1);
        *end = '\0';
        uint64_t feasign = 0;
        dimfit_err err = DIMFIT_OK;
        if (field == 0)
            err = sample_parse_label(text, &out->label) ? DIMFIT_OK : refuse_label(text, why);
        else if (field <= CRITEO_INTEGERS)
            err = criteo_integer(field, text, &feasign, why);
        else
            feasign = sample_feasign(field, text, (size_t)(end - text));
        if (err == DIMFIT_OK && field > 0)
            err = add(out, field, feasign, 1, why);
        if (err != DIMFIT_OK)
            return err;
        text = end + 1;
    }
    return DIMFIT_OK;
}

/* Split "a:b:c" at its colons into exactly n parts. */
static bool split(char *text, char **parts, size_t n) {
    for (size_t i = 0; i < n; i++) {
        parts[i] = text;
        char *const colon = strchr(text, ':');
        if ((colon != NULL) != (i + 1 < n))
            return false;
        if (colon != NULL) {
            *colon = '\0';
            text = colon + 1;
        }
    }
    return true;
}

static dimfit_err libffm_item(char *text, struct sample *out, struct err_detail *why) {
    char copy[64], *parts[3];
    snprintf(copy, sizeof copy, "%s", text);
    uint64_t field, feature;
    double value;
    if (!split(text, parts, 3) || !sample_parse_u64(parts[0], &field) ||
        !sample_parse_u64(parts[1], &feature) || !sample_parse_number(parts[2], &value))
        return err_set(why, DIMFIT_ERR_DATA, "'%s' is not field:feature:value", copy);
    if (field + 1 >= SAMPLE_SLOT_LINEAR)
        return err_set(why, DIMFIT_ERR_DATA, "field %" PRIu64 " is out of range", field);
    if (value == 0)
        return DIMFIT_OK;
    return add(out, (uint32_t)field + 1, feature, (float)value, why);
}

static dimfit_err slots_item(char *text, struct sample *out, struct err_detail *why) {
    char copy[64], *parts[2];
    snprintf(copy, sizeof copy, "%s", text);
    uint64_t slot, feasign;
    if (!split(text, parts, 2) || !sample_parse_u64(parts[0], &slot) ||
        !sample_parse_u64(parts[1], &feasign))
        return err_set(why, DIMFIT_ERR_DATA, "'%s' is not slot:feasign", copy);
    if (slot >= SAMPLE_SLOT_LINEAR)
        return err_set(why, DIMFIT_ERR_DATA, "slot %" PRIu64 " is out of range", slot);
    return add(out, (uint32_t)slot, feasign, 1, why);
}

static dimfit_err read_items(char *line, size_t len, struct sample *out, struct err_detail *why,
                             dimfit_err (*item)(char *, struct sample *, struct err_detail *)) {
    static const char blanks[] = " \t";
    out->n = 0;
    if (memchr(line, '\0', len) != NULL)
        return err_set(why, DIMFIT_ERR_DATA, "a NUL byte");
    char *rest, *const label = strtok_r(line, blanks, &rest);
    if (label == NULL || !sample_parse_label(label, &out->label))
        return refuse_label(label != NULL ? label : "", why);
    for (char *text; (text = strtok_r(NULL, blanks, &rest)) != NULL;) {
        const dimfit_err err = item(text, out, why);
        if (err != DIMFIT_OK)
            return err;
    }
    return DIMFIT_OK;
}

dimfit_err lines_libffm(char *line, size_t len, struct sample *out, struct err_detail *why) {
    return read_items(line, len, out, why, libffm_item);
}

dimfit_err lines_slots(char *line, size_t len, struct sample *out, struct err_detail *why) {
    return read_items(line, len, out, why, slots_item);
}

void lines_criteo_name(uint32_t slot, char name[SAMPLE_SLOT_NAME]) {
    if (slot <= CRITEO_INTEGERS)
        snprintf(name, SAMPLE_SLOT_NAME, "I%" PRIu32, slot);
    else
        snprintf(name, SAMPLE_SLOT_NAME, "C%" PRIu32, slot - CRITEO_INTEGERS);
}

void lines_libffm_name(uint32_t slot, char name[SAMPLE_SLOT_NAME]) {
    snprintf(name, SAMPLE_SLOT_NAME, "field%" PRIu32, slot - 1);
}

void lines_slots_name(uint32_t slot, char name[SAMPLE_SLOT_NAME]) {
    snprintf(name, SAMPLE_SLOT_NAME, "slot%" PRIu32, slot);
}

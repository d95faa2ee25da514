#include "worker/train/csv.h"
#include "worker/train/mem.h"
#include "worker/train/quantile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { FIELDS_MAX = 65536 };

enum type { AUTO, CATEGORICAL, NUMERIC };

struct column {
    char name[SAMPLE_SLOT_NAME];
    enum type type;
    bool fraction;  /* a value that is not an integer was seen */
    double *values; /* [rows] while the column may be numeric, NaN for an empty cell */
};

struct field {
    const char *text; /* NUL-terminated */
    size_t len;
};

struct csv {
    struct csv_spec spec;
    char *header; /* first file's, to compare the others with */
    size_t n_fields, label_field;
    struct column *columns; /* [n_fields - 1] */
    struct field *fields;   /* [n_fields] of the current line */
    double *numbers;        /* [n_fields - 1] of the current line */
    size_t rows, cap;
};

struct csv *csv_new(const struct csv_spec *spec) {
    struct csv *const csv = mem_alloc(1, sizeof *csv);
    csv->spec = *spec;
    return csv;
}

void csv_destroy(struct csv **csvp) {
    struct csv *const csv = *csvp;
    if (csv == NULL)
        return;
    for (size_t i = 0; i + 1 < csv->n_fields; i++)
        free(csv->columns[i].values);
    free(csv->columns);
    free(csv->fields);
    free(csv->numbers);
    free(csv->header);
    free(csv);
    *csvp = NULL;
}

/* Take the next field off *at, unquoting in place. *at is NULL behind the last. */
static dimfit_err next_field(char **at, char *const end, struct field *out,
                             struct err_detail *why) {
    char *p = *at, *to = p;
    out->text = p;
    if (p < end && *p == '"') {
        for (p++;; p++) {
            if (p == end)
                return err_set(why, DIMFIT_ERR_DATA, "a quoted field does not end on its line");
            if (*p == '"' && (++p == end || *p != '"'))
                break;
            *to++ = *p;
        }
        if (p < end && *p != ',')
            return err_set(why, DIMFIT_ERR_DATA, "text behind a closing quote");
    } else {
        p = memchr(p, ',', (size_t)(end - p));
        if (p == NULL)
            p = end;
        to = p;
    }
    *at = p < end ? p + 1 : NULL;
    out->len = (size_t)(to - out->text);
    *to = '\0';
    return DIMFIT_OK;
}

/* Split a line into at most cap fields; *n counts them all. */
static dimfit_err split(char *line, size_t len, struct field *fields, size_t cap, size_t *n,
                        struct err_detail *why) {
    char *const end = line + len;
    *n = 0;
    for (char *at = line; at != NULL; (*n)++) {
        struct field beyond;
        const dimfit_err err = next_field(&at, end, *n < cap ? &fields[*n] : &beyond, why);
        if (err != DIMFIT_OK)
            return err;
    }
    return DIMFIT_OK;
}

static bool name_taken(const struct column *columns, size_t n, const char *name) {
    if (strcmp(name, "linear") == 0)
        return true;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(columns[i].name, name) == 0)
            return true;
    }
    return false;
}

/* Bytes of the UTF-8 character at p, 0 where there is none that can be shown. */
static size_t character(const unsigned char *p) {
    static const struct {
        unsigned char mask, lead;
    } forms[] = {{0x80, 0x00}, {0xe0, 0xc0}, {0xf0, 0xe0}, {0xf8, 0xf0}};
    if (*p < 0x20 || *p == 0x7f || *p == 0xc0 || *p == 0xc1 || *p > 0xf4)
        return 0;
    for (size_t more = 0; more < ARRAY_LEN(forms); more++) {
        if ((*p & forms[more].mask) != forms[more].lead)
            continue;
        for (size_t i = 1; i <= more; i++) {
            if ((p[i] & 0xc0) != 0x80)
                return 0;
        }
        const bool overlong = (*p == 0xe0 && p[1] < 0xa0) || (*p == 0xf0 && p[1] < 0x90);
        const bool surrogate = *p == 0xed && p[1] >= 0xa0, beyond = *p == 0xf4 && p[1] >= 0x90;
        return overlong || surrogate || beyond ? 0 : more + 1;
    }
    return 0;
}

/* Copy as many whole characters as fit into cap bytes with the NUL; a byte that is none becomes
 * '_'. */
static void copy_name(char *to, size_t cap, const char *text) {
    size_t at = 0;
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0';) {
        const size_t n = character(p), step = n > 0 ? n : 1;
        if (at + step >= cap)
            break;
        if (n > 0)
            memcpy(to + at, p, n);
        else
            to[at] = '_';
        at += step;
        p += step;
    }
    to[at] = '\0';
}

/* A slot's name: the column's, cut to what a slot's may have, made different from those before. */
static void name_column(struct column *columns, size_t n, const char *text) {
    enum { SUFFIX = 12 };
    char *const name = columns[n].name;
    if (text[0] != '\0')
        copy_name(name, SAMPLE_SLOT_NAME, text);
    else
        snprintf(name, SAMPLE_SLOT_NAME, "column%zu", n + 1);
    for (unsigned copy = 2; name_taken(columns, n, name); copy++) {
        copy_name(name, SAMPLE_SLOT_NAME - SUFFIX, text);
        const size_t len = strlen(name);
        snprintf(name + len, SAMPLE_SLOT_NAME - len, "~%u", copy);
    }
}

static dimfit_err set_types(struct csv *csv, const struct field *fields, const char *const *names,
                            size_t n, enum type type, struct err_detail *why) {
    for (size_t i = 0; i < n; i++) {
        bool found = false;
        size_t column = 0;
        for (size_t f = 0; f < csv->n_fields; f++) {
            if (f == csv->label_field)
                continue;
            if (strcmp(fields[f].text, names[i]) == 0) {
                csv->columns[column].type = type;
                found = true;
            }
            column++;
        }
        if (!found)
            return err_set(why, DIMFIT_ERR_INVALID, "--%s %s: there is no such feature column",
                           type == NUMERIC ? "numeric" : "categorical", names[i]);
    }
    return DIMFIT_OK;
}

static dimfit_err set_columns(struct csv *csv, const struct field *fields, size_t n,
                              struct err_detail *why) {
    const char *const label = csv->spec.label != NULL ? csv->spec.label : "label";
    size_t at = 0;
    while (at < n && strcmp(fields[at].text, label) != 0)
        at++;
    if (at == n)
        return err_set(why, DIMFIT_ERR_INVALID,
                       "there is no column '%.100s'; name the label's with --label", label);
    if (n < 2)
        return err_set(why, DIMFIT_ERR_DATA, "there is no column but the label");
    csv->n_fields = n;
    csv->label_field = at;
    csv->columns = mem_alloc(n - 1, sizeof *csv->columns);
    csv->fields = mem_alloc(n, sizeof *csv->fields);
    csv->numbers = mem_alloc(n - 1, sizeof *csv->numbers);
    for (size_t f = 0, column = 0; f < n; f++) {
        if (f != at)
            name_column(csv->columns, column++, fields[f].text);
    }
    dimfit_err err = set_types(csv, fields, csv->spec.numeric, csv->spec.n_numeric, NUMERIC, why);
    if (err == DIMFIT_OK)
        err = set_types(csv, fields, csv->spec.categorical, csv->spec.n_categorical, CATEGORICAL,
                        why);
    return err;
}

dimfit_err csv_header(struct csv *csv, char *line, size_t len, struct err_detail *why) {
    static const char byte_order_mark[] = "\xef\xbb\xbf";
    if (strncmp(line, byte_order_mark, 3) == 0) {
        line += 3;
        len -= 3;
    }
    if (csv->header != NULL) {
        if (strcmp(csv->header, line) != 0)
            return err_set(why, DIMFIT_ERR_DATA, "the header differs from the first file's");
        return DIMFIT_OK;
    }
    csv->header = mem_copy_text(line);
    struct field *const fields = mem_alloc(FIELDS_MAX, sizeof *fields);
    size_t n;
    dimfit_err err = split(line, len, fields, FIELDS_MAX, &n, why);
    if (err == DIMFIT_OK && n > FIELDS_MAX)
        err = err_set(why, DIMFIT_ERR_DATA, "more than %d columns", FIELDS_MAX);
    if (err == DIMFIT_OK)
        err = set_columns(csv, fields, n, why);
    free(fields);
    return err;
}

/* What the cell says as a number: NaN when empty. INVALID when it isn't one. */
static dimfit_err read_number(const struct field *field, double *out) {
    *out = NAN;
    if (field->len == 0 || sample_parse_number(field->text, out))
        return DIMFIT_OK;
    return DIMFIT_ERR_INVALID;
}

/* Remember the line's numbers for columns that may still be numeric. Only for a line that is taken.
 */
static void keep_numbers(struct csv *csv) {
    const size_t n = csv->n_fields - 1;
    if (csv->rows == csv->cap) {
        csv->cap = csv->cap > 0 ? 2 * csv->cap : 1024;
        for (size_t c = 0; c < n; c++) {
            struct column *const column = &csv->columns[c];
            if (column->type != CATEGORICAL)
                column->values = mem_resize(column->values, csv->cap, sizeof(double));
        }
    }
    for (size_t c = 0; c < n; c++) {
        struct column *const column = &csv->columns[c];
        const double x = csv->numbers[c];
        if (isinf(x)) {
            column->type = CATEGORICAL;
            free(column->values);
            column->values = NULL;
        }
        if (column->type == CATEGORICAL)
            continue;
        column->fraction |= !isnan(x) && x != floor(x);
        column->values[csv->rows] = x;
    }
    csv->rows++;
}

dimfit_err csv_line(struct csv *csv, char *line, size_t len, struct sample *out,
                    struct err_detail *why) {
    size_t n;
    dimfit_err err = split(line, len, csv->fields, csv->n_fields, &n, why);
    if (err != DIMFIT_OK)
        return err;
    if (n != csv->n_fields)
        return err_set(why, DIMFIT_ERR_DATA, "%zu fields where the header has %zu", n,
                       csv->n_fields);
    const struct field *const label = &csv->fields[csv->label_field];
    if (!sample_parse_label(label->text, &out->label))
        return err_set(why, DIMFIT_ERR_DATA, "the label is '%.40s', not 0 or 1", label->text);
    out->n = 0;
    for (size_t f = 0, c = 0; f < n; f++) {
        if (f == csv->label_field)
            continue;
        const struct field *const field = &csv->fields[f];
        const struct column *const column = &csv->columns[c];
        if (column->type != CATEGORICAL && read_number(field, &csv->numbers[c]) != DIMFIT_OK) {
            if (column->type == NUMERIC)
                return err_set(why, DIMFIT_ERR_DATA, "column %s is '%.40s', not a number",
                               column->name, field->text);
            csv->numbers[c] = INFINITY;
        }
        const uint32_t slot = (uint32_t)++c;
        err = sample_add(out, slot, sample_feasign(slot, field->text, field->len), 1);
        base_assert(err == DIMFIT_OK);
    }
    keep_numbers(csv);
    return DIMFIT_OK;
}

size_t csv_columns(const struct csv *csv) {
    return csv->n_fields > 0 ? csv->n_fields - 1 : 0;
}

const char *csv_column_name(const struct csv *csv, size_t column) {
    return csv->columns[column].name;
}

static void bucket_column(const struct csv *csv, size_t c, size_t buckets, const uint8_t *train,
                          uint64_t *keys) {
    const double *const values = csv->columns[c].values;
    const size_t n_columns = csv_columns(csv);
    const uint32_t slot = (uint32_t)c + 1;
    double *const sorted = mem_alloc(csv->rows, sizeof *sorted);
    double *const cuts = mem_alloc(buckets, sizeof *cuts);
    size_t n = 0;
    for (size_t r = 0; r < csv->rows; r++) {
        if (train[r] && !isnan(values[r]))
            sorted[n++] = values[r];
    }
    const size_t n_cuts = quantile_cuts(sorted, n, buckets, cuts);
    for (size_t r = 0; r < csv->rows; r++) {
        if (isnan(values[r]))
            continue; /* hashed as the empty text it is */
        char text[32];
        const int len = snprintf(text, sizeof text, "%zu",
                                 quantile_bucket(cuts, n_cuts, values[r]));
        keys[r * n_columns + c] = sample_feasign(slot, text, (size_t)len);
    }
    free(sorted);
    free(cuts);
}

size_t csv_bucket(struct csv *csv, size_t buckets, const uint8_t *train, uint64_t *keys) {
    size_t n = 0;
    for (size_t c = 0; c < csv_columns(csv); c++) {
        struct column *const column = &csv->columns[c];
        if (column->type == NUMERIC || (column->type == AUTO && column->fraction)) {
            bucket_column(csv, c, buckets, train, keys);
            n++;
        }
        free(column->values);
        column->values = NULL;
    }
    return n;
}

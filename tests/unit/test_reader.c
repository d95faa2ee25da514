#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "worker/train/dataset.h"
#include "worker/train/lines.h"
#include "worker/train/stream.h"

#include <lz4frame.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>

/* ---- files ----------------------------------------------------------------------------------- */

static char path[2][64]; /* of the test's files */

static int make_paths(void **state) {
    for (int i = 0; i < 2; i++) {
        strcpy(path[i], "/tmp/dimfit-reader-XXXXXX");
        const int fd = mkstemp(path[i]);
        assert_true(fd >= 0);
        close(fd);
    }
    return 0;
}

static int remove_paths(void **state) {
    unlink(path[0]);
    unlink(path[1]);
    return 0;
}

static void write_bytes(const char *to, const void *bytes, size_t len) {
    FILE *const f = fopen(to, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    fclose(f);
}

static void write_text(const char *to, const char *text) {
    write_bytes(to, text, strlen(text));
}

/* The text as a gzip member; returns its length. */
static size_t gzip(const char *text, unsigned char *out, size_t cap) {
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)text;
    z.avail_in = (uInt)strlen(text);
    z.next_out = out;
    z.avail_out = (uInt)cap;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    const size_t n = cap - z.avail_out;
    deflateEnd(&z);
    return n;
}

static size_t lz4(const char *text, unsigned char *out, size_t cap) {
    const LZ4F_preferences_t prefs = {
        .frameInfo = {.contentChecksumFlag = LZ4F_contentChecksumEnabled}};
    const size_t n = LZ4F_compressFrame(out, cap, text, strlen(text), &prefs);
    assert_false(LZ4F_isError(n));
    return n;
}

/* ---- loading --------------------------------------------------------------------------------- */

static struct dataset_spec spec_of(enum dataset_format format) {
    static const char *files[1];
    files[0] = path[0];
    return (struct dataset_spec){.format = format,
                                 .data = files,
                                 .n_data = 1,
                                 .buckets = 4,
                                 .split = {1, 0, 0},
                                 .split_seed = 1};
}

static struct dataset *load(const struct dataset_spec *spec) {
    struct dataset *data = NULL;
    struct err_detail detail = {""};
    if (dataset_load(spec, &data, &detail) != DIMFIT_OK)
        fail_msg("%s", detail.text);
    return data;
}

static struct dataset *load_text(enum dataset_format format, const char *text) {
    const struct dataset_spec spec = spec_of(format);
    write_text(path[0], text);
    return load(&spec);
}

/* The load must fail with this error, at this line, for this reason. */
static void refused(const struct dataset_spec *spec, dimfit_err err, unsigned line,
                    const char *why) {
    struct dataset *data = NULL;
    struct err_detail detail = {""};
    char expected[512];
    assert_int_equal(dataset_load(spec, &data, &detail), err);
    assert_null(data);
    snprintf(expected, sizeof expected, "%s:%u: %s", path[0], line, why);
    assert_string_equal(detail.text, expected);
}

static void refused_text(enum dataset_format format, const char *text, unsigned line,
                         const char *why) {
    const struct dataset_spec spec = spec_of(format);
    write_text(path[0], text);
    refused(&spec, DIMFIT_ERR_DATA, line, why);
}

static uint64_t hash(uint32_t slot, const char *text) {
    return sample_feasign(slot, text, strlen(text));
}

/* ---- csv ------------------------------------------------------------------------------------- */

static void csv_columns_become_slots_in_header_order(void **state) {
    struct dataset *d = load_text(DATASET_CSV, "site,label,ad\nx,1,7\ny,0,8\n,0,7\n");
    assert_int_equal(d->n_slots, 2);
    assert_int_equal(d->slots[0].id, 1);
    assert_string_equal(d->slots[0].name, "site");
    assert_int_equal(d->slots[1].id, 2);
    assert_string_equal(d->slots[1].name, "ad");
    assert_int_equal(d->rows, 3);
    assert_true(d->labels[0] == 1 && d->labels[1] == 0);
    assert_true(d->keys[0] == hash(1, "x") && d->keys[1] == hash(2, "7"));
    assert_true(d->keys[4] == hash(1, ""));
    assert_null(d->slot);
    assert_int_equal(d->numeric, 0);
    dataset_destroy(&d);
}

static void csv_quotes_hold_commas_and_doubled_quotes(void **state) {
    struct dataset *d = load_text(DATASET_CSV,
                                  "label,\"a,b\",c\r\n1,\"x \"\"y\"\", z\",\"\"\r\n0,q,\"r\"");
    assert_string_equal(d->slots[0].name, "a,b");
    assert_int_equal(d->rows, 2);
    assert_true(d->keys[0] == hash(1, "x \"y\", z"));
    assert_true(d->keys[1] == hash(2, ""));
    assert_true(d->keys[3] == hash(2, "r"));
    dataset_destroy(&d);
}

static void csv_integers_are_categories_and_fractions_are_bucketed(void **state) {
    struct dataset *d = load_text(DATASET_CSV, "label,id,price\n1,1,0.5\n0,2,1\n1,3,\n0,4,8\n"
                                               "1,5,9\n0,6,10\n1,7,2\n0,8,3\n1,9,4\n");
    assert_int_equal(d->numeric, 1);
    assert_true(d->keys[0] == hash(1, "1"));
    assert_true(d->keys[1] == hash(2, "0"));  /* .5 of .5 1 2 3 4 8 9 10 */
    assert_true(d->keys[5] == hash(2, ""));   /* empty: its own */
    assert_true(d->keys[11] == hash(2, "3")); /* 10 */
    assert_true(d->keys[3] == d->keys[1]);    /* 1 with .5 */
    assert_true(d->keys[13] == hash(2, "1") && d->keys[15] == hash(2, "1")); /* 2, 3 */
    dataset_destroy(&d);
}

static void csv_a_word_among_numbers_makes_a_category(void **state) {
    struct dataset *d = load_text(DATASET_CSV, "label,x\n1,0.5\n0,none\n1,1.5\n");
    assert_int_equal(d->numeric, 0);
    assert_true(d->keys[0] == hash(1, "0.5"));
    dataset_destroy(&d);
    d = load_text(DATASET_CSV, "label,x\n1,0.5\n0,nan\n1,0x10\n");
    assert_int_equal(d->numeric, 0);
    dataset_destroy(&d);
}

static void csv_options_override_what_a_column_looks_like(void **state) {
    const char *const numeric[] = {"n"}, *const categorical[] = {"c"};
    struct dataset_spec spec = spec_of(DATASET_CSV);
    spec.csv = (struct csv_spec){"y", numeric, categorical, 1, 1};
    write_text(path[0], "y,n,c\n1,1,0.5\n0,2,0.25\n");
    struct dataset *d = load(&spec);
    assert_int_equal(d->numeric, 1);
    assert_true(d->keys[1] == hash(2, "0.5"));
    assert_true(d->keys[0] != hash(1, "1") || d->keys[2] != hash(1, "2"));
    dataset_destroy(&d);
    write_text(path[0], "y,n,c\n1,1,0.5\n0,two,0.25\n");
    refused(&spec, DIMFIT_ERR_DATA, 3, "column n is 'two', not a number");
}

static void csv_buckets_are_cut_on_the_training_part_alone(void **state) {
    struct dataset_spec spec = spec_of(DATASET_CSV);
    spec.test = path[1];
    write_text(path[0], "label,x\n1,1.5\n0,2\n1,3\n0,4\n");
    write_text(path[1], "label,x\n1,1000\n0,2000\n1,3000\n0,-1\n");
    struct dataset *d = load(&spec);
    assert_int_equal(d->n_part[DATASET_TRAIN], 4);
    assert_int_equal(d->n_part[DATASET_TEST], 4);
    for (uint32_t b = 0; b < 4; b++) {
        char text[2] = {(char)('0' + b), '\0'};
        assert_true(d->keys[b] == hash(1, text));
    }
    assert_true(d->keys[4] == hash(1, "3") && d->keys[6] == hash(1, "3"));
    assert_true(d->keys[7] == hash(1, "0"));
    dataset_destroy(&d);
}

static void csv_slot_names_are_cut_and_made_unique(void **state) {
    struct dataset *d = load_text(
        DATASET_CSV,
        "label,a,a,,linear,0123456789012345678901234567890123456789012345678901234567890123456789,"
        "b\xff\x01,\xc3\xa9\n1,1,1,1,1,1,1,1\n");
    assert_string_equal(d->slots[0].name, "a");
    assert_string_equal(d->slots[1].name, "a~2");
    assert_string_equal(d->slots[2].name, "column3");
    assert_string_equal(d->slots[3].name, "linear~2");
    assert_int_equal(strlen(d->slots[4].name), 63);
    assert_string_equal(d->slots[5].name, "b__");
    assert_string_equal(d->slots[6].name, "\xc3\xa9");
    dataset_destroy(&d);
}

static void csv_malformed_lines_are_refused_by_place(void **state) {
    refused_text(DATASET_CSV, "label,a\n1,x\n0,y,z\n", 3, "3 fields where the header has 2");
    refused_text(DATASET_CSV, "label,a\n1\n", 2, "1 fields where the header has 2");
    refused_text(DATASET_CSV, "label,a\n1,x\n\n2,x\n", 4, "the label is '2', not 0 or 1");
    refused_text(DATASET_CSV, "label,a\n,x\n", 2, "the label is '', not 0 or 1");
    refused_text(DATASET_CSV, "label,a\n0.7,x\n", 2, "the label is '0.7', not 0 or 1");
    refused_text(DATASET_CSV, "label,a\n1,\"x\n", 2, "a quoted field does not end on its line");
    refused_text(DATASET_CSV, "label,a\n1,\"x\"y\n", 2, "text behind a closing quote");
    refused_text(DATASET_CSV, "label\n1\n", 1, "there is no column but the label");
}

static void csv_headers_are_checked(void **state) {
    struct dataset_spec spec = spec_of(DATASET_CSV);
    write_text(path[0], "clicked,a\n1,x\n");
    refused(&spec, DIMFIT_ERR_INVALID, 1,
            "there is no column 'label'; name the label's with --label");
    const char *const numeric[] = {"b"};
    spec.csv = (struct csv_spec){.label = "clicked", .numeric = numeric, .n_numeric = 1};
    refused(&spec, DIMFIT_ERR_INVALID, 1, "--numeric b: there is no such feature column");
    write_text(path[0], "");
    refused(&spec, DIMFIT_ERR_DATA, 1, "the file is empty, a header line is needed");
}

static void csv_files_must_have_the_same_header(void **state) {
    struct dataset_spec spec = spec_of(DATASET_CSV);
    struct dataset *data = NULL;
    struct err_detail detail;
    spec.test = path[1];
    write_text(path[0], "label,a\n1,x\n");
    write_text(path[1], "label,b\n1,x\n");
    assert_int_equal(dataset_load(&spec, &data, &detail), DIMFIT_ERR_DATA);
    assert_non_null(strstr(detail.text, ":1: the header differs from the first file's"));
    assert_ptr_equal(strstr(detail.text, path[1]), detail.text);
}

static void labels_may_be_written_in_several_ways(void **state) {
    struct dataset *d = load_text(DATASET_CSV, "label,a\n1,x\n1.0,x\n+1,x\n0,x\n0.0,x\n-1,x\n");
    for (size_t i = 0; i < 6; i++)
        assert_true(d->labels[i] == (i < 3));
    dataset_destroy(&d);
}

static void bad_lines_are_skipped_and_counted_when_asked(void **state) {
    struct dataset_spec spec = spec_of(DATASET_CSV);
    char first[128];
    spec.skip_bad = true;
    write_text(path[0], "label,a,b\n1,x,1.5\n0,y\n7,y,2.5\n0,z,3.5\n");
    struct dataset *d = load(&spec);
    assert_int_equal(d->rows, 2);
    assert_int_equal(d->skipped, 2);
    snprintf(first, sizeof first, "%s:3: 2 fields where the header has 3", path[0]);
    assert_string_equal(d->skipped_first, first);
    assert_true(d->keys[2] == hash(1, "z"));
    assert_true(d->keys[3] == hash(2, "1"));
    dataset_destroy(&d);
}

/* ---- other formats --------------------------------------------------------------------------- */

#define CATEGORIES "\ta\t\tc\td\te\tf\tg\th\ti\tj\tk\tl\tm\tn\to\tp\tq\tr\ts\tt\tu\tv\tw\tx\ty\tz"

static void criteo_integers_are_bucketed_by_squared_logarithm(void **state) {
    struct dataset *d = load_text(DATASET_CRITEO,
                                  "1\t0\t1\t2\t3\t\t-1\t100\t101\t5\t6\t7\t8\t9" CATEGORIES "\n");
    assert_int_equal(d->n_slots, 39);
    assert_string_equal(d->slots[0].name, "I1");
    assert_string_equal(d->slots[13].name, "C1");
    assert_string_equal(d->slots[38].name, "C26");
    assert_null(d->slot);
    assert_true(d->keys[0] == hash(1, "0") && d->keys[2] == hash(3, "2"));
    assert_true(d->keys[3] == hash(4, "log1")); /* log(3)^2 = 1.2 */
    assert_true(d->keys[4] == hash(5, ""));
    assert_true(d->keys[5] == hash(6, "-1"));
    assert_true(d->keys[6] == hash(7, "log21")); /* log(100)^2 = 21.2 */
    assert_true(d->keys[14] == hash(15, ""));
    assert_true(d->keys[38] == hash(39, "z"));
    dataset_destroy(&d);
}

static void criteo_malformed_lines_are_refused_by_place(void **state) {
    refused_text(DATASET_CRITEO, "1\t2\n", 1, "2 fields, not 40");
    refused_text(DATASET_CRITEO, "1\tx\t\t\t\t\t\t\t\t\t\t\t\t" CATEGORIES "\n", 1,
                 "field I1 is 'x', not an integer");
    refused_text(DATASET_CRITEO, "1\t1.5\t\t\t\t\t\t\t\t\t\t\t\t" CATEGORIES "\n", 1,
                 "field I1 is '1.5', not an integer");
    refused_text(DATASET_CRITEO, "x\t\t\t\t\t\t\t\t\t\t\t\t\t" CATEGORIES "\n", 1,
                 "the label is 'x', not 0 or 1");
}

static void libffm_values_are_weights(void **state) {
    struct dataset *d = load_text(DATASET_LIBFFM, "1 2:7:0.5 0:3:1 2:8:0\n0 0:4:1 1:5:-2\n");
    assert_int_equal(d->n_slots, 3);
    assert_int_equal(d->slots[0].id, 1);
    assert_string_equal(d->slots[2].name, "field2");
    assert_int_equal(d->occurrences, 4);
    assert_non_null(d->weight);
    assert_int_equal(d->slot[0], 0);
    assert_true(d->keys[0] == 3 && d->keys[1] == 7 && d->weight[1] == 0.5f);
    assert_int_equal(d->start[1], 2);
    assert_true(d->weight[3] == -2);
    dataset_destroy(&d);
}

static void libffm_malformed_lines_are_refused_by_place(void **state) {
    refused_text(DATASET_LIBFFM, "1 0:1:1\n1 0:1\n", 2, "'0:1' is not field:feature:value");
    refused_text(DATASET_LIBFFM, "1 0:1:1:1\n", 1, "'0:1:1:1' is not field:feature:value");
    refused_text(DATASET_LIBFFM, "1 0:1:nan\n", 1, "'0:1:nan' is not field:feature:value");
    refused_text(DATASET_LIBFFM, "1 a:1:1\n", 1, "'a:1:1' is not field:feature:value");
    refused_text(DATASET_LIBFFM, "1 4294967295:1:1\n", 1, "field 4294967295 is out of range");
}

static void slots_may_hold_several_feasigns_or_none(void **state) {
    struct dataset *d = load_text(DATASET_SLOTS, "1 9:18446744073709551615 2:5 9:6\n0 2:5\n0\n");
    assert_int_equal(d->n_slots, 2);
    assert_int_equal(d->slots[0].id, 2);
    assert_string_equal(d->slots[1].name, "slot9");
    assert_int_equal(d->rows, 3);
    assert_null(d->weight);
    assert_int_equal(d->start[1], 3);
    assert_int_equal(d->start[3], 4);
    assert_true(d->keys[0] == 5);
    assert_true(d->keys[1] + d->keys[2] == UINT64_MAX + UINT64_C(6));
    dataset_destroy(&d);
}

static void slots_with_one_feasign_each_are_stored_plainly(void **state) {
    struct dataset *d = load_text(DATASET_SLOTS, "1 9:1 2:5\n0 2:6 9:3\n");
    assert_null(d->slot);
    assert_null(d->start);
    assert_null(d->weight);
    assert_true(d->keys[0] == 5 && d->keys[1] == 1 && d->keys[2] == 6 && d->keys[3] == 3);
    dataset_destroy(&d);
}

static void slots_malformed_lines_are_refused_by_place(void **state) {
    refused_text(DATASET_SLOTS, "1 2:5\n1 2:5:6\n", 2, "'2:5:6' is not slot:feasign");
    refused_text(DATASET_SLOTS, "1 2:18446744073709551616\n", 1,
                 "'2:18446744073709551616' is not slot:feasign");
    refused_text(DATASET_SLOTS, "1 4000000000:1\n", 1, "slot 4000000000 is out of range");
    refused_text(DATASET_SLOTS, "7 2:5\n", 1, "the label is '7', not 0 or 1");
}

/* ---- compression ----------------------------------------------------------------------------- */

#define PLAIN "label,a\n1,x\n0,y\n1,z\n"

static void gzip_and_lz4_read_as_the_text_they_hold(void **state) {
    const struct dataset_spec spec = spec_of(DATASET_CSV);
    unsigned char bytes[1024];
    struct dataset *plain = load_text(DATASET_CSV, PLAIN);
    for (int kind = 0; kind < 2; kind++) {
        /* Two members, the first ending within a line. */
        size_t n = kind == 0 ? gzip("label,a\n1,x\n0,", bytes, sizeof bytes)
                             : lz4("label,a\n1,x\n0,", bytes, sizeof bytes);
        n += kind == 0 ? gzip("y\n1,z\n", bytes + n, sizeof bytes - n)
                       : lz4("y\n1,z\n", bytes + n, sizeof bytes - n);
        write_bytes(path[0], bytes, n);
        struct dataset *d = load(&spec);
        assert_int_equal(d->rows, plain->rows);
        assert_memory_equal(d->keys, plain->keys, plain->occurrences * sizeof *d->keys);
        dataset_destroy(&d);
    }
    dataset_destroy(&plain);
}

static void a_compressed_file_cut_short_is_refused_even_when_skipping(void **state) {
    struct dataset_spec spec = spec_of(DATASET_CSV);
    unsigned char bytes[1024];
    spec.skip_bad = true;
    const size_t zipped = gzip(PLAIN, bytes, sizeof bytes);
    for (size_t n = 2; n < zipped; n++) {
        struct dataset *data = NULL;
        struct err_detail detail;
        write_bytes(path[0], bytes, n);
        assert_int_equal(dataset_load(&spec, &data, &detail), DIMFIT_ERR_DATA);
        assert_non_null(strstr(detail.text, "the gzip file is cut short"));
    }
    const size_t packed = lz4(PLAIN, bytes, sizeof bytes);
    for (size_t n = 4; n < packed; n++) {
        struct dataset *data = NULL;
        struct err_detail detail;
        write_bytes(path[0], bytes, n);
        assert_int_equal(dataset_load(&spec, &data, &detail), DIMFIT_ERR_DATA);
        assert_non_null(strstr(detail.text, "the LZ4 file is cut short"));
    }
}

static void a_wrong_checksum_is_refused(void **state) {
    const struct dataset_spec spec = spec_of(DATASET_CSV);
    unsigned char bytes[1024];
    size_t n = gzip(PLAIN, bytes, sizeof bytes);
    bytes[n - 8] ^= 1;
    write_bytes(path[0], bytes, n);
    refused(&spec, DIMFIT_ERR_DATA, 1, "incorrect data check");
    n = lz4(PLAIN, bytes, sizeof bytes);
    bytes[n - 1] ^= 1;
    write_bytes(path[0], bytes, n);
    refused(&spec, DIMFIT_ERR_DATA, 1, "the LZ4 frame is corrupt (ERROR_contentChecksum_invalid)");
}

static void text_behind_a_gzip_member_is_refused(void **state) {
    const struct dataset_spec spec = spec_of(DATASET_CSV);
    unsigned char bytes[1024];
    const size_t n = gzip(PLAIN, bytes, sizeof bytes);
    memcpy(bytes + n, "extra", 5);
    write_bytes(path[0], bytes, n + 5);
    refused(&spec, DIMFIT_ERR_DATA, 5, "incorrect header check");
}

static void lines_longer_than_the_buffer_are_read_whole(void **state) {
    enum { LONG = 5 << 20 };
    char *const text = malloc(LONG + 3);
    struct stream *s = NULL;
    char *line;
    size_t len;
    memset(text, 'x', LONG);
    strcpy(text + LONG, "\ny");
    write_text(path[0], text);
    assert_int_equal(stream_open(path[0], &s, NULL), DIMFIT_OK);
    assert_int_equal(stream_line(s, &line, &len, NULL), DIMFIT_OK);
    assert_int_equal(len, LONG);
    assert_int_equal(stream_line(s, &line, &len, NULL), DIMFIT_OK);
    assert_string_equal(line, "y");
    assert_int_equal(stream_line_number(s), 2);
    assert_int_equal(stream_line(s, &line, &len, NULL), DIMFIT_OK);
    assert_null(line);
    stream_close(&s);
    free(text);
}

static void a_file_that_is_not_there_is_an_error_by_name(void **state) {
    struct stream *s = NULL;
    struct err_detail detail;
    assert_int_equal(stream_open("/nowhere/at/all", &s, &detail), DIMFIT_ERR_IO);
    assert_string_equal(detail.text,
                        "/nowhere/at/all: cannot be opened: No such file or directory");
}

/* ---- parts ----------------------------------------------------------------------------------- */

static void write_many(const char *to, int rows) {
    FILE *const f = fopen(to, "w");
    fputs("label,a\n", f);
    for (int i = 0; i < rows; i++)
        fprintf(f, "%d,%d\n", i % 2, i);
    fclose(f);
}

static void the_split_has_the_shares_asked_for(void **state) {
    struct dataset_spec spec = spec_of(DATASET_CSV);
    spec.split[0] = 80;
    spec.split[1] = 15;
    spec.split[2] = 5;
    write_many(path[0], 20000);
    struct dataset *d = load(&spec), *again = load(&spec);
    assert_in_range(d->n_part[DATASET_TRAIN], 15700, 16300);
    assert_in_range(d->n_part[DATASET_VALID], 2800, 3200);
    assert_in_range(d->n_part[DATASET_TEST], 880, 1120);
    for (size_t p = 0; p < DATASET_PARTS; p++)
        assert_memory_equal(d->part[p], again->part[p], d->n_part[p] * sizeof *d->part[p]);
    spec.split_seed = 2;
    struct dataset *other = load(&spec);
    assert_memory_not_equal(d->part[DATASET_TEST], other->part[DATASET_TEST],
                            800 * sizeof *d->part[DATASET_TEST]);
    dataset_destroy(&d);
    dataset_destroy(&again);
    dataset_destroy(&other);
}

static void lines_are_numbered_through_all_files(void **state) {
    struct dataset_spec spec = spec_of(DATASET_CSV);
    const char *const both[] = {path[0], path[1]};
    spec.split[0] = spec.split[1] = 1;
    write_many(path[0], 2000);
    struct dataset *one = load(&spec);
    FILE *const a = fopen(path[0], "w"), *const b = fopen(path[1], "w");
    fputs("label,a\n", a);
    fputs("label,a\n", b);
    for (int i = 0; i < 2000; i++)
        fprintf(i < 700 ? a : b, "%d,%d\n", i % 2, i);
    fclose(a);
    fclose(b);
    spec.data = both;
    spec.n_data = 2;
    struct dataset *two = load(&spec);
    for (size_t p = 0; p < DATASET_PARTS; p++) {
        assert_int_equal(one->n_part[p], two->n_part[p]);
        assert_memory_equal(one->part[p], two->part[p], one->n_part[p] * sizeof *one->part[p]);
    }
    dataset_destroy(&one);
    dataset_destroy(&two);
}

static void a_test_file_of_its_own_leaves_the_data_to_training(void **state) {
    struct dataset_spec spec = spec_of(DATASET_CSV);
    spec.split[0] = 80;
    spec.split[1] = spec.split[2] = 10;
    spec.test = path[1];
    write_many(path[0], 10000);
    write_many(path[1], 100);
    struct dataset *d = load(&spec);
    assert_int_equal(d->n_part[DATASET_TEST], 100);
    assert_in_range(d->n_part[DATASET_VALID], 880, 1120);
    assert_int_equal(d->n_part[DATASET_TRAIN] + d->n_part[DATASET_VALID], 10000);
    dataset_destroy(&d);
}

static void a_file_without_samples_is_refused(void **state) {
    const struct dataset_spec spec = spec_of(DATASET_CSV);
    struct dataset *data = NULL;
    struct err_detail detail;
    write_text(path[0], "label,a\n");
    assert_int_equal(dataset_load(&spec, &data, &detail), DIMFIT_ERR_INVALID);
    assert_non_null(strstr(detail.text, "no samples"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_paths, remove_paths)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(csv_columns_become_slots_in_header_order),
        TEST(csv_quotes_hold_commas_and_doubled_quotes),
        TEST(csv_integers_are_categories_and_fractions_are_bucketed),
        TEST(csv_a_word_among_numbers_makes_a_category),
        TEST(csv_options_override_what_a_column_looks_like),
        TEST(csv_buckets_are_cut_on_the_training_part_alone),
        TEST(csv_slot_names_are_cut_and_made_unique),
        TEST(csv_malformed_lines_are_refused_by_place),
        TEST(csv_headers_are_checked),
        TEST(csv_files_must_have_the_same_header),
        TEST(labels_may_be_written_in_several_ways),
        TEST(bad_lines_are_skipped_and_counted_when_asked),
        TEST(criteo_integers_are_bucketed_by_squared_logarithm),
        TEST(criteo_malformed_lines_are_refused_by_place),
        TEST(libffm_values_are_weights),
        TEST(libffm_malformed_lines_are_refused_by_place),
        TEST(slots_may_hold_several_feasigns_or_none),
        TEST(slots_with_one_feasign_each_are_stored_plainly),
        TEST(slots_malformed_lines_are_refused_by_place),
        TEST(gzip_and_lz4_read_as_the_text_they_hold),
        TEST(a_compressed_file_cut_short_is_refused_even_when_skipping),
        TEST(a_wrong_checksum_is_refused),
        TEST(text_behind_a_gzip_member_is_refused),
        TEST(lines_longer_than_the_buffer_are_read_whole),
        TEST(a_file_that_is_not_there_is_an_error_by_name),
        TEST(the_split_has_the_shares_asked_for),
        TEST(lines_are_numbered_through_all_files),
        TEST(a_test_file_of_its_own_leaves_the_data_to_training),
        TEST(a_file_without_samples_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

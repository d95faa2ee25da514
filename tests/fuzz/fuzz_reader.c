/* The trainer's data files: the first byte is the format, the rest the file, plain or compressed.
 * What is read is within its bounds; what is not says why. */
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/memory_file.h"
#include "worker/train/dataset.h"

#include <math.h>

static void require_sound(const struct dataset *data) {
    size_t parts = 0;
    for (size_t part = 0; part < DATASET_PARTS; part++) {
        parts += data->n_part[part];
        for (size_t i = 0; i < data->n_part[part]; i++)
            REQUIRE(data->part[part][i] < data->rows);
    }
    REQUIRE(parts == data->rows && dataset_start(data, data->rows) == data->occurrences);
    volatile uint64_t sum = 0; /* so that the keys are read */
    for (size_t row = 0; row < data->rows; row++) {
        REQUIRE(isfinite(data->labels[row]));
        REQUIRE(dataset_start(data, row) <= dataset_start(data, row + 1));
    }
    for (size_t o = 0; o < data->occurrences; o++) {
        sum = sum + data->keys[o];
        REQUIRE(data->slot == NULL || data->slot[o] < data->n_slots);
        REQUIRE(data->weight == NULL || isfinite(data->weight[o]));
    }
    for (size_t i = 1; i < data->n_slots; i++)
        REQUIRE(data->slots[i - 1].id < data->slots[i].id);
}

bool fuzz_one(const uint8_t *bytes, size_t len) {
    if (len == 0)
        return false;
    struct memory_file file;
    memory_file_open(&file, bytes + 1, len - 1);
    const char *const path = file.path;
    struct dataset_spec spec = {
        .format = bytes[0] & 3,
        .data = &path,
        .n_data = 1,
        .buckets = 4,
        .split = {0.8, 0.1, 0.1},
        .split_seed = 1,
        .skip_bad = (bytes[0] & 4) != 0,
    };
    struct dataset *data = NULL;
    struct err_detail detail = {""};
    const dimfit_err err = dataset_load(&spec, &data, &detail);
    if (err == DIMFIT_OK)
        require_sound(data);
    else
        REQUIRE(detail.text[0] != 0);
    dataset_destroy(&data);
    memory_file_close(&file);
    return err == DIMFIT_OK;
}

static void put(struct fuzz_sink *sink, enum dataset_format format, const char *line,
                size_t lines) {
    struct buf buf;
    buf_init(&buf);
    buf_put_u8(&buf, (uint8_t)format);
    if (format == DATASET_CSV)
        buf_put(&buf, "label,user,\"a \"\"b\"\"\",price\n", 27);
    for (size_t i = 0; i < lines; i++)
        buf_put(&buf, line, strlen(line));
    fuzz_put_buf(sink, &buf);
    buf_fini(&buf);
}

void fuzz_seeds(struct fuzz_sink *sink) {
    put(sink, DATASET_CSV, "1,u7,\"x, y\",0.5\n0,u8,,1e3\r\n0,,z,-2\n", 8);
    put(sink, DATASET_CRITEO,
        "1\t1\t\t5\t0\t1382\t4\t15\t2\t181\t1\t2\t\t2\t68fd1e64\t80e26c9b\tfb936136\t7b4723c4\t25c8"
        "3c98"
        "\t7e0ccccf\tde7995b8\t1f89b562\ta73ee510\ta8cd5504\tb2cb9c98\t37c9c164\t2824a5f6\t1adce6ef"
        "\t8ba8b39a\t891b62e7\te5ba7672\tf54016b9\t21ddcdc9\tb1252a9d\t07b5194c\t\t3a171ecb\tc5c504"
        "84"
        "\te8b83407\t9727dd16\n",
        12);
    put(sink, DATASET_LIBFFM, "1 0:12:1 1:345:0.5 2:9:0\n0 0:13:1 2:1:-1\n", 10);
    put(sink, DATASET_SLOTS, "1 1:18446744073709551615 2:7 2:8\n0 5:3\n", 10);
}

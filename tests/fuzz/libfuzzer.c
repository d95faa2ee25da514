/* clang's libFuzzer as the driver. Seeds are written to the folder that DIMFIT_FUZZ_SEEDS names. */
#include "tests/fuzz/fuzz.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);
int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len) {
    (void)fuzz_one(bytes, len);
    return 0;
}

struct writer {
    struct fuzz_sink sink;
    const char *folder;
    size_t n;
};

static void write_seed(struct fuzz_sink *sink, const void *bytes, size_t len) {
    struct writer *const writer = (struct writer *)sink;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/seed-%zu", writer->folder, writer->n++);
    FILE *const file = fopen(path, "wb");
    REQUIRE(file != NULL && fwrite(bytes, 1, len, file) == len && fclose(file) == 0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    struct writer writer = {.sink = {.put = write_seed}, .folder = getenv("DIMFIT_FUZZ_SEEDS")};
    if (writer.folder != NULL)
        fuzz_seeds(&writer.sink);
    return 0;
}

/*
 * The plain driver: every seed, which must be taken, then every seed cut short and with bytes
 * changed, then the kept corpus. With files as arguments these alone, to look into a finding.
 */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

/* A seed of a whole cluster takes milliseconds, one of a parser microseconds. */
enum { MUTATIONS = 300 };

struct replay {
    struct fuzz_sink sink;
    size_t seeds, mutations;
};

static uint64_t draw(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static void one(const void *bytes, size_t len) {
    uint8_t *const copy = fuzz_copy(bytes, len);
    (void)fuzz_one(copy, len);
    free(copy);
}

static void mutate(struct replay *replay, const uint8_t *seed, size_t len) {
    uint64_t random = replay->seeds;
    uint8_t *const copy = fuzz_copy(seed, len);
    for (size_t i = 0; i < MUTATIONS && len > 0; i++, replay->mutations += 2) {
        /* The first bytes are heads and counts: each of them, then any. */
        const size_t at = i < len && i < MUTATIONS / 2 ? i : draw(&random) % len;
        one(seed, at);
        copy[at] ^= (uint8_t)(1 + draw(&random) % 255);
        one(copy, len);
        copy[at] = seed[at];
    }
    free(copy);
}

static void try_seed(struct fuzz_sink *sink, const void *bytes, size_t len) {
    struct replay *const replay = (struct replay *)sink;
    uint8_t *const copy = fuzz_copy(bytes, len);
    if (!fuzz_one(copy, len)) {
        fprintf(stderr, "seed %zu, of %zu bytes, was refused\n", replay->seeds, len);
        exit(1);
    }
    free(copy);
    mutate(replay, bytes, len);
    replay->seeds++;
}

static void try_file(const char *path) {
    struct buf buf;
    buf_init(&buf);
    FILE *const file = fopen(path, "rb");
    if (file == NULL) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        exit(1);
    }
    uint8_t block[4096];
    for (size_t n; (n = fread(block, 1, sizeof block, file)) > 0;)
        buf_put(&buf, block, n);
    fclose(file);
    REQUIRE(buf_status(&buf) == DIMFIT_OK);
    one(buf.data, buf.len);
    buf_fini(&buf);
}

/* A target that nothing was ever found for may have no folder. */
static size_t try_corpus(const char *target) {
    char folder[PATH_MAX], path[PATH_MAX + NAME_MAX + 1];
    struct dirent **files = NULL;
    size_t tried = 0;
    snprintf(folder, sizeof folder, "%s/%s", FUZZ_CORPUS, target);
    const int n = scandir(folder, &files, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        if (files[i]->d_name[0] != '.') {
            snprintf(path, sizeof path, "%s/%s", folder, files[i]->d_name);
            try_file(path);
            tried++;
        }
        free(files[i]);
    }
    free(files);
    return tried;
}

int main(int argc, char **argv) {
    if (argc > 1) {
        for (int i = 1; i < argc; i++)
            try_file(argv[i]);
        return 0;
    }
    const char *const program = strrchr(argv[0], '/') != NULL ? strrchr(argv[0], '/') + 1 : argv[0];
    const char *const mark = strstr(program, "fuzz_");
    const char *const target = mark != NULL ? mark + 5 : program;
    struct replay replay = {.sink = {.put = try_seed}};
    fuzz_seeds(&replay.sink);
    REQUIRE(replay.seeds > 0);
    const size_t files = try_corpus(target);
    printf("[       OK ] %s: %zu seeds, %zu of them changed, %zu kept inputs\n", target,
           replay.seeds, replay.mutations, files);
    return 0;
}

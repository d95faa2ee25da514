/* A configuration that is read can be printed, and is read from that again: printed the second time
 * it says the same but for where a value came from. */
#include "server/config.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/memory_file.h"

#include <stdlib.h>

static dimfit_err read_bytes(struct config *config, const void *bytes, size_t len) {
    struct memory_file file;
    struct err_detail detail = {""};
    memory_file_open(&file, bytes, len);
    config_init(config);
    const dimfit_err err = config_read_file(config, file.path, &detail);
    REQUIRE(err == DIMFIT_OK || detail.text[0] != 0);
    memory_file_close(&file);
    return err;
}

static char *print(const struct config *config, size_t *len) {
    char *text = NULL;
    FILE *const out = open_memstream(&text, len);
    REQUIRE(out != NULL);
    config_print(config, out);
    REQUIRE(fclose(out) == 0);
    return text;
}

/* Without comments, which say where a value came from. */
static void strip(char *text) {
    char *to = text;
    for (const char *from = text; *from != 0; from++) {
        if (from[0] == ' ' && from[1] == '#') {
            while (to > text && to[-1] == ' ')
                to--;
            while (from[1] != 0 && from[1] != '\n')
                from++;
        } else {
            *to++ = *from;
        }
    }
    *to = 0;
}

static void require_printed(const struct config *config) {
    struct config again;
    size_t len = 0, again_len = 0;
    char *const text = print(config, &len);
    REQUIRE(read_bytes(&again, text, len) == DIMFIT_OK);
    char *const second = print(&again, &again_len);
    strip(text);
    strip(second);
    REQUIRE(strcmp(text, second) == 0);
    free(text);
    free(second);
    config_fini(&again);
}

bool fuzz_one(const uint8_t *bytes, size_t len) {
    struct config config;
    const bool taken = read_bytes(&config, bytes, len) == DIMFIT_OK;
    if (taken)
        require_printed(&config);
    config_fini(&config);
    return taken;
}

void fuzz_seeds(struct fuzz_sink *sink) {
    static const char *const texts[] = {
        "shards: 4\nscore_memory: 2G\ndefaults: {dim: 16, optimizer: rowwise_adagrad, lr: 0.05}\n"
        "slots:\n  - {id: 1, name: user}\n  - {id: 2, name: hour, dim: 8}\n"
        "  - {id: 900, name: linear, dim: 1, search: false}\n",
        "bind: ipc:///tmp/x\nseed: 18446744073709551615\nauto_slots: true\nlog_level: debug\n"
        "scoring_timeout: 12.5\nover_memory: skip\nshrink_at: off\ndata_dir: /tmp/d\n"
        "slots:\n  - id: 3\n    optimizer: ftrl\n    ftrl_beta: 1\n    l1: 0.5\n    l2: 1e-3\n"
        "    init: zero\n",
        "slots: [{id: 7, name: \"a 'b' \\u00e9\", optimizer: adam, beta1: 0.5, beta2: 0.9,\n"
        "  admit: 3, expire_days: 30, expire_shows: 2, decay: 0.98, clicks: true,\n"
        "  last_seen: true, init: uniform, init_scale: 0.5, width: 4}]\n",
        "shards: 1\nslots: []\n",
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        fuzz_put(sink, texts[i], strlen(texts[i]));
}

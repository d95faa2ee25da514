/* The descriptor that a plugin answers with, before anything of it is used: its words are those of
 * the input, its texts and its function are there or not by the first byte. A descriptor that is
 * taken can be shown. */
#include "server/strategy_host.h"
#include "tests/fuzz/fuzz.h"

#include <stddef.h>

static int no_plan(void) {
    return 0;
}

enum { HEAD = offsetof(struct dimfit_strategy, name), NAME = 40 };

bool fuzz_one(const uint8_t *bytes, size_t len) {
    struct dimfit_strategy strategy = {0};
    struct err_detail detail = {""};
    char name[NAME + 1] = "";
    if (len < 1 + HEAD + sizeof strategy.needs)
        return false;
    memcpy(&strategy, bytes + 1, HEAD);
    memcpy(&strategy.needs, bytes + 1 + HEAD, sizeof strategy.needs);
    const size_t rest = len - 1 - HEAD - sizeof strategy.needs;
    memcpy(name, bytes + len - rest, rest < NAME ? rest : NAME);
    strategy.name = (bytes[0] & 1) != 0 ? name : NULL;
    strategy.version = (bytes[0] & 2) != 0 ? "1" : NULL;
    strategy.summary = (bytes[0] & 4) != 0 ? "what it does" : NULL;
    if ((bytes[0] & 8) != 0)
        *(int (**)(void)) & strategy.plan = no_plan;
    const dimfit_err err = strategy_check(&strategy, &detail);
    if (err != DIMFIT_OK) {
        REQUIRE((err == DIMFIT_ERR_PLUGIN || err == DIMFIT_ERR_VERSION) && detail.text[0] != 0);
        return false;
    }
    REQUIRE(strategy.name[0] != 0 && strlen(strategy.name) <= STRATEGY_NAME_MAX);
    REQUIRE(strategy.version != NULL && strategy.summary != NULL && strategy.plan != NULL);
    REQUIRE(strategy.size >= sizeof strategy && strategy.abi_major == DIMFIT_STRATEGY_ABI_MAJOR);
    return true;
}

void fuzz_seeds(struct fuzz_sink *sink) {
    const struct dimfit_strategy strategy = {.magic = DIMFIT_STRATEGY_MAGIC,
                                             .abi_major = DIMFIT_STRATEGY_ABI_MAJOR,
                                             .abi_minor = DIMFIT_STRATEGY_ABI_MINOR,
                                             .size = sizeof strategy};
    const uint32_t needs = DIMFIT_NEEDS_SCORES | DIMFIT_NEEDS_TRIALS;
    struct buf buf;
    buf_init(&buf);
    buf_put_u8(&buf, 15);
    buf_put(&buf, &strategy, HEAD);
    buf_put_u32(&buf, needs);
    buf_put(&buf, "sseds", 5);
    fuzz_put_buf(sink, &buf);
    buf_fini(&buf);
}

/*
 * dimfitctl: the admin command line. Finds the command and lets it run.
 */
#include "server/ctl/ctl.h"

#include <config.h>

/* libc looks this name up: it must be visible. */
__attribute__((visibility("default")))
const char *argp_program_version = "dimfitctl " PACKAGE_VERSION;

static const char doc[] =
    "Look after a dimfit cluster.\v"
    "Commands:\n"
    "  status       the coordinator and its shards\n"
    "  stats        rows, memory and traffic by shard\n"
    "  slots        every slot, its width and rows\n"
    "  scores       what each embedding dimension earns\n"
    "  search       start, status, plan, apply, abort: fit the dimensions\n"
    "  strategies   the strategies that a search can use\n"
    "  shrink       let rows go that were not seen for long, or too seldom\n"
    "  shutdown     stop the whole cluster\n"
    "\n"
    "Every command has --help. Exit codes: 0 done, 1 failed, 2 usage, 3 unreachable, 4 not "
    "allowed, 5 timed out and may have happened.";

int main(int argc, char **argv) {
    static const struct ctl_entry commands[] = {
        {"status", cmd_status}, {"stats", cmd_stats},       {"slots", cmd_slots},
        {"scores", cmd_scores}, {"search", cmd_search},     {"strategies", cmd_strategies},
        {"shrink", cmd_shrink}, {"shutdown", cmd_shutdown},
    };
    struct ctl ctl;
    ctl_init(&ctl);
    const int code = ctl_dispatch(&ctl, "dimfitctl", doc, commands, ARRAY_LEN(commands), argc,
                                  argv);
    ctl_fini(&ctl);
    return code;
}

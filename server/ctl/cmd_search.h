/*
 * What the commands about searches share.
 */
#ifndef SERVER_CTL_CMD_SEARCH_H
#define SERVER_CTL_CMD_SEARCH_H

#include "server/ctl/ctl.h"

/* The options of `search start`, as a child parser: the input is a struct start_args. */
struct start_args {
    struct ctl *ctl;
    json_t *request;
    bool wait, plan_only;
};
extern const struct argp search_start_argp;

bool search_phase_is(const json_t *status, const char *phase);

/* Poll until the search of *status comes to rest, replacing *status by the last one seen. An exit
 * code. */
int search_wait(struct ctl *ctl, json_t **status);

int search_compare(struct ctl *ctl, int argc, char **argv);

#endif

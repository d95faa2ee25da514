/*
 * What a cluster's figures look like to Prometheus: its text format, version 0.0.4.
 *
 * A function of the answers that the admin RPC gives to `status`, `stats`, `slots`, `search status`
 * and `shrink status`: the page has nothing that dimfitctl can't show. One metric is one line in
 * the tables of metrics_page.c: where it stands in the answer, its name, type and help. Pure.
 */
#ifndef SERVER_METRICS_PAGE_H
#define SERVER_METRICS_PAGE_H

#include "proto/buf.h"

#include <jansson.h>

/* Metrics a slot are left out beyond so many slots, and dimfit_slots tells how many there are: a
 * series for each is more than a Prometheus is there for. */
enum { METRICS_SLOTS_MAX = 4096 };

/* Borrowed answers; NULL where there is none (shards that do not answer, say): what would come from
 * it is left out. */
struct metrics_answers {
    const json_t *status, *stats, *slots, *search, *shrink;
};

/* Append the page to out; a field that an answer lacks, or has null, is left out. */
void metrics_page(const struct metrics_answers *answers, struct buf *out);

#endif

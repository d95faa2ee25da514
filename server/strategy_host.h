/*
 * Strategy plugins, loaded at run time from one folder.
 *
 * A file that is no strategy, or one of another ABI, is refused with a text of its own and the
 * others go on; the refusals are listed with the strategies. Loaded once at start, then read only:
 * safe from any thread.
 */
#ifndef SERVER_STRATEGY_HOST_H
#define SERVER_STRATEGY_HOST_H

#include "plugin/dimfit_strategy.h"
#include "proto/base.h"

enum { STRATEGY_NAME_MAX = 31 };

struct strategies;

/* Load every *.so of the folder, in name order. IO when the folder can't be read; a refused file is
 * not an error here. */
dimfit_err strategies_load(const char *folder, struct strategies **out,
                           struct err_detail *detail) MUST_CHECK;
void strategies_destroy(struct strategies **strategies);

size_t strategies_count(const struct strategies *strategies);
const struct dimfit_strategy *strategies_at(const struct strategies *strategies, size_t i);
const struct dimfit_strategy *strategies_find(const struct strategies *strategies,
                                              const char *name);

size_t strategies_refused(const struct strategies *strategies);
const char *strategies_refusal(const struct strategies *strategies, size_t i); /* "file: why" */

/* Check one descriptor as the loader does: PLUGIN or VERSION with the reason. For tests. */
dimfit_err strategy_check(const struct dimfit_strategy *strategy,
                          struct err_detail *detail) MUST_CHECK;

#endif

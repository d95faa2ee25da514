/*
 * The trials of a search that runs, beside the coordinator's state: a restarted search goes on from
 * them. Replaced whole or not at all; not synced, since all that a power cut loses is trials done
 * again. Blocking; one thread.
 */
#ifndef SERVER_TRIAL_FILE_H
#define SERVER_TRIAL_FILE_H

#include "proto/buf.h"

#define TRIAL_FILE_NAME "coordinator.trials"

/* Into an empty buf; NOT_FOUND when there are none. */
dimfit_err trial_file_read(const char *folder, struct buf *out,
                           struct err_detail *detail) MUST_CHECK;
/* len 0: there are none any more. */
dimfit_err trial_file_write(const char *folder, const void *bytes, size_t len,
                            struct err_detail *detail) MUST_CHECK;

#endif

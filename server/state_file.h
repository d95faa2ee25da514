/*
 * The folder of the coordinator's state: files that are replaced whole, or not at all.
 *
 * Written beside, synced, renamed over, folder synced: after any crash a file is the old or the new
 * one. A lock on the folder keeps a second daemon out. Blocking; one thread.
 */
#ifndef SERVER_STATE_FILE_H
#define SERVER_STATE_FILE_H

#include "proto/buf.h"

#define STATE_FILE_NAME "coordinator.state"

struct state_file;

/* Make the folder if need be and lock it: BUSY when another process has it, IO naming the path. */
dimfit_err state_file_open(const char *folder, struct state_file **out,
                           struct err_detail *detail) MUST_CHECK;
void state_file_close(struct state_file **file);

/* The whole file into an empty buf; NOT_FOUND when there is none yet. */
dimfit_err state_file_read(const struct state_file *file, const char *name, struct buf *out,
                           struct err_detail *detail) MUST_CHECK;
/* Durable when it returns DIMFIT_OK; unchanged otherwise. */
dimfit_err state_file_write(const struct state_file *file, const char *name, const void *bytes,
                            size_t len, struct err_detail *detail) MUST_CHECK;
/* One that isn't there is no error. */
dimfit_err state_file_remove(const struct state_file *file, const char *name,
                             struct err_detail *detail) MUST_CHECK;
/* Calls `each` with the name of every file that begins with the prefix and was written whole. */
void state_file_each(const struct state_file *file, const char *prefix,
                     void (*each)(void *self, const char *name), void *self);

#endif

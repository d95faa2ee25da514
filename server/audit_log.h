/*
 * The audit log: a thread that appends lines to a file and syncs them.
 *
 *     {"time":"2026-03-01T12:00:00Z","search":3,"step":"search apply","who":"10.0.0.7 client ...",
 *      "epoch":4,"arguments":{"plan":3},"result":"ok"}
 *
 * The file is opened for each batch of lines, so that it may be renamed or removed at any time; it
 * is readable by its owner alone. An actor (czmq); one thread sends. What cannot be written is
 * lost; the first such failure is logged.
 */
#ifndef SERVER_AUDIT_LOG_H
#define SERVER_AUDIT_LOG_H

#include "proto/base.h"

#include <czmq.h>

/* Start the thread: IO naming the file when it can't be opened. zactor_destroy() writes what was
 * sent and ends it. path is borrowed until then. */
dimfit_err audit_log_start(const char *path, zactor_t **out, struct err_detail *detail) MUST_CHECK;

/* Never blocks: a line that finds no room is lost, and logged. */
void audit_log_send(zactor_t *log, const char *line);

#endif

/*
 * The daemon's log: one line an event to standard error.
 *
 *     2026-03-01T12:00:00.123Z info  coordinator: shard 3 is back
 *
 * The level is the process's and may be changed at any time. A line is written by one write(), so
 * lines of different threads never mix; any thread may log, except that shard threads don't while
 * they serve requests. What comes from outside is printed with its control characters replaced, so
 * that a line stays one line.
 */
#ifndef SERVER_LOG_H
#define SERVER_LOG_H

#include "proto/base.h"

#define LOG_LEVEL_MAP(X)                                                                           \
    X(ERROR, "error") /* something failed and someone should look */                               \
    X(WARN, "warn")   /* something is odd, work goes on */                                         \
    X(INFO, "info")   /* what an operator wants to read later */                                   \
    X(DEBUG, "debug") /* what a developer wants to read now */

enum log_level {
#define LOG_LEVEL_ENUM(name, text) LEVEL_##name,
    LOG_LEVEL_MAP(LOG_LEVEL_ENUM)
#undef LOG_LEVEL_ENUM
};

void log_set_level(enum log_level level); /* info at start */
bool log_wants(enum log_level level);
const char *log_level_name(enum log_level level);
bool log_level_parse(const char *text, enum log_level *out);

/* One line; the text is cut at 1,000 bytes. component is a constant such as "coordinator". */
void log_line(enum log_level level, const char *component, const char *fmt, ...) PRINTF_LIKE(3, 4);

#define log_error(component, ...) log_line(LEVEL_ERROR, component, __VA_ARGS__)
#define log_warn(component, ...)  log_line(LEVEL_WARN, component, __VA_ARGS__)
#define log_info(component, ...)  log_line(LEVEL_INFO, component, __VA_ARGS__)
#define log_debug(component, ...) log_line(LEVEL_DEBUG, component, __VA_ARGS__)

#endif

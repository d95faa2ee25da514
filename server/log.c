#include "server/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static _Atomic enum log_level current = LEVEL_INFO;

static const char *const names[] = {
#define LOG_LEVEL_NAME(name, text) text,
    LOG_LEVEL_MAP(LOG_LEVEL_NAME)
#undef LOG_LEVEL_NAME
};

void log_set_level(enum log_level level) {
    atomic_store_explicit(&current, level, memory_order_relaxed);
}

bool log_wants(enum log_level level) {
    return level <= atomic_load_explicit(&current, memory_order_relaxed);
}

const char *log_level_name(enum log_level level) {
    base_assert((size_t)level < ARRAY_LEN(names));
    return names[level];
}

bool log_level_parse(const char *text, enum log_level *out) {
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (enum log_level)i;
            return true;
        }
    }
    return false;
}

static size_t stamp(char *out, size_t cap) {
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    const size_t len = strftime(out, cap, "%Y-%m-%dT%H:%M:%S", &utc);
    return len + (size_t)snprintf(out + len, cap - len, ".%03ldZ", now.tv_nsec / 1000000);
}

void log_line(enum log_level level, const char *component, const char *fmt, ...) {
    if (!log_wants(level))
        return;
    char text[1001];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    for (unsigned char *p = (unsigned char *)text; *p != '\0'; p++) {
        if (*p < 0x20 || *p == 0x7f)
            *p = ' ';
    }

    char line[1200];
    size_t len = stamp(line, sizeof line);
    const int more = snprintf(line + len, sizeof line - len, " %-5s %.64s: %s\n",
                              log_level_name(level), component, text);
    len += (size_t)more;
    /* A log that can't be written has nowhere to say so. */
    ssize_t written;
    do {
        written = write(STDERR_FILENO, line, len);
    } while (written < 0 && errno == EINTR);
}

#include "worker/train/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define REWRITE_SECONDS 0.2

void progress_init(struct progress *p, bool quiet) {
    *p = (struct progress){.quiet = quiet, .terminal = isatty(STDERR_FILENO) == 1};
}

void progress_step(struct progress *p, const char *what, unsigned epoch, double share, double rate,
                   double logloss, double left) {
    const double now = progress_now();
    if (p->quiet || !p->terminal || now - p->last < REWRITE_SECONDS)
        return;
    p->last = now;
    p->dirty = true;
    fprintf(stderr, "\r%s epoch %u  %3.0f %%  %.0f samples/s  logloss %.4f  %.0f s left \033[K",
            what, epoch, 100 * share, rate, logloss, left);
    fflush(stderr);
}

void progress_say(struct progress *p, const char *fmt, ...) {
    if (p->quiet)
        return;
    progress_end(p);
    va_list args;
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

void progress_end(struct progress *p) {
    if (p->dirty)
        fputs("\r\033[K", stderr);
    p->dirty = false;
}

double progress_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

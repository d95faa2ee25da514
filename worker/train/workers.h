/*
 * A job of several worker processes on this machine. They are forked from one parent, share its
 * data set copy-on-write, and die with it; the parent only waits.
 */
#ifndef TRAIN_WORKERS_H
#define TRAIN_WORKERS_H

#include <stdint.h>

/* Run work(arg, rank) in n processes (in this one for n = 1) and return its status; the first that
 * is not 0 ends the others. Call before any thread is started. */
int workers_run(uint32_t n, int (*work)(void *arg, uint32_t rank), void *arg);

#endif

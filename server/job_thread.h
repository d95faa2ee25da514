/*
 * A thread that does jobs for another one: it is given a pointer, runs it, and gives it back.
 *
 * An actor (czmq): polled for input like a socket, ended by zactor_destroy() once the job it is at
 * is done. A job belongs to the thread from job_thread_give() to job_thread_take().
 */
#ifndef SERVER_JOB_THREAD_H
#define SERVER_JOB_THREAD_H

#include <czmq.h>

/* NULL: no thread. */
zactor_t *job_thread_new(void (*run)(void *job));

/* False, for want of memory: the job was not taken. */
bool job_thread_give(zactor_t *thread, void *job);

/* The next job that is done; to be called when there is input. NULL: interrupted. */
void *job_thread_take(zactor_t *thread);

#endif

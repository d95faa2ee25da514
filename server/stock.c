#include "server/stock.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { PAGE = 4096 };

static struct {
    _Atomic(void *) ready[STOCK_PLACES], given[STOCK_PLACES];
    _Atomic bool on, ending;
    sem_t asked;
    pthread_t thread;
} stock;

void *stock_chunk(void) {
    void *const chunk = aligned_alloc(STOCK_CHUNK, STOCK_CHUNK);
    if (chunk != NULL)
        (void)madvise(chunk, STOCK_CHUNK, MADV_HUGEPAGE); /* a system without them does without */
    return chunk;
}

/* Not MADV_POPULATE_WRITE, which holds up others that map memory. */
static void touch(void *chunk) {
    volatile char *const bytes = chunk;
    for (size_t i = 0; i < STOCK_CHUNK; i += PAGE)
        bytes[i] = 0;
}

static void fill_up(void) {
    for (size_t i = 0; i < STOCK_PLACES && !stock.ending; i++) {
        if (stock.ready[i] != NULL)
            continue;
        void *const chunk = stock_chunk();
        if (chunk == NULL)
            return; /* it is for who needs one to report that */
        touch(chunk);
        stock.ready[i] = chunk;
    }
}

static void *run(void *arg) {
    while (!stock.ending) {
        if (sem_wait(&stock.asked) == 0)
            fill_up();
    }
    return NULL;
}

dimfit_err stock_start(struct err_detail *detail) {
    base_assert(!stock.on);
    stock.ending = false;
    int err = sem_init(&stock.asked, 0, 0) == 0 ? 0 : errno;
    if (err == 0)
        err = pthread_create(&stock.thread, NULL, run, NULL);
    if (err != 0)
        return err_set(detail, DIMFIT_ERR_IO, "no thread to make memory ready: %s", strerror(err));
    stock.on = true;
    return DIMFIT_OK;
}

void stock_stop(void) {
    if (!stock.on)
        return;
    stock.on = false;
    stock.ending = true;
    sem_post(&stock.asked);
    pthread_join(stock.thread, NULL);
    sem_destroy(&stock.asked);
    for (size_t i = 0; i < STOCK_PLACES; i++) {
        free(atomic_exchange(&stock.ready[i], NULL));
        free(atomic_exchange(&stock.given[i], NULL));
    }
}

void *stock_take(void) {
    if (!stock.on)
        return NULL;
    void *chunk = NULL;
    for (size_t i = 0; chunk == NULL && i < STOCK_PLACES; i++)
        chunk = atomic_exchange(&stock.given[i], NULL);
    if (chunk != NULL)
        return chunk;
    for (size_t i = 0; chunk == NULL && i < STOCK_PLACES; i++)
        chunk = atomic_exchange(&stock.ready[i], NULL);
    sem_post(&stock.asked);
    return chunk;
}

bool stock_give(void *chunk) {
    bool taken = false;
    for (size_t i = 0; stock.on && !taken && i < STOCK_PLACES; i++) {
        void *none = NULL;
        taken = atomic_compare_exchange_strong(&stock.given[i], &none, chunk);
    }
    return taken;
}

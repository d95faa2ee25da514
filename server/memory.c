#include "server/memory.h"

#include <stdio.h>
#include <unistd.h>

#include <config.h>

#ifdef WITH_JEMALLOC
#include <jemalloc/jemalloc.h>
#endif

static uint64_t resident_bytes(void) {
    FILE *const f = fopen("/proc/self/statm", "r");
    if (f == NULL)
        return 0;
    unsigned long long total = 0, resident = 0;
    const int n = fscanf(f, "%llu %llu", &total, &resident);
    fclose(f);
    return n == 2 ? resident * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

#ifdef WITH_JEMALLOC
static uint64_t read_size(const char *name) {
    size_t value = 0, len = sizeof value;
    return mallctl(name, &value, &len, NULL, 0) == 0 ? value : 0;
}

static void allocator_figures(struct process_figures *out) {
    uint64_t epoch = 1;
    size_t len = sizeof epoch;
    mallctl("epoch", &epoch, &len, &epoch, len); /* refresh what the next reads see */
    out->jemalloc_allocated = read_size("stats.allocated");
    out->jemalloc_active = read_size("stats.active");
    out->jemalloc_resident = read_size("stats.resident");
    const char *version = "?";
    len = sizeof version;
    mallctl("version", &version, &len, NULL, 0);
    snprintf(out->jemalloc_version, sizeof out->jemalloc_version, "%s", version);
}

void memory_purge(void) {
    char name[64];
    snprintf(name, sizeof name, "arena.%u.purge", (unsigned)MALLCTL_ARENAS_ALL);
    mallctl(name, NULL, NULL, NULL, 0);
}
#else
static void allocator_figures(struct process_figures *out) {
    snprintf(out->jemalloc_version, sizeof out->jemalloc_version, "none");
}

void memory_purge(void) {
}
#endif

void memory_process_figures(struct process_figures *out) {
    *out = (struct process_figures){
        .pid = (uint64_t)getpid(),
        .resident_bytes = resident_bytes(),
    };
    allocator_figures(out);
}

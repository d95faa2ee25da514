/*
 * A disk in memory (server/disk.h) that does what disks do: it tears the last write, fills up,
 * fails, and forgets in a power cut what was not synced.
 *
 * It outlives the disks opened on it, as a machine's does a process. One thread. Aborts the test
 * when there is no memory.
 */
#ifndef TESTS_MEM_DISK_H
#define TESTS_MEM_DISK_H

#include "server/disk.h"

struct mem_disk;

struct mem_disk *mem_disk_new(uint64_t seed);
void mem_disk_free(struct mem_disk *mem);

/* As disk_folder_open(). */
struct disk *mem_disk_open(struct mem_disk *mem);

/* From here on the disk takes so many bytes in all; SIZE_MAX: as many as come. */
void mem_disk_limit(struct mem_disk *mem, size_t bytes);
/* The n-th operation from here on that writes, syncs or changes names fails, and the `more` after
 * it; 0: none does. */
void mem_disk_fail(struct mem_disk *mem, uint64_t n, uint64_t more);
/* In the n-th write from here on the process ends: a part of it, drawn, is there, and every later
 * operation fails until mem_disk_crash(). 0: none. */
void mem_disk_tear(struct mem_disk *mem, uint64_t n);
bool mem_disk_torn(const struct mem_disk *mem);

/* The process ended: what it wrote stays. With power: the machine did; of what was not synced,
 * sectors and names are there or not, as drawn. Disks and files opened before are to be closed, and
 * do nothing. */
void mem_disk_crash(struct mem_disk *mem, bool power);

/* Operations so far that mem_disk_fail() counts. */
uint64_t mem_disk_operations(const struct mem_disk *mem);
/* The bytes of a file, to look at or to damage; NULL when it isn't there. */
uint8_t *mem_disk_bytes(struct mem_disk *mem, const char *name, size_t *len);

#endif

/*
 * A folder of files through which all that must outlive a crash goes, behind a small vtable: so
 * that a simulated cluster has disks that tear, fill up and crash.
 *
 * disk_folder_open() is the real one; tests/unit/mem_disk.h has one in memory. What was written is
 * seen by every later read, of another process too; it survives a power cut once disk_file_sync(),
 * and for a new, renamed or removed name disk_sync(), returned DIMFIT_OK. After a sync that failed
 * nobody knows what is there: whoever asked for it must not go on as if a repeated one made it
 * good.
 *
 * Names have no slash. A disk and its files belong to one thread, except that a file may be synced
 * by another one while it is written to. Errors are IO with a detail that names file and cause;
 * an operation that failed changed nothing, but for a write, of which a part may be there.
 */
#ifndef SERVER_DISK_H
#define SERVER_DISK_H

#include "proto/base.h"

#include <sys/uio.h>

struct disk_ops;
struct disk {
    const struct disk_ops *ops;
};
struct disk_file {
    const struct disk_ops *ops;
};

enum disk_mode {
    DISK_READ,  /* NOT_FOUND, with no detail, when it isn't there */
    DISK_WRITE, /* and read; made when it isn't there, what it has stays */
};

enum { DISK_PARTS_MAX = 8 };

struct disk_ops {
    dimfit_err (*open)(struct disk *disk, const char *name, enum disk_mode mode,
                       struct disk_file **out, struct err_detail *detail);
    dimfit_err (*rename)(struct disk *disk, const char *from, const char *to,
                         struct err_detail *detail);
    dimfit_err (*remove)(struct disk *disk, const char *name, struct err_detail *detail);
    dimfit_err (*list)(struct disk *disk, void (*each)(void *self, const char *name), void *self,
                       struct err_detail *detail);
    dimfit_err (*sync)(struct disk *disk, struct err_detail *detail);
    void (*close)(struct disk *disk);
    int (*fd)(const struct disk *disk); /* NULL: it has none */

    dimfit_err (*file_write)(struct disk_file *file, const struct iovec *parts, size_t n,
                             uint64_t at, struct err_detail *detail);
    dimfit_err (*file_read)(struct disk_file *file, void *out, size_t len, uint64_t at, size_t *got,
                            struct err_detail *detail);
    dimfit_err (*file_size)(struct disk_file *file, uint64_t *out, struct err_detail *detail);
    dimfit_err (*file_reserve)(struct disk_file *file, uint64_t bytes, struct err_detail *detail);
    dimfit_err (*file_truncate)(struct disk_file *file, uint64_t bytes, struct err_detail *detail);
    dimfit_err (*file_sync)(struct disk_file *file, struct err_detail *detail);
    void (*file_close)(struct disk_file *file);
    int (*file_fd)(const struct disk_file *file); /* with fd */
};

/* The folder is made if need be (its parent must be there), and locked: BUSY, naming it, when
 * another process, or another disk of this one, has it. */
dimfit_err disk_folder_open(const char *path, struct disk **out,
                            struct err_detail *detail) MUST_CHECK;

static inline void disk_close(struct disk **disk) {
    if (*disk != NULL)
        (*disk)->ops->close(*disk);
    *disk = NULL;
}

static inline MUST_CHECK dimfit_err disk_open(struct disk *disk, const char *name,
                                              enum disk_mode mode, struct disk_file **out,
                                              struct err_detail *detail) {
    return disk->ops->open(disk, name, mode, out, detail);
}

/* Replaces what has that name. Open files go on under their new names. */
static inline MUST_CHECK dimfit_err disk_rename(struct disk *disk, const char *from, const char *to,
                                                struct err_detail *detail) {
    return disk->ops->rename(disk, from, to, detail);
}

/* What isn't there is no error. */
static inline MUST_CHECK dimfit_err disk_remove(struct disk *disk, const char *name,
                                                struct err_detail *detail) {
    return disk->ops->remove(disk, name, detail);
}

/* Every name, in no order; `each` must not change the folder. */
static inline MUST_CHECK dimfit_err disk_list(struct disk *disk,
                                              void (*each)(void *self, const char *name),
                                              void *self, struct err_detail *detail) {
    return disk->ops->list(disk, each, self, detail);
}

/* Make names durable; blocks. */
static inline MUST_CHECK dimfit_err disk_sync(struct disk *disk, struct err_detail *detail) {
    return disk->ops->sync(disk, detail);
}

/* All n <= DISK_PARTS_MAX parts one after another from byte `at` on, by one call to the system
 * where that takes them all; a gap before them reads as zeros. */
static inline MUST_CHECK dimfit_err disk_file_write(struct disk_file *file,
                                                    const struct iovec *parts, size_t n,
                                                    uint64_t at, struct err_detail *detail) {
    base_assert(n <= DISK_PARTS_MAX);
    return file->ops->file_write(file, parts, n, at, detail);
}

/* *got < len at the file's end only. */
static inline MUST_CHECK dimfit_err disk_file_read(struct disk_file *file, void *out, size_t len,
                                                   uint64_t at, size_t *got,
                                                   struct err_detail *detail) {
    return file->ops->file_read(file, out, len, at, got, detail);
}

static inline MUST_CHECK dimfit_err disk_file_size(struct disk_file *file, uint64_t *out,
                                                   struct err_detail *detail) {
    return file->ops->file_size(file, out, detail);
}

/* Room for the first `bytes`, so that writes there can't find the disk full; the file grows to that
 * size, by zeros. */
static inline MUST_CHECK dimfit_err disk_file_reserve(struct disk_file *file, uint64_t bytes,
                                                      struct err_detail *detail) {
    return file->ops->file_reserve(file, bytes, detail);
}

static inline MUST_CHECK dimfit_err disk_file_truncate(struct disk_file *file, uint64_t bytes,
                                                       struct err_detail *detail) {
    return file->ops->file_truncate(file, bytes, detail);
}

/* Make what was written durable; blocks. */
static inline MUST_CHECK dimfit_err disk_file_sync(struct disk_file *file,
                                                   struct err_detail *detail) {
    return file->ops->file_sync(file, detail);
}

static inline void disk_file_close(struct disk_file **file) {
    if (*file != NULL)
        (*file)->ops->file_close(*file);
    *file = NULL;
}

/* The descriptors behind, which a child of this process keeps open while it uses them; -1: there
 * are none. */
static inline int disk_fd(const struct disk *disk) {
    return disk->ops->fd != NULL ? disk->ops->fd(disk) : -1;
}

static inline int disk_file_fd(const struct disk_file *file) {
    return file->ops->file_fd != NULL ? file->ops->file_fd(file) : -1;
}

#endif

#include "server/disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct folder {
    struct disk disk;
    int fd; /* also the lock's holder */
    char path[];
};

struct real_file {
    struct disk_file file;
    int fd;
    const struct folder *folder;
    char name[];
};

static dimfit_err folder_error(const struct folder *folder, const char *name, const char *what,
                               struct err_detail *detail) {
    return err_set(detail, DIMFIT_ERR_IO, "%s/%s: cannot %s: %s", folder->path, name, what,
                   strerror(errno));
}

static dimfit_err file_error(const struct real_file *file, const char *what,
                             struct err_detail *detail) {
    return folder_error(file->folder, file->name, what, detail);
}

/* ---- files ----------------------------------------------------------------------------------- */

static dimfit_err real_open(struct disk *disk, const char *name, enum disk_mode mode,
                            struct disk_file **out, struct err_detail *detail) {
    const struct folder *const folder = (struct folder *)disk;
    struct real_file *const file = calloc(1, sizeof *file + strlen(name) + 1);
    if (file == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory to open %s/%s", folder->path, name);
    const int flags = mode == DISK_READ ? O_RDONLY : O_RDWR | O_CREAT;
    file->fd = openat(folder->fd, name, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file->fd < 0) {
        const bool absent = errno == ENOENT && mode == DISK_READ;
        free(file);
        return absent ? DIMFIT_ERR_NOT_FOUND : folder_error(folder, name, "open it", detail);
    }
    file->file.ops = disk->ops;
    file->folder = folder;
    memcpy(file->name, name, strlen(name) + 1);
    *out = &file->file;
    return DIMFIT_OK;
}

/* What is left of the parts after the first `done` bytes. */
static size_t skip(struct iovec *parts, size_t n, size_t done) {
    size_t i = 0;
    while (i < n && done >= parts[i].iov_len)
        done -= parts[i++].iov_len;
    if (i < n) {
        parts[i].iov_base = (char *)parts[i].iov_base + done;
        parts[i].iov_len -= done;
    }
    memmove(parts, parts + i, (n - i) * sizeof *parts);
    return n - i;
}

static dimfit_err real_write(struct disk_file *base, const struct iovec *parts, size_t n,
                             uint64_t at, struct err_detail *detail) {
    const struct real_file *const file = (struct real_file *)base;
    struct iovec left[DISK_PARTS_MAX];
    if (n > 0)
        memcpy(left, parts, n * sizeof *left);
    n = skip(left, n, 0);
    while (n > 0) {
        const ssize_t done = pwritev(file->fd, left, (int)n, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return file_error(file, "write it", detail);
        at += (uint64_t)done;
        n = skip(left, n, (size_t)done);
    }
    return DIMFIT_OK;
}

static dimfit_err real_read(struct disk_file *base, void *out, size_t len, uint64_t at, size_t *got,
                            struct err_detail *detail) {
    const struct real_file *const file = (struct real_file *)base;
    size_t done = 0;
    while (done < len) {
        const ssize_t n = pread(file->fd, (char *)out + done, len - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return file_error(file, "read it", detail);
        if (n == 0)
            break;
        done += (size_t)n;
    }
    *got = done;
    return DIMFIT_OK;
}

static dimfit_err real_size(struct disk_file *base, uint64_t *out, struct err_detail *detail) {
    const struct real_file *const file = (struct real_file *)base;
    struct stat stat;
    if (fstat(file->fd, &stat) != 0)
        return file_error(file, "see its size", detail);
    *out = (uint64_t)stat.st_size;
    return DIMFIT_OK;
}

static dimfit_err real_reserve(struct disk_file *base, uint64_t bytes, struct err_detail *detail) {
    const struct real_file *const file = (struct real_file *)base;
    do
        errno = posix_fallocate(file->fd, 0, (off_t)bytes);
    while (errno == EINTR);
    return errno == 0 ? DIMFIT_OK : file_error(file, "make room for it", detail);
}

static dimfit_err real_truncate(struct disk_file *base, uint64_t bytes, struct err_detail *detail) {
    const struct real_file *const file = (struct real_file *)base;
    if (ftruncate(file->fd, (off_t)bytes) != 0)
        return file_error(file, "cut it", detail);
    return DIMFIT_OK;
}

static dimfit_err real_file_sync(struct disk_file *base, struct err_detail *detail) {
    const struct real_file *const file = (struct real_file *)base;
    if (fdatasync(file->fd) != 0)
        return file_error(file, "sync it", detail);
    return DIMFIT_OK;
}

static void real_file_close(struct disk_file *base) {
    struct real_file *const file = (struct real_file *)base;
    close(file->fd);
    free(file);
}

/* ---- folders --------------------------------------------------------------------------------- */

static dimfit_err real_rename(struct disk *disk, const char *from, const char *to,
                              struct err_detail *detail) {
    const struct folder *const folder = (struct folder *)disk;
    if (renameat(folder->fd, from, folder->fd, to) != 0)
        return folder_error(folder, from, "rename it", detail);
    return DIMFIT_OK;
}

static dimfit_err real_remove(struct disk *disk, const char *name, struct err_detail *detail) {
    const struct folder *const folder = (struct folder *)disk;
    if (unlinkat(folder->fd, name, 0) != 0 && errno != ENOENT)
        return folder_error(folder, name, "remove it", detail);
    return DIMFIT_OK;
}

static dimfit_err real_list(struct disk *disk, void (*each)(void *self, const char *name),
                            void *self, struct err_detail *detail) {
    const struct folder *const folder = (struct folder *)disk;
    DIR *const dir = opendir(folder->path);
    if (dir == NULL)
        return folder_error(folder, "", "list it", detail);
    const struct dirent *entry;
    /* Of readdir() alone: `each` may leave anything in errno. */
    while (errno = 0, (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] != '.')
            each(self, entry->d_name);
    }
    const dimfit_err err = errno == 0 ? DIMFIT_OK : folder_error(folder, "", "list it", detail);
    closedir(dir);
    return err;
}

static dimfit_err real_sync(struct disk *disk, struct err_detail *detail) {
    const struct folder *const folder = (struct folder *)disk;
    if (fsync(folder->fd) != 0)
        return folder_error(folder, "", "sync it", detail);
    return DIMFIT_OK;
}

static void real_close(struct disk *disk) {
    struct folder *const folder = (struct folder *)disk;
    close(folder->fd);
    free(folder);
}

static int real_fd(const struct disk *disk) {
    return ((const struct folder *)disk)->fd;
}

static int real_file_fd(const struct disk_file *file) {
    return ((const struct real_file *)file)->fd;
}

static const struct disk_ops real_ops = {
    .open = real_open,
    .rename = real_rename,
    .remove = real_remove,
    .list = real_list,
    .sync = real_sync,
    .close = real_close,
    .fd = real_fd,
    .file_write = real_write,
    .file_read = real_read,
    .file_size = real_size,
    .file_reserve = real_reserve,
    .file_truncate = real_truncate,
    .file_sync = real_file_sync,
    .file_close = real_file_close,
    .file_fd = real_file_fd,
};

/* NOT_FOUND without a detail. */
static dimfit_err folder_new(const char *path, struct folder **out, struct err_detail *detail) {
    struct folder *const folder = calloc(1, sizeof *folder + strlen(path) + 1);
    if (folder == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for %s", path);
    folder->disk.ops = &real_ops;
    memcpy(folder->path, path, strlen(path) + 1);
    folder->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder->fd < 0) {
        const bool absent = errno == ENOENT;
        free(folder);
        return absent ? DIMFIT_ERR_NOT_FOUND
                      : err_set(detail, DIMFIT_ERR_IO, "%s: cannot open this folder: %s", path,
                                strerror(errno));
    }
    *out = folder;
    return DIMFIT_OK;
}

dimfit_err disk_folder_open(const char *path, struct disk **out, struct err_detail *detail) {
    struct folder *folder = NULL;
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return err_set(detail, DIMFIT_ERR_IO, "%s: cannot make this folder: %s", path,
                       strerror(errno));
    const dimfit_err err = folder_new(path, &folder, detail);
    if (err != DIMFIT_OK)
        return err == DIMFIT_ERR_NOT_FOUND
                   ? err_set(detail, DIMFIT_ERR_IO, "%s: this folder is gone", path)
                   : err;
    if (flock(folder->fd, LOCK_EX | LOCK_NB) != 0) {
        const int error = errno;
        real_close(&folder->disk);
        return error == EWOULDBLOCK
                   ? err_set(detail, DIMFIT_ERR_BUSY, "%s is in use by another dimfitd", path)
                   : err_set(detail, DIMFIT_ERR_IO, "%s: cannot lock it: %s", path,
                             strerror(error));
    }
    *out = &folder->disk;
    return DIMFIT_OK;
}

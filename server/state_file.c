#include "server/state_file.h"

#include "server/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char suffix[] = ".next"; /* of a file being written */

struct state_file {
    int folder; /* also the lock's holder */
    char path[];
};

static dimfit_err io_error(const struct state_file *file, const char *name, const char *what,
                           struct err_detail *detail) {
    return err_set(detail, DIMFIT_ERR_IO, "%s/%s: cannot %s: %s", file->path, name, what,
                   strerror(errno));
}

dimfit_err state_file_open(const char *folder, struct state_file **out, struct err_detail *detail) {
    struct state_file *file = calloc(1, sizeof *file + strlen(folder) + 1);
    if (file == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for %s", folder);
    memcpy(file->path, folder, strlen(folder) + 1);
    if (mkdir(folder, 0700) != 0 && errno != EEXIST) {
        err_set(detail, DIMFIT_ERR_IO, "--data-dir %s: cannot make it: %s", folder,
                strerror(errno));
        free(file);
        return DIMFIT_ERR_IO;
    }
    file->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file->folder < 0) {
        err_set(detail, DIMFIT_ERR_IO, "--data-dir %s: %s", folder, strerror(errno));
        free(file);
        return DIMFIT_ERR_IO;
    }
    if (flock(file->folder, LOCK_EX | LOCK_NB) != 0) {
        const dimfit_err err =
            errno == EWOULDBLOCK
                ? err_set(
                      detail, DIMFIT_ERR_BUSY,
                      "--data-dir %s is in use by another dimfitd; stop it or give another folder",
                      folder)
                : err_set(detail, DIMFIT_ERR_IO, "--data-dir %s: cannot lock it: %s", folder,
                          strerror(errno));
        state_file_close(&file);
        return err;
    }
    *out = file;
    return DIMFIT_OK;
}

void state_file_close(struct state_file **file) {
    if (*file == NULL)
        return;
    close((*file)->folder);
    free(*file);
    *file = NULL;
}

dimfit_err state_file_read(const struct state_file *file, const char *name, struct buf *out,
                           struct err_detail *detail) {
    const int fd = openat(file->folder, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? DIMFIT_ERR_NOT_FOUND : io_error(file, name, "open", detail);
    dimfit_err err = DIMFIT_OK;
    for (;;) {
        uint8_t block[65536];
        const ssize_t n = read(fd, block, sizeof block);
        if (n == 0)
            break;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            err = io_error(file, name, "read", detail);
            break;
        }
        buf_put(out, block, (size_t)n);
    }
    close(fd);
    return err != DIMFIT_OK ? err : buf_status(out);
}

static bool write_all(int fd, const uint8_t *bytes, size_t len) {
    while (len > 0) {
        const ssize_t n = write(fd, bytes, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

dimfit_err state_file_write(const struct state_file *file, const char *name, const void *bytes,
                            size_t len, struct err_detail *detail) {
    char next[NAME_MAX + 1];
    base_assert(strlen(name) + sizeof suffix <= sizeof next);
    snprintf(next, sizeof next, "%s%s", name, suffix);
    const int fd = openat(file->folder, next, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return io_error(file, name, "write", detail);
    const bool written = write_all(fd, bytes, len) && fsync(fd) == 0;
    const int saved = errno;
    const bool closed = close(fd) == 0;
    if (!written)
        errno = saved;
    if (!written || !closed)
        return io_error(file, name, "write", detail);
    if (renameat(file->folder, next, file->folder, name) != 0)
        return io_error(file, name, "replace", detail);
    /* The new state is the one that any restart reads from here on: there is no way back from it.
     */
    if (fsync(file->folder) != 0)
        log_error("coordinator",
                  "%s: cannot sync the folder: %s; a power cut may bring the state before back",
                  file->path, strerror(errno));
    return DIMFIT_OK;
}

dimfit_err state_file_remove(const struct state_file *file, const char *name,
                             struct err_detail *detail) {
    if (unlinkat(file->folder, name, 0) != 0)
        return errno == ENOENT ? DIMFIT_OK : io_error(file, name, "remove", detail);
    return fsync(file->folder) == 0 ? DIMFIT_OK : io_error(file, name, "remove", detail);
}

static bool ends_with(const char *text, const char *end) {
    const size_t len = strlen(text), tail = strlen(end);
    return len >= tail && strcmp(text + len - tail, end) == 0;
}

void state_file_each(const struct state_file *file, const char *prefix,
                     void (*each)(void *self, const char *name), void *self) {
    DIR *const folder = opendir(file->path);
    if (folder == NULL) {
        log_error("coordinator", "%s: cannot list it: %s", file->path, strerror(errno));
        return;
    }
    const struct dirent *entry;
    while ((entry = readdir(folder)) != NULL) {
        if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0 &&
            !ends_with(entry->d_name, suffix))
            each(self, entry->d_name);
    }
    closedir(folder);
}

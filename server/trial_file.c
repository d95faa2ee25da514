#include "server/trial_file.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

static dimfit_err io_error(const char *path, const char *what, struct err_detail *detail) {
    return err_set(detail, DIMFIT_ERR_IO, "%.200s: cannot %s: %s", path, what, strerror(errno));
}

static bool path_of(const char *folder, const char *suffix, char *out) {
    const int len = snprintf(out, PATH_MAX, "%s/%s%s", folder, TRIAL_FILE_NAME, suffix);
    return len > 0 && len < PATH_MAX;
}

dimfit_err trial_file_read(const char *folder, struct buf *out, struct err_detail *detail) {
    char path[PATH_MAX];
    FILE *const file = path_of(folder, "", path) ? fopen(path, "rbe") : NULL;
    if (file == NULL)
        return errno == ENOENT ? DIMFIT_ERR_NOT_FOUND : io_error(path, "open", detail);
    uint8_t block[65536];
    for (size_t n; (n = fread(block, 1, sizeof block, file)) > 0;)
        buf_put(out, block, n);
    const bool failed = ferror(file) != 0;
    fclose(file);
    return failed ? io_error(path, "read", detail) : buf_status(out);
}

dimfit_err trial_file_write(const char *folder, const void *bytes, size_t len,
                            struct err_detail *detail) {
    char path[PATH_MAX], next[PATH_MAX];
    if (!path_of(folder, "", path) || !path_of(folder, ".next", next))
        return err_set(detail, DIMFIT_ERR_IO, "%.200s: the path is too long", folder);
    if (len == 0)
        return unlink(path) == 0 || errno == ENOENT ? DIMFIT_OK : io_error(path, "remove", detail);
    FILE *const file = fopen(next, "wbe");
    if (file == NULL)
        return io_error(next, "write", detail);
    const bool written = fwrite(bytes, 1, len, file) == len;
    if (fclose(file) != 0 || !written)
        return io_error(next, "write", detail);
    return rename(next, path) == 0 ? DIMFIT_OK : io_error(path, "replace", detail);
}

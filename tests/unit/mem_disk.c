#include "tests/unit/mem_disk.h"

#include <stdlib.h>

enum { SECTOR = 512, NAMES_MAX = 256, NAME_MAX_LEN = 63 };

struct image {
    uint8_t *bytes;
    size_t len;
};

/* Of a file: as every reader sees it, and as it is after a power cut. */
struct content {
    size_t users; /* names in `now` and `synced`, and open files */
    struct image now, synced;
};

struct names {
    size_t n;
    struct name {
        char text[NAME_MAX_LEN + 1];
        struct content *content;
    } at[NAMES_MAX];
};

struct mem_disk {
    uint64_t random, life, operations, writes;
    uint64_t fail_at, fail_until, tear_at;
    size_t limit;
    bool torn;
    struct names now, synced;
};

struct mem_folder {
    struct disk disk;
    struct mem_disk *mem;
    uint64_t life;
};

struct mem_file {
    struct disk_file file;
    struct mem_folder folder;
    struct content *content;
    char name[NAME_MAX_LEN + 1];
};

static void *sure(void *memory) {
    base_assert(memory != NULL);
    return memory;
}

static uint64_t draw(struct mem_disk *mem) {
    uint64_t z = mem->random += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* ---- contents -------------------------------------------------------------------------------- */

static void resize(struct image *image, size_t len) {
    image->bytes = sure(realloc(image->bytes, len + 1));
    if (len > image->len)
        memset(image->bytes + image->len, 0, len - image->len);
    image->len = len;
}

static void copy(struct image *to, const struct image *from) {
    resize(to, from->len);
    if (from->len > 0)
        memcpy(to->bytes, from->bytes, from->len);
}

static struct content *hold(struct content *content) {
    content->users++;
    return content;
}

static void drop(struct content *content) {
    if (--content->users > 0)
        return;
    free(content->now.bytes);
    free(content->synced.bytes);
    free(content);
}

static struct name *find(struct names *names, const char *text) {
    for (size_t i = 0; i < names->n; i++) {
        if (strcmp(names->at[i].text, text) == 0)
            return &names->at[i];
    }
    return NULL;
}

static void put(struct names *names, const char *text, struct content *content) {
    base_assert(names->n < NAMES_MAX && strlen(text) <= NAME_MAX_LEN);
    struct name *const name = &names->at[names->n++];
    *name = (struct name){.content = hold(content)};
    memcpy(name->text, text, strlen(text) + 1);
}

static void take_away(struct names *names, struct name *name) {
    drop(name->content);
    *name = names->at[--names->n];
}

static void copy_names(struct names *to, struct names *from) {
    while (to->n > 0)
        take_away(to, &to->at[to->n - 1]);
    for (size_t i = 0; i < from->n; i++)
        put(to, from->at[i].text, from->at[i].content);
}

static size_t used(const struct mem_disk *mem) {
    size_t bytes = 0;
    for (size_t i = 0; i < mem->now.n; i++)
        bytes += mem->now.at[i].content->now.len;
    return bytes;
}

/* ---- faults ---------------------------------------------------------------------------------- */

static dimfit_err gone(struct err_detail *detail) {
    return err_set(detail, DIMFIT_ERR_IO, "the process has ended");
}

static dimfit_err operate(const struct mem_folder *folder, const char *name,
                          struct err_detail *detail) {
    struct mem_disk *const mem = folder->mem;
    if (mem->torn || folder->life != mem->life)
        return gone(detail);
    mem->operations++;
    if (mem->operations >= mem->fail_at && mem->operations < mem->fail_until)
        return err_set(detail, DIMFIT_ERR_IO, "%s: the disk fails", name);
    return DIMFIT_OK;
}

static dimfit_err check_room(struct mem_disk *mem, const struct content *content, size_t end,
                             const char *name, struct err_detail *detail) {
    const size_t more = end > content->now.len ? end - content->now.len : 0;
    if (more == 0 || used(mem) + more <= mem->limit)
        return DIMFIT_OK;
    return err_set(detail, DIMFIT_ERR_IO, "%s: no space left", name);
}

/* ---- files ----------------------------------------------------------------------------------- */

static dimfit_err mem_open(struct disk *disk, const char *name, enum disk_mode mode,
                           struct disk_file **out, struct err_detail *detail) {
    const struct mem_folder *const folder = (struct mem_folder *)disk;
    struct name *known = find(&folder->mem->now, name);
    if (known == NULL && mode == DISK_READ)
        return DIMFIT_ERR_NOT_FOUND;
    if (known == NULL) {
        const dimfit_err err = operate(folder, name, detail);
        if (err != DIMFIT_OK)
            return err;
        put(&folder->mem->now, name, sure(calloc(1, sizeof(struct content))));
        known = find(&folder->mem->now, name);
    }
    struct mem_file *const file = sure(calloc(1, sizeof *file));
    file->file.ops = disk->ops;
    file->folder = *folder;
    file->content = hold(known->content);
    memcpy(file->name, name, strlen(name) + 1);
    *out = &file->file;
    return DIMFIT_OK;
}

static dimfit_err mem_write(struct disk_file *base, const struct iovec *parts, size_t n,
                            uint64_t at, struct err_detail *detail) {
    struct mem_file *const file = (struct mem_file *)base;
    struct mem_disk *const mem = file->folder.mem;
    dimfit_err err = operate(&file->folder, file->name, detail);
    size_t len = 0, done = 0;
    for (size_t i = 0; i < n; i++)
        len += parts[i].iov_len;
    if (err == DIMFIT_OK)
        err = check_room(mem, file->content, at + len, file->name, detail);
    if (err != DIMFIT_OK)
        return err;
    const bool tears = ++mem->writes == mem->tear_at;
    if (tears)
        len = draw(mem) % (len + 1);
    struct image *const image = &file->content->now;
    if (at + len > image->len)
        resize(image, at + len);
    for (size_t i = 0; i < n && done < len; i++) {
        const size_t take = parts[i].iov_len < len - done ? parts[i].iov_len : len - done;
        if (take > 0)
            memcpy(image->bytes + at + done, parts[i].iov_base, take);
        done += take;
    }
    mem->torn = tears;
    return tears ? gone(detail) : DIMFIT_OK;
}

static dimfit_err mem_read(struct disk_file *base, void *out, size_t len, uint64_t at, size_t *got,
                           struct err_detail *detail) {
    const struct mem_file *const file = (struct mem_file *)base;
    const struct image *const image = &file->content->now;
    *got = at >= image->len ? 0 : image->len - at < len ? image->len - at : len;
    if (*got > 0)
        memcpy(out, image->bytes + at, *got);
    return DIMFIT_OK;
}

static dimfit_err mem_size(struct disk_file *base, uint64_t *out, struct err_detail *detail) {
    *out = ((const struct mem_file *)base)->content->now.len;
    return DIMFIT_OK;
}

static dimfit_err mem_truncate(struct disk_file *base, uint64_t bytes, struct err_detail *detail) {
    struct mem_file *const file = (struct mem_file *)base;
    dimfit_err err = operate(&file->folder, file->name, detail);
    if (err == DIMFIT_OK)
        err = check_room(file->folder.mem, file->content, bytes, file->name, detail);
    if (err == DIMFIT_OK)
        resize(&file->content->now, bytes);
    return err;
}

static dimfit_err mem_reserve(struct disk_file *base, uint64_t bytes, struct err_detail *detail) {
    const struct mem_file *const file = (struct mem_file *)base;
    return bytes > file->content->now.len ? mem_truncate(base, bytes, detail) : DIMFIT_OK;
}

static dimfit_err mem_file_sync(struct disk_file *base, struct err_detail *detail) {
    struct mem_file *const file = (struct mem_file *)base;
    const dimfit_err err = operate(&file->folder, file->name, detail);
    if (err == DIMFIT_OK)
        copy(&file->content->synced, &file->content->now);
    return err;
}

static void mem_file_close(struct disk_file *base) {
    struct mem_file *const file = (struct mem_file *)base;
    drop(file->content);
    free(file);
}

/* ---- folders --------------------------------------------------------------------------------- */

static dimfit_err mem_rename(struct disk *disk, const char *from, const char *to,
                             struct err_detail *detail) {
    const struct mem_folder *const folder = (struct mem_folder *)disk;
    struct names *const names = &folder->mem->now;
    const dimfit_err err = operate(folder, from, detail);
    if (err != DIMFIT_OK)
        return err;
    struct name *name = find(names, from);
    if (name == NULL)
        return err_set(detail, DIMFIT_ERR_IO, "%s: there is no such file", from);
    struct content *const content = hold(name->content);
    take_away(names, name);
    name = find(names, to);
    if (name != NULL)
        take_away(names, name);
    put(names, to, content);
    drop(content);
    return DIMFIT_OK;
}

static dimfit_err mem_remove(struct disk *disk, const char *text, struct err_detail *detail) {
    const struct mem_folder *const folder = (struct mem_folder *)disk;
    const dimfit_err err = operate(folder, text, detail);
    struct name *const name = err == DIMFIT_OK ? find(&folder->mem->now, text) : NULL;
    if (name != NULL)
        take_away(&folder->mem->now, name);
    return err;
}

static dimfit_err mem_list(struct disk *disk, void (*each)(void *self, const char *name),
                           void *self, struct err_detail *detail) {
    const struct names *const names = &((struct mem_folder *)disk)->mem->now;
    for (size_t i = 0; i < names->n; i++)
        each(self, names->at[i].text);
    return DIMFIT_OK;
}

static dimfit_err mem_sync(struct disk *disk, struct err_detail *detail) {
    struct mem_folder *const folder = (struct mem_folder *)disk;
    const dimfit_err err = operate(folder, "the folder", detail);
    if (err == DIMFIT_OK)
        copy_names(&folder->mem->synced, &folder->mem->now);
    return err;
}

static void mem_close(struct disk *disk) {
    free(disk);
}

static const struct disk_ops mem_ops = {
    .open = mem_open,
    .rename = mem_rename,
    .remove = mem_remove,
    .list = mem_list,
    .sync = mem_sync,
    .close = mem_close,
    .file_write = mem_write,
    .file_read = mem_read,
    .file_size = mem_size,
    .file_reserve = mem_reserve,
    .file_truncate = mem_truncate,
    .file_sync = mem_file_sync,
    .file_close = mem_file_close,
};

/* ---- the machine ----------------------------------------------------------------------------- */

struct mem_disk *mem_disk_new(uint64_t seed) {
    struct mem_disk *const mem = sure(calloc(1, sizeof *mem));
    mem->random = seed;
    mem->limit = SIZE_MAX;
    return mem;
}

void mem_disk_free(struct mem_disk *mem) {
    while (mem->now.n > 0)
        take_away(&mem->now, &mem->now.at[0]);
    while (mem->synced.n > 0)
        take_away(&mem->synced, &mem->synced.at[0]);
    free(mem);
}

struct disk *mem_disk_open(struct mem_disk *mem) {
    struct mem_folder *const folder = sure(calloc(1, sizeof *folder));
    *folder = (struct mem_folder){.disk = {&mem_ops}, .mem = mem, .life = mem->life};
    return &folder->disk;
}

void mem_disk_limit(struct mem_disk *mem, size_t bytes) {
    mem->limit = bytes;
}

void mem_disk_fail(struct mem_disk *mem, uint64_t n, uint64_t more) {
    mem->fail_at = n == 0 ? 0 : mem->operations + n;
    mem->fail_until = n == 0 ? 0 : mem->fail_at + 1 + more;
}

void mem_disk_tear(struct mem_disk *mem, uint64_t n) {
    mem->tear_at = n == 0 ? 0 : mem->writes + n;
}

bool mem_disk_torn(const struct mem_disk *mem) {
    return mem->torn;
}

/* Sector by sector, what was written since the last sync is there or not. */
static void cut_power(struct mem_disk *mem, struct content *content) {
    struct image *const now = &content->now, *const synced = &content->synced;
    const size_t len = draw(mem) % 2 == 0 ? now->len : synced->len;
    resize(now, len);
    for (size_t at = 0; at < len; at += SECTOR) {
        const size_t end = at + SECTOR < len ? at + SECTOR : len;
        if (draw(mem) % 2 == 0)
            continue;
        for (size_t i = at; i < end; i++)
            now->bytes[i] = i < synced->len ? synced->bytes[i] : 0;
    }
    copy(synced, now);
}

void mem_disk_crash(struct mem_disk *mem, bool power) {
    mem->life++;
    mem->torn = false;
    mem->tear_at = mem->fail_at = mem->fail_until = 0;
    if (!power)
        return;
    if (draw(mem) % 2 == 0)
        copy_names(&mem->now, &mem->synced);
    for (size_t i = 0; i < mem->now.n; i++)
        cut_power(mem, mem->now.at[i].content);
    copy_names(&mem->synced, &mem->now);
}

uint64_t mem_disk_operations(const struct mem_disk *mem) {
    return mem->operations;
}

uint8_t *mem_disk_bytes(struct mem_disk *mem, const char *name, size_t *len) {
    const struct name *const known = find(&mem->now, name);
    if (known == NULL)
        return NULL;
    *len = known->content->now.len;
    return known->content->now.bytes;
}

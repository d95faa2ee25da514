#include "server/strategy_host.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

struct loaded {
    const struct dimfit_strategy *strategy;
    void *handle;
    char file[NAME_MAX + 1];
};

struct refusal {
    char text[NAME_MAX + 1 + sizeof(struct err_detail)];
};

struct strategies {
    struct loaded *loaded;
    struct refusal *refused;
    size_t n_loaded, n_refused;
};

static bool is_name(const char *name) {
    const size_t len = strnlen(name, STRATEGY_NAME_MAX + 1);
    return len >= 1 && len <= STRATEGY_NAME_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == len;
}

/* In the order that makes each field safe to read: magic, then the versions that say what the rest
 * means, then the size that says it is there. */
dimfit_err strategy_check(const struct dimfit_strategy *s, struct err_detail *detail) {
    const uint32_t known = DIMFIT_NEEDS_SCORES | DIMFIT_NEEDS_NORMS | DIMFIT_NEEDS_SPECTRUM |
                           DIMFIT_NEEDS_LOOKUPS | DIMFIT_NEEDS_TRIALS | DIMFIT_NEEDS_BASES;
    if (s == NULL)
        return err_set(detail, DIMFIT_ERR_PLUGIN, "dimfit_strategy() returned no descriptor");
    if (s->magic != DIMFIT_STRATEGY_MAGIC)
        return err_set(detail, DIMFIT_ERR_PLUGIN, "the descriptor's magic is %#x, not %#x",
                       s->magic, DIMFIT_STRATEGY_MAGIC);
    if (s->abi_major != DIMFIT_STRATEGY_ABI_MAJOR)
        return err_set(detail, DIMFIT_ERR_VERSION,
                       "built for ABI %u.%u, this dimfit has %d.%d: the major number must be equal",
                       s->abi_major, s->abi_minor, DIMFIT_STRATEGY_ABI_MAJOR,
                       DIMFIT_STRATEGY_ABI_MINOR);
    if (s->abi_minor > DIMFIT_STRATEGY_ABI_MINOR)
        return err_set(detail, DIMFIT_ERR_VERSION,
                       "built for the newer ABI %u.%u, this dimfit has %d.%d", s->abi_major,
                       s->abi_minor, DIMFIT_STRATEGY_ABI_MAJOR, DIMFIT_STRATEGY_ABI_MINOR);
    if (s->size < sizeof *s)
        return err_set(detail, DIMFIT_ERR_PLUGIN,
                       "the descriptor has %u bytes, ABI %u.%u takes at least %zu", s->size,
                       s->abi_major, s->abi_minor, sizeof *s);
    if (s->name == NULL || !is_name(s->name))
        return err_set(detail, DIMFIT_ERR_PLUGIN,
                       "the strategy's name must be 1 to %d of the characters a-z 0-9 _",
                       STRATEGY_NAME_MAX);
    if (s->version == NULL || s->summary == NULL)
        return err_set(detail, DIMFIT_ERR_PLUGIN, "strategy '%s' does not say its %s", s->name,
                       s->version == NULL ? "version" : "summary");
    if ((s->needs & ~known) != 0)
        return err_set(detail, DIMFIT_ERR_PLUGIN,
                       "strategy '%s' needs inputs (bits %#x) that this dimfit does not have",
                       s->name, s->needs & ~known);
    if (s->plan == NULL)
        return err_set(detail, DIMFIT_ERR_PLUGIN, "strategy '%s' has no plan()", s->name);
    return DIMFIT_OK;
}

/* ---- loading --------------------------------------------------------------------------------- */

static dimfit_err check_unique(const struct strategies *all, const struct dimfit_strategy *strategy,
                               struct err_detail *detail) {
    for (size_t i = 0; i < all->n_loaded; i++) {
        if (strcmp(all->loaded[i].strategy->name, strategy->name) == 0)
            return err_set(detail, DIMFIT_ERR_EXISTS, "the name '%s' is that of the strategy in %s",
                           strategy->name, all->loaded[i].file);
    }
    return DIMFIT_OK;
}

/* dlerror() begins with the path, which the caller says already. */
static const char *why_not(const char *path) {
    const char *const why = dlerror();
    if (why == NULL)
        return "no reason given";
    const size_t len = strlen(path);
    return strncmp(why, path, len) == 0 && strncmp(why + len, ": ", 2) == 0 ? why + len + 2 : why;
}

static dimfit_err open_file(const struct strategies *all, const char *folder, const char *file,
                            struct loaded *out, struct err_detail *detail) {
    char path[PATH_MAX];
    const int len = snprintf(path, sizeof path, "%s/%s", folder, file);
    if (len < 0 || (size_t)len >= sizeof path)
        return err_set(detail, DIMFIT_ERR_PLUGIN, "its path is longer than %zu bytes", sizeof path);
    void *const handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL)
        return err_set(detail, DIMFIT_ERR_PLUGIN, "it can't be loaded: %.300s", why_not(path));
    dimfit_strategy_fn *entry = NULL;
    *(void **)&entry = dlsym(handle, "dimfit_strategy");
    dimfit_err err = DIMFIT_OK;
    const struct dimfit_strategy *strategy = NULL;
    if (entry == NULL) {
        err = err_set(detail, DIMFIT_ERR_PLUGIN, "it exports no function dimfit_strategy()");
    } else {
        strategy = entry();
        err = strategy_check(strategy, detail);
    }
    if (err == DIMFIT_OK)
        err = check_unique(all, strategy, detail);
    if (err != DIMFIT_OK) {
        dlclose(handle);
        return err;
    }
    *out = (struct loaded){.strategy = strategy, .handle = handle};
    snprintf(out->file, sizeof out->file, "%s", file);
    return DIMFIT_OK;
}

static int is_shared_object(const struct dirent *entry) {
    const size_t len = strlen(entry->d_name);
    return len > 3 && strcmp(entry->d_name + len - 3, ".so") == 0;
}

/* Bytes, not the locale's collation: the order decides who keeps a name that two files claim. */
static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

dimfit_err strategies_load(const char *folder, struct strategies **out, struct err_detail *detail) {
    struct dirent **files = NULL;
    const int n = scandir(folder, &files, is_shared_object, by_name);
    if (n < 0)
        return err_set(detail, DIMFIT_ERR_IO, "the strategies' folder %s can't be read: %s", folder,
                       strerror(errno));
    dimfit_err err = DIMFIT_ERR_NOMEM;
    struct strategies *all = calloc(1, sizeof *all);
    if (all == NULL)
        goto done;
    all->loaded = calloc((size_t)n + 1, sizeof *all->loaded);
    all->refused = calloc((size_t)n + 1, sizeof *all->refused);
    if (all->loaded == NULL || all->refused == NULL)
        goto done;
    for (int i = 0; i < n; i++) {
        struct err_detail why = {""};
        if (open_file(all, folder, files[i]->d_name, &all->loaded[all->n_loaded], &why) ==
            DIMFIT_OK) {
            all->n_loaded++;
        } else {
            struct refusal *const refusal = &all->refused[all->n_refused++];
            snprintf(refusal->text, sizeof refusal->text, "%s: %s", files[i]->d_name, why.text);
        }
    }
    *out = all;
    all = NULL;
    err = DIMFIT_OK;

done:
    if (err != DIMFIT_OK)
        err_set(detail, err, "no memory to list the strategies in %s", folder);
    for (int i = 0; i < n; i++)
        free(files[i]);
    free(files);
    strategies_destroy(&all);
    return err;
}

void strategies_destroy(struct strategies **strategies) {
    struct strategies *const all = *strategies;
    if (all == NULL)
        return;
    for (size_t i = 0; i < all->n_loaded; i++)
        dlclose(all->loaded[i].handle);
    free(all->loaded);
    free(all->refused);
    free(all);
    *strategies = NULL;
}

size_t strategies_count(const struct strategies *strategies) {
    return strategies->n_loaded;
}

const struct dimfit_strategy *strategies_at(const struct strategies *strategies, size_t i) {
    base_assert(i < strategies->n_loaded);
    return strategies->loaded[i].strategy;
}

const struct dimfit_strategy *strategies_find(const struct strategies *strategies,
                                              const char *name) {
    for (size_t i = 0; i < strategies->n_loaded; i++) {
        if (strcmp(strategies->loaded[i].strategy->name, name) == 0)
            return strategies->loaded[i].strategy;
    }
    return NULL;
}

size_t strategies_refused(const struct strategies *strategies) {
    return strategies->n_refused;
}

const char *strategies_refusal(const struct strategies *strategies, size_t i) {
    base_assert(i < strategies->n_refused);
    return strategies->refused[i].text;
}

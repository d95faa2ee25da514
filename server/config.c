#include "server/config_internal.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

const struct setting config_settings[CONFIG_SETTINGS] = {
#define SETTING(field, type, min, max, initial, option, arg, help)                                 \
    {#field, SETTING_##type, min, max, initial, option, arg, help, offsetof(struct config, field)},
    CONFIG_SETTING_MAP(SETTING)
#undef SETTING
};

const struct setting config_slot_settings[CONFIG_SLOT_SETTINGS] = {
#define SETTING(field, type, min, max, initial, key)                                               \
    {key, SETTING_##type, min, max, initial, NULL, NULL, NULL, offsetof(struct layout_slot, field)},
    CONFIG_SLOT_MAP(SETTING)
#undef SETTING
};

static const char *const roles[] = {
#define ROLE_TEXT(name, text) text,
    CONFIG_ROLE_MAP(ROLE_TEXT)
#undef ROLE_TEXT
};

const char *config_role_name(enum config_role role) {
    base_assert((size_t)role < ARRAY_LEN(roles));
    return roles[role];
}

static void set_initial(const struct setting *settings, size_t n, void *object) {
    for (size_t i = 0; i < n; i++) {
        struct setting_why why;
        if (settings[i].initial[0] != '\0') {
            const dimfit_err err = setting_set(&settings[i], object, settings[i].initial, &why);
            base_assert(err == DIMFIT_OK);
        }
    }
}

/* The plugins of the build tree the executable stands in. Libtool may have put it into .libs. */
static bool find_build_tree(char *out, size_t cap) {
    static const char plugins[] = "/plugin/.libs";
    char path[CONFIG_PATH_MAX + 1];
    const ssize_t len = readlink("/proc/self/exe", path, sizeof path - 1);
    if (len <= 0)
        return false;
    path[len] = '\0';
    char *slash = strrchr(path, '/');
    if (slash == NULL)
        return false;
    *slash = '\0';
    slash = strrchr(path, '/');
    if (slash != NULL && strcmp(slash, "/.libs") == 0)
        *slash = '\0';
    struct stat info;
    if (strlen(path) + sizeof plugins > sizeof path || strlen(path) + sizeof plugins > cap)
        return false;
    strcat(path, plugins);
    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode))
        return false;
    strcpy(out, path);
    return true;
}

static size_t setting_index(const char *key) {
    for (size_t i = 0; i < CONFIG_SETTINGS; i++) {
        if (strcmp(config_settings[i].key, key) == 0)
            return i;
    }
    base_assert(!"a setting of the table");
    return 0;
}

static void find_strategies(struct config *config) {
    const char *const named = getenv("DIMFIT_STRATEGIES");
    if (named != NULL && named[0] != '\0' && strlen(named) < sizeof config->strategies) {
        strcpy(config->strategies, named);
        config->origins[setting_index("strategies")].source = FROM_ENVIRONMENT;
    } else if (!find_build_tree(config->strategies, sizeof config->strategies)) {
        _Static_assert(sizeof STRATEGIES_DIR <= sizeof config->strategies, "installation path");
        strcpy(config->strategies, STRATEGIES_DIR);
    }
}

void config_init(struct config *config) {
    *config = (struct config){.role = ROLE_STANDALONE};
    set_initial(config_settings, CONFIG_SETTINGS, config);
    set_initial(config_slot_settings, CONFIG_SLOT_SETTINGS, &config->defaults);
    find_strategies(config);
}

void config_fini(struct config *config) {
    free(config->slots);
    free(config->slot_lines);
    config->slots = NULL;
    config->slot_lines = NULL;
    config->n_slots = 0;
}

static void print_origin(const struct config *config, const struct setting *setting,
                         const struct config_origin *origin, FILE *out) {
    switch (origin->source) {
    case FROM_DEFAULT:
        fputs("  # default\n", out);
        break;
    case FROM_ENVIRONMENT:
        fputs("  # environment DIMFIT_STRATEGIES\n", out);
        break;
    case FROM_FILE:
        fprintf(out, "  # %s:%zu\n", config->file, origin->line);
        break;
    case FROM_OPTION:
        fprintf(out, "  # option --%s\n", setting->option);
        break;
    }
}

static void print_slots(const struct config *config, FILE *out) {
    if (config->n_slots == 0) {
        fputs("slots: []\n", out);
        return;
    }
    fputs("slots:\n", out);
    for (size_t i = 0; i < config->n_slots; i++) {
        for (size_t k = 0; k < CONFIG_SLOT_SETTINGS; k++) {
            fprintf(out, "%s%s: ", k == 0 ? "  - {" : ", ", config_slot_settings[k].key);
            setting_print(&config_slot_settings[k], &config->slots[i], out);
        }
        fprintf(out, "}  # %s:%zu\n", config->file, config->slot_lines[i]);
    }
}

void config_print(const struct config *config, FILE *out) {
    fprintf(out, "# dimfitd %s\n", config_role_name(config->role));
    for (size_t i = 0; i < CONFIG_SETTINGS; i++) {
        fprintf(out, "%s: ", config_settings[i].key);
        setting_print(&config_settings[i], config, out);
        print_origin(config, &config_settings[i], &config->origins[i], out);
    }
    fputs("defaults:\n", out);
    for (size_t i = SLOT_DIM; i < CONFIG_SLOT_SETTINGS; i++) {
        const struct setting *const setting = &config_slot_settings[i];
        if (i == SLOT_WIDTH && config->defaults.width == 0) {
            fputs("  # width: as dim\n", out);
            continue;
        }
        fprintf(out, "  %s: ", setting->key);
        setting_print(setting, &config->defaults, out);
        print_origin(config, setting, &config->default_origins[i], out);
    }
    print_slots(config, out);
}

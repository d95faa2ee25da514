#include "server/config_internal.h"

#include "server/words.h"

#include <config.h>

#include <argp.h>
#include <errno.h>

/* libc looks this name up: it must be visible. */
__attribute__((visibility("default")))
const char *argp_program_version = "dimfitd " PACKAGE_VERSION;

enum {
    KEY_CONFIG = 'c',
    KEY_PRINT = 'p',
    KEY_SETTING = 0x100, /* + index in config_settings */
};

struct args {
    const char *path;                    /* --config */
    const char *values[CONFIG_SETTINGS]; /* of the options given */
    int n_roles;
    struct config *config;
    struct err_detail *detail;
};

static dimfit_err parse_role(struct args *args, const char *text) {
    static const char *const words[] = {
#define ROLE_WORD(name, word) word,
        CONFIG_ROLE_MAP(ROLE_WORD)
#undef ROLE_WORD
    };
    char list[64];
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strcmp(text, words[i]) == 0) {
            args->config->role = (enum config_role)i;
            return DIMFIT_OK;
        }
    }
    return err_set(args->detail, DIMFIT_ERR_INVALID, "\"%.40s\" is no role. Roles are %s.", text,
                   words_list(words, ARRAY_LEN(words), list, sizeof list));
}

/* A refused role ends the parse with EINVAL; the detail says why. */
static error_t parse_opt(int key, char *arg, struct argp_state *state) {
    struct args *const args = state->input;
    if (key >= KEY_SETTING && key < KEY_SETTING + CONFIG_SETTINGS) {
        args->values[key - KEY_SETTING] = arg != NULL ? arg : "true";
        return 0;
    }
    switch (key) {
    case KEY_CONFIG:
        args->path = arg;
        return 0;
    case KEY_PRINT:
        args->config->print = true;
        return 0;
    case ARGP_KEY_ARG:
        if (args->n_roles++ > 0)
            argp_error(state, "%s: one role only", arg);
        return parse_role(args, arg) == DIMFIT_OK ? 0 : EINVAL;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "a role is needed: standalone, coordinator or shard");
        return EINVAL;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static dimfit_err apply_options(const struct args *args) {
    for (size_t i = 0; i < CONFIG_SETTINGS; i++) {
        struct setting_why why;
        if (args->values[i] == NULL)
            continue;
        if (setting_set(&config_settings[i], args->config, args->values[i], &why) != DIMFIT_OK)
            return err_set(args->detail, DIMFIT_ERR_INVALID, "--%s: %s", config_settings[i].option,
                           why.text);
        args->config->origins[i] = (struct config_origin){.source = FROM_OPTION};
    }
    return DIMFIT_OK;
}

static void list_options(struct argp_option *options) {
    *options++ = (struct argp_option){"config", KEY_CONFIG, "FILE", 0, "YAML configuration file",
                                      0};
    for (size_t i = 0; i < CONFIG_SETTINGS; i++) {
        const struct setting *const s = &config_settings[i];
        *options++ = (struct argp_option){
            .name = s->option,
            .key = KEY_SETTING + (int)i,
            .arg = s->arg,
            .flags = s->type == SETTING_BOOL ? OPTION_ARG_OPTIONAL : 0,
            .doc = s->help,
        };
    }
    *options++ = (struct argp_option){
        "print-config", KEY_PRINT, NULL, 0, "Print the configuration in force and leave", 0};
    *options = (struct argp_option){0};
}

dimfit_err config_parse_args(int argc, char **argv, struct config *config,
                             struct err_detail *detail) {
    struct argp_option options[CONFIG_SETTINGS + 3];
    const struct argp argp = {
        .options = options,
        .parser = parse_opt,
        .args_doc = "standalone|coordinator|shard",
        .doc = "Run a dimfit coordinator, shards, or both in one process.\vOptions win over the "
               "configuration file. The manual page dimfitd(1) lists the file's keys.",
    };
    struct args args = {.config = config, .detail = detail};
    list_options(options);
    config_init(config);
    argp_err_exit_status = 2;

    dimfit_err err = DIMFIT_OK;
    if (argp_parse(&argp, argc, argv, 0, NULL, &args) != 0)
        err = DIMFIT_ERR_INVALID;
    if (err == DIMFIT_OK && args.path != NULL)
        err = config_read_file(config, args.path, detail);
    if (err == DIMFIT_OK)
        err = apply_options(&args);
    if (err != DIMFIT_OK)
        config_fini(config);
    return err;
}

/*
 * What the files of the configuration share: the settings as data, and one way to read a value
 * whether it stands in a file, an option or the table of defaults. Only config*.c includes this.
 */
#ifndef SERVER_CONFIG_INTERNAL_H
#define SERVER_CONFIG_INTERNAL_H

#include "server/config.h"

enum setting_type {
    SETTING_U32,
    SETTING_U64,
    SETTING_BOOL,
    SETTING_SIZE,
    SETTING_SECONDS,
    SETTING_TIME,
    SETTING_FLOAT,
    SETTING_ENDPOINT,
    SETTING_PATH,
    SETTING_NAME,
    SETTING_LEVEL,
    SETTING_OVER,
    SETTING_KEEP,
    SETTING_OPTIMIZER,
    SETTING_INIT,
    SETTING_TIERS, /* of a struct layout_slot; a list in the file */
};

struct setting {
    const char *key;
    enum setting_type type;
    double min, max;
    const char *initial;
    const char *option, *arg, *help; /* NULL for a slot's */
    size_t offset;
};

enum { SLOT_ID, SLOT_NAME, SLOT_DIM, SLOT_WIDTH };

extern const struct setting config_settings[CONFIG_SETTINGS]; /* of a struct config */
extern const struct setting
    config_slot_settings[CONFIG_SLOT_SETTINGS]; /* of a struct layout_slot */

struct setting_why {
    char text[256];
};

/* Read text into the setting's place in *object. INVALID, *object unchanged, and why->text as it
 * follows "key: " otherwise. */
dimfit_err setting_set(const struct setting *setting, void *object, const char *text,
                       struct setting_why *why) MUST_CHECK;
/* The value as setting_set() reads it. */
void setting_print(const struct setting *setting, const void *object, FILE *out);

#endif

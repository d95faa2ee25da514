/*
 * The YAML file. libyaml's document tree is walked by hand, since it is what knows the line of
 * every key, and since libcyaml's own loader takes "-1" for an unsigned number, any word for a bool
 * and "0.1x" for 0.1, and names the line of the entry before an unknown key.
 */
#include "server/config_internal.h"

#include "server/words.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <yaml.h>

struct file {
    struct config *config;
    const char *path;
    yaml_document_t document;
    struct err_detail *detail;
};

/* A slot while its place in the order is not known yet. */
struct entry {
    struct layout_slot slot;
    size_t line;
};

static size_t line_of(const yaml_node_t *node) {
    return node->start_mark.line + 1;
}

static dimfit_err refuse(const struct file *file, size_t line, const char *fmt, ...)
    PRINTF_LIKE(3, 4);

static dimfit_err refuse(const struct file *file, size_t line, const char *fmt, ...) {
    char why[320];
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, sizeof why, fmt, args);
    va_end(args);
    return err_set(file->detail, DIMFIT_ERR_CONFIG, "%s:%zu: %s", file->path, line, why);
}

static dimfit_err unknown_key(const struct file *file, const yaml_node_t *key, const char *where,
                              const char *const *known, size_t n) {
    const char *const name = (const char *)key->data.scalar.value;
    const char *const near = words_closest(name, known, n);
    if (near != NULL)
        return refuse(file, line_of(key), "%s: no key of %s, did you mean %s?", name, where, near);
    char list[256];
    return refuse(file, line_of(key), "%s: no key of %s; it takes %s", name, where,
                  words_list(known, n, list, sizeof list));
}

/* The key of the pair, which must be a plain word given once. */
static dimfit_err take_key(struct file *file, const yaml_node_t *map, const yaml_node_pair_t *pair,
                           const yaml_node_t **out) {
    const yaml_node_t *const key = yaml_document_get_node(&file->document, pair->key);
    if (key->type != YAML_SCALAR_NODE)
        return refuse(file, line_of(key), "a key must be a word");
    const char *const name = (const char *)key->data.scalar.value;
    for (const yaml_node_pair_t *p = map->data.mapping.pairs.start; p < pair; p++) {
        const yaml_node_t *const other = yaml_document_get_node(&file->document, p->key);
        if (strcmp(name, (const char *)other->data.scalar.value) == 0)
            return refuse(file, line_of(key), "%s: given before, on line %zu", name,
                          line_of(other));
    }
    *out = key;
    return DIMFIT_OK;
}

/* A list of words as setting_set() reads one: "[10, 100]". One that is too long for any is cut, and
 * refused for that. */
static dimfit_err set_list(struct file *file, const struct setting *setting, void *object,
                           const yaml_node_t *key, const yaml_node_t *list) {
    char text[256] = "[";
    size_t used = 1;
    for (const yaml_node_item_t *i = list->data.sequence.items.start;
         i < list->data.sequence.items.top && used < sizeof text; i++) {
        const yaml_node_t *const item = yaml_document_get_node(&file->document, *i);
        const char *const word = item->type == YAML_SCALAR_NODE
                                     ? (const char *)item->data.scalar.value
                                     : "a list or mapping";
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", used > 1 ? ", " : "",
                                 word);
    }
    if (used < sizeof text)
        snprintf(text + used, sizeof text - used, "]");
    struct setting_why why;
    if (setting_set(setting, object, text, &why) != DIMFIT_OK)
        return refuse(file, line_of(key), "%s: %s", setting->key, why.text);
    return DIMFIT_OK;
}

static dimfit_err set(struct file *file, const struct setting *setting, void *object,
                      const yaml_node_t *key, const yaml_node_t *value) {
    struct setting_why why;
    if (setting->type == SETTING_TIERS && value->type == YAML_SEQUENCE_NODE)
        return set_list(file, setting, object, key, value);
    if (value->type != YAML_SCALAR_NODE)
        return refuse(file, line_of(key), "%s: takes one value, not a %s", setting->key,
                      value->type == YAML_SEQUENCE_NODE ? "list" : "mapping");
    const char *const text = (const char *)value->data.scalar.value;
    if (strlen(text) != value->data.scalar.length)
        return refuse(file, line_of(key), "%s: holds a NUL byte", setting->key);
    if (text[0] == '\0' && value->data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
        return refuse(file, line_of(key), "%s: has no value", setting->key);
    if (setting_set(setting, object, text, &why) != DIMFIT_OK)
        return refuse(file, line_of(key), "%s: %s", setting->key, why.text);
    return DIMFIT_OK;
}

/* One mapping of slot settings, from the first one on: a slot, or the defaults (without id and
 * name). origins[i].line says where each given one stands. */
static dimfit_err read_slot_settings(struct file *file, const yaml_node_t *map, size_t first,
                                     const char *where, struct layout_slot *slot,
                                     struct config_origin *origins) {
    const char *known[CONFIG_SLOT_SETTINGS];
    for (size_t i = first; i < CONFIG_SLOT_SETTINGS; i++)
        known[i] = config_slot_settings[i].key;
    if (map->type != YAML_MAPPING_NODE)
        return refuse(file, line_of(map), "%s must be a mapping of keys and values", where);

    for (const yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top;
         p++) {
        const yaml_node_t *key;
        dimfit_err err = take_key(file, map, p, &key);
        if (err != DIMFIT_OK)
            return err;
        size_t i = first;
        while (i < CONFIG_SLOT_SETTINGS && strcmp((char *)key->data.scalar.value, known[i]) != 0)
            i++;
        if (i == CONFIG_SLOT_SETTINGS)
            return unknown_key(file, key, where, known + first, CONFIG_SLOT_SETTINGS - first);
        err = set(file, &config_slot_settings[i], slot, key,
                  yaml_document_get_node(&file->document, p->value));
        if (err != DIMFIT_OK)
            return err;
        origins[i] = (struct config_origin){FROM_FILE, line_of(key)};
    }
    return DIMFIT_OK;
}

/* last_seen follows from what needs it; said to be off beside that, one of the two is a mistake. */
static dimfit_err check_last_seen(struct file *file, const struct retention *retention,
                                  const struct config_origin *given) {
    size_t i = 0;
    while (config_slot_settings[i].offset != offsetof(struct layout_slot, retention.last_seen))
        i++;
    if (given[i].line == 0 || retention->last_seen)
        return DIMFIT_OK;
    struct retention whole = *retention;
    retention_complete(&whole);
    if (whole.last_seen)
        return refuse(file, given[i].line, "last_seen: false, but %s needs it",
                      retention->expire_days > 0 ? "expire_days" : "decay");
    return DIMFIT_OK;
}

static dimfit_err read_defaults(struct file *file, const yaml_node_t *map) {
    struct config *const config = file->config;
    const dimfit_err err = read_slot_settings(file, map, SLOT_DIM, "defaults", &config->defaults,
                                              config->default_origins);
    if (err != DIMFIT_OK)
        return err;
    if (config->defaults.width > config->defaults.dim)
        return refuse(file, config->default_origins[SLOT_WIDTH].line,
                      "width: %u is more than dim, which is %u", (unsigned)config->defaults.width,
                      (unsigned)config->defaults.dim);
    return check_last_seen(file, &config->defaults.retention, config->default_origins);
}

static dimfit_err read_slot(struct file *file, const yaml_node_t *map, struct entry *out) {
    struct config_origin given[CONFIG_SLOT_SETTINGS] = {{0}};
    struct layout_slot *const slot = &out->slot;
    *slot = file->config->defaults;
    out->line = line_of(map);
    dimfit_err err = read_slot_settings(file, map, SLOT_ID, "a slot", slot, given);
    if (err != DIMFIT_OK)
        return err;
    if (given[SLOT_ID].line == 0)
        return refuse(file, out->line, "id: every slot needs one");
    if (given[SLOT_NAME].line == 0)
        snprintf(slot->name, sizeof slot->name, "slot%u", (unsigned)slot->id);
    if (given[SLOT_WIDTH].line == 0 && (slot->width == 0 || slot->width > slot->dim))
        slot->width = slot->dim;
    if (slot->width > slot->dim)
        return refuse(file, given[SLOT_WIDTH].line, "width: %u is more than slot %u's dim, %u",
                      (unsigned)slot->width, (unsigned)slot->id, (unsigned)slot->dim);
    err = check_last_seen(file, &slot->retention, given);
    retention_complete(&slot->retention);
    return err;
}

static int by_line(const struct entry *a, const struct entry *b) {
    return (a->line > b->line) - (a->line < b->line);
}

static int by_name(const void *a, const void *b) {
    const struct entry *const x = a, *const y = b;
    const int order = strcmp(x->slot.name, y->slot.name);
    return order != 0 ? order : by_line(x, y);
}

static int by_id(const void *a, const void *b) {
    const struct entry *const x = a, *const y = b;
    const int order = (x->slot.id > y->slot.id) - (x->slot.id < y->slot.id);
    return order != 0 ? order : by_line(x, y);
}

/* Ascending by id at the end. */
static dimfit_err order_slots(struct file *file, struct entry *entries, size_t n) {
    qsort(entries, n, sizeof *entries, by_name);
    for (size_t i = 1; i < n; i++) {
        const struct entry *const a = &entries[i - 1], *const b = &entries[i];
        if (strcmp(a->slot.name, b->slot.name) == 0 && a->slot.id != b->slot.id)
            return refuse(file, b->line, "name: \"%s\" is slot %u's already, on line %zu",
                          b->slot.name, (unsigned)a->slot.id, a->line);
    }
    qsort(entries, n, sizeof *entries, by_id);
    for (size_t i = 1; i < n; i++) {
        if (entries[i - 1].slot.id == entries[i].slot.id)
            return refuse(file, entries[i].line, "id: %u is there already, on line %zu",
                          (unsigned)entries[i].slot.id, entries[i - 1].line);
    }
    return DIMFIT_OK;
}

static dimfit_err keep_slots(struct file *file, const struct entry *entries, size_t n) {
    struct config *const config = file->config;
    config->slots = calloc(n, sizeof *config->slots);
    config->slot_lines = calloc(n, sizeof *config->slot_lines);
    if (config->slots == NULL || config->slot_lines == NULL)
        return err_set(file->detail, DIMFIT_ERR_NOMEM, "%s: %zu slots", file->path, n);
    for (size_t i = 0; i < n; i++) {
        config->slots[i] = entries[i].slot;
        config->slot_lines[i] = entries[i].line;
    }
    config->n_slots = n;
    return DIMFIT_OK;
}

static dimfit_err read_slots(struct file *file, const yaml_node_t *list) {
    if (list->type != YAML_SEQUENCE_NODE)
        return refuse(file, line_of(list), "slots: takes a list such as [{id: 1, name: user}]");
    const yaml_node_item_t *const items = list->data.sequence.items.start;
    const size_t n = (size_t)(list->data.sequence.items.top - items);
    if (n == 0)
        return DIMFIT_OK;
    if (n > LAYOUT_SLOTS_MAX)
        return refuse(file, line_of(list), "slots: %zu of them, %d is the most", n,
                      LAYOUT_SLOTS_MAX);
    struct entry *const entries = calloc(n, sizeof *entries);
    if (entries == NULL)
        return err_set(file->detail, DIMFIT_ERR_NOMEM, "%s: %zu slots", file->path, n);

    dimfit_err err = DIMFIT_OK;
    for (size_t i = 0; i < n && err == DIMFIT_OK; i++)
        err = read_slot(file, yaml_document_get_node(&file->document, items[i]), &entries[i]);
    if (err == DIMFIT_OK)
        err = order_slots(file, entries, n);
    if (err == DIMFIT_OK)
        err = keep_slots(file, entries, n);
    free(entries);
    return err;
}

static dimfit_err read_root(struct file *file, const yaml_node_t *root) {
    const yaml_node_t *defaults = NULL, *slots = NULL;
    const char *known[CONFIG_SETTINGS + 2];
    for (size_t i = 0; i < CONFIG_SETTINGS; i++)
        known[i] = config_settings[i].key;
    known[CONFIG_SETTINGS] = "defaults";
    known[CONFIG_SETTINGS + 1] = "slots";
    if (root->type != YAML_MAPPING_NODE)
        return refuse(file, line_of(root), "must be a mapping of keys and values");

    for (const yaml_node_pair_t *p = root->data.mapping.pairs.start;
         p < root->data.mapping.pairs.top; p++) {
        const yaml_node_t *const value = yaml_document_get_node(&file->document, p->value);
        const yaml_node_t *key;
        dimfit_err err = take_key(file, root, p, &key);
        if (err != DIMFIT_OK)
            return err;
        size_t i = 0;
        while (i < ARRAY_LEN(known) && strcmp((char *)key->data.scalar.value, known[i]) != 0)
            i++;
        if (i == ARRAY_LEN(known))
            return unknown_key(file, key, "the configuration", known, ARRAY_LEN(known));
        if (i == CONFIG_SETTINGS) {
            defaults = value;
        } else if (i == CONFIG_SETTINGS + 1) {
            slots = value;
        } else {
            err = set(file, &config_settings[i], file->config, key, value);
            if (err != DIMFIT_OK)
                return err;
            file->config->origins[i] = (struct config_origin){FROM_FILE, line_of(key)};
        }
    }
    /* Slots start from the defaults wherever in the file those stand. */
    dimfit_err err = defaults != NULL ? read_defaults(file, defaults) : DIMFIT_OK;
    if (err == DIMFIT_OK && slots != NULL)
        err = read_slots(file, slots);
    /* Only now: a slot that turns expiry off must not inherit the day it was needed for. */
    retention_complete(&file->config->defaults.retention);
    return err;
}

static dimfit_err refuse_yaml(const struct file *file, const yaml_parser_t *parser) {
    const char *const problem = parser->problem != NULL ? parser->problem : "can't be read";
    if (parser->error == YAML_MEMORY_ERROR)
        return err_set(file->detail, DIMFIT_ERR_NOMEM, "%s", file->path);
    const size_t line = parser->problem_mark.line != 0 || parser->context == NULL
                            ? parser->problem_mark.line
                            : parser->context_mark.line;
    return refuse(file, line + 1, "not YAML: %s", problem);
}

/* There is nothing after the first document. */
static dimfit_err expect_end(const struct file *file, yaml_parser_t *parser) {
    yaml_document_t more;
    if (!yaml_parser_load(parser, &more))
        return refuse_yaml(file, parser);
    const yaml_node_t *const root = yaml_document_get_root_node(&more);
    const dimfit_err err = root == NULL
                               ? DIMFIT_OK
                               : refuse(file, line_of(root), "a second document; one is read");
    yaml_document_delete(&more);
    return err;
}

static dimfit_err read_document(struct file *file, FILE *in) {
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser))
        return err_set(file->detail, DIMFIT_ERR_NOMEM, "%s", file->path);
    yaml_parser_set_input_file(&parser, in);
    dimfit_err err;
    if (!yaml_parser_load(&parser, &file->document)) {
        err = refuse_yaml(file, &parser);
    } else {
        const yaml_node_t *const root = yaml_document_get_root_node(&file->document);
        err = root == NULL ? DIMFIT_OK : read_root(file, root);
        if (err == DIMFIT_OK && root != NULL)
            err = expect_end(file, &parser);
        yaml_document_delete(&file->document);
    }
    yaml_parser_delete(&parser);
    return err;
}

dimfit_err config_read_file(struct config *config, const char *path, struct err_detail *detail) {
    struct file file = {.config = config, .path = path, .detail = detail};
    if (strlen(path) >= sizeof config->file)
        return err_set(detail, DIMFIT_ERR_IO, "%.80s...: path too long", path);
    FILE *const in = fopen(path, "rbe");
    if (in == NULL)
        return err_set(detail, DIMFIT_ERR_IO, "%s: %s", path, strerror(errno));
    strcpy(config->file, path);
    dimfit_err err = read_document(&file, in);
    if (err == DIMFIT_ERR_CONFIG && ferror(in))
        err = err_set(detail, DIMFIT_ERR_IO, "%s: can't be read", path);
    fclose(in);
    return err;
}

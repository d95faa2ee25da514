#include "server/shrink_rules.h"

#include "server/row_counters.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

static dimfit_err take_whole(const json_t *args, const char *key, uint32_t most, uint32_t *out,
                             struct err_detail *detail) {
    const json_t *const given = json_object_get(args, key);
    if (given == NULL)
        return DIMFIT_OK;
    const json_int_t v = json_integer_value(given);
    if (!json_is_integer(given) || v < 1 || v > (json_int_t)most)
        return err_set(detail, DIMFIT_ERR_INVALID, "%s is a whole number from 1 to %u", key, most);
    *out = (uint32_t)v;
    return DIMFIT_OK;
}

/* A misspelt threshold must not fall back to the configured ones. */
static dimfit_err check_keys(const json_t *args, struct err_detail *detail) {
    json_t *value;
    json_error_t error;
    if (json_unpack_ex((json_t *)args, &error, 0, "{s?o, s?o, s?o, s?o, s?o, s?o !}", "slots",
                       &value, "unseen_days", &value, "shows", &value, "day", &value, "dry_run",
                       &value, "retier", &value) != 0)
        return err_set(detail, DIMFIT_ERR_INVALID, "shrink: %s", error.text);
    return DIMFIT_OK;
}

static dimfit_err take_thresholds(const json_t *args, struct shrink_rules *out,
                                  struct err_detail *detail) {
    dimfit_err err = check_keys(args, detail);
    if (err == DIMFIT_OK)
        err = take_whole(args, "unseen_days", RETENTION_DAYS_MAX, &out->expire_days, detail);
    if (err == DIMFIT_OK)
        err = take_whole(args, "day", COUNTERS_DAY_MAX, &out->day, detail);
    if (err != DIMFIT_OK)
        return err;
    const json_t *const shows = json_object_get(args, "shows");
    const json_t *const dry_run = json_object_get(args, "dry_run");
    if (shows != NULL) {
        out->expire_shows = (float)json_number_value(shows);
        if (!json_is_number(shows) || !isfinite(out->expire_shows) || out->expire_shows <= 0)
            return err_set(detail, DIMFIT_ERR_INVALID, "shows is a number above 0");
    }
    if (dry_run != NULL && !json_is_boolean(dry_run))
        return err_set(detail, DIMFIT_ERR_INVALID, "dry_run is true or false");
    const json_t *const retier = json_object_get(args, "retier");
    if (retier != NULL && !json_is_boolean(retier))
        return err_set(detail, DIMFIT_ERR_INVALID, "retier is true or false");
    if (json_is_true(retier) && (out->expire_days > 0 || shows != NULL))
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "retier evicts nothing, so it takes neither unseen_days nor shows");
    out->dry_run = json_is_true(dry_run);
    out->retier = json_is_true(retier);
    return DIMFIT_OK;
}

/* A slot by its id or, when no slot has that id, by its name. */
static const struct layout_slot *find_slot(const struct layout *layout, const char *word) {
    char *end;
    errno = 0;
    const unsigned long long id = strtoull(word, &end, 10);
    if (word[0] >= '0' && word[0] <= '9' && *end == 0 && errno == 0 && id <= UINT32_MAX) {
        const struct layout_slot *const slot = layout_find(layout, (uint32_t)id);
        if (slot != NULL)
            return slot;
    }
    for (size_t i = 0; i < layout->n_slots; i++) {
        if (strcmp(layout->slots[i].name, word) == 0)
            return &layout->slots[i];
    }
    return NULL;
}

/* named[n_slots]: which slots the arguments name; *any when they name some. */
static dimfit_err take_names(const struct layout *layout, const json_t *args, bool *named,
                             bool *any, struct err_detail *detail) {
    const json_t *const list = json_object_get(args, "slots");
    const json_t *word;
    size_t i;
    if (list != NULL && (!json_is_array(list) || json_array_size(list) > SHRINK_NAMES_MAX))
        return err_set(detail, DIMFIT_ERR_INVALID, "slots is a list of at most %d ids and names",
                       SHRINK_NAMES_MAX);
    json_array_foreach(list, i, word) {
        if (!json_is_string(word))
            return err_set(detail, DIMFIT_ERR_INVALID, "slots: \"3\" or \"user\", as texts");
        const struct layout_slot *const slot = find_slot(layout, json_string_value(word));
        if (slot == NULL)
            return err_set(detail, DIMFIT_ERR_UNKNOWN_SLOT,
                           "there is no slot '%.80s'; `dimfitctl slots` lists them",
                           json_string_value(word));
        named[slot - layout->slots] = true;
        *any = true;
    }
    return DIMFIT_OK;
}

static dimfit_err add_rule(struct shrink_rules *out, const struct layout_slot *slot, bool named,
                           struct err_detail *detail) {
    const struct retention *const kept = &slot->retention;
    const bool given = out->expire_days > 0 || out->expire_shows > 0 || out->retier;
    struct shrink_rule rule = {
        .slot = slot->id,
        .expire_days = given ? out->expire_days : kept->expire_days,
        .expire_shows = given ? out->expire_shows : kept->expire_shows,
    };
    if (rule.expire_days > 0 && !kept->last_seen) {
        if (named)
            return err_set(detail, DIMFIT_ERR_INVALID,
                           "slot %u ('%s') keeps no last-seen day, so age says nothing there; "
                           "shrink it by --shows, or add a slot with `last_seen: true`",
                           slot->id, slot->name);
        rule.expire_days = 0;
        out->ageless[out->n_ageless++] = slot->id;
    }
    if (rule.expire_days > 0 || rule.expire_shows > 0 || slot->n_tiers > 1)
        out->rules[out->n++] = rule;
    else if (named && out->retier)
        return err_set(detail, DIMFIT_ERR_INVALID, "slot %u ('%s') has no tiers", slot->id,
                       slot->name);
    else if (named)
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "slot %u ('%s') is configured without expire_days and expire_shows; give "
                       "--unseen-days or --shows",
                       slot->id, slot->name);
    return DIMFIT_OK;
}

static dimfit_err add_rules(const struct layout *layout, const bool *named, bool any,
                            struct shrink_rules *out, struct err_detail *detail) {
    for (size_t i = 0; i < layout->n_slots; i++) {
        if (any && !named[i])
            continue;
        const dimfit_err err = add_rule(out, &layout->slots[i], named[i], detail);
        if (err != DIMFIT_OK)
            return err;
    }
    if (out->n > 0)
        return DIMFIT_OK;
    if (out->retier)
        return err_set(detail, DIMFIT_ERR_INVALID, "no slot is configured with tiers");
    if (out->n_ageless > 0)
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "no slot keeps a last-seen day, so age says nothing; give --shows");
    return err_set(detail, DIMFIT_ERR_INVALID,
                   "no slot is configured with expire_days or expire_shows; give --unseen-days or "
                   "--shows");
}

dimfit_err shrink_rules_make(const struct layout *layout, const json_t *args, uint32_t today,
                             struct shrink_rules *out, struct err_detail *detail) {
    struct shrink_rules made = {.day = today};
    dimfit_err err = take_thresholds(args, &made, detail);
    if (err != DIMFIT_OK)
        return err;
    const size_t n = layout->n_slots;
    bool any = false;
    bool *const named = calloc(n + 1, sizeof *named);
    made.rules = calloc(n + 1, sizeof *made.rules);
    made.ageless = calloc(n + 1, sizeof *made.ageless);
    if (named == NULL || made.rules == NULL || made.ageless == NULL)
        err = err_set(detail, DIMFIT_ERR_NOMEM, "no memory for a shrink of %zu slots", n);
    if (err == DIMFIT_OK)
        err = take_names(layout, args, named, &any, detail);
    if (err == DIMFIT_OK)
        err = add_rules(layout, named, any, &made, detail);
    free(named);
    if (err != DIMFIT_OK) {
        shrink_rules_fini(&made);
        return err;
    }
    *out = made;
    return DIMFIT_OK;
}

void shrink_rules_fini(struct shrink_rules *rules) {
    free(rules->rules);
    free(rules->ageless);
    *rules = (struct shrink_rules){0};
}

char *shrink_rules_text(const struct shrink_rules *rules, char *out, size_t cap) {
    const bool age = rules->expire_days > 0, shows = rules->expire_shows > 0;
    char days[64] = "", counts[64] = "";
    if (rules->retier) {
        snprintf(out, cap, "none, to take rows to their tiers");
        return out;
    }
    if (age)
        snprintf(days, sizeof days, " unseen for more than %u day%s", rules->expire_days,
                 rules->expire_days == 1 ? "" : "s");
    if (shows)
        snprintf(counts, sizeof counts, " with fewer than %g shows", (double)rules->expire_shows);
    snprintf(out, cap, "rows%s%s%s", days, age && shows ? " or" : "",
             age || shows ? counts : " by their slot's settings");
    return out;
}

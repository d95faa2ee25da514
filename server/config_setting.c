#include "server/config_internal.h"

#include "server/words.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>

static const char *const optimizers[] = {
#define OPTIMIZER_WORD(num, name, text) text,
    OPTIMIZER_MAP(OPTIMIZER_WORD)
#undef OPTIMIZER_WORD
};
static const char *const inits[] = {
#define INIT_WORD(num, name, text) text,
    INIT_MAP(INIT_WORD)
#undef INIT_WORD
};
static const char *const levels[] = {
#define LEVEL_WORD(name, text) text,
    LOG_LEVEL_MAP(LEVEL_WORD)
#undef LEVEL_WORD
};

static const char *const keeps[] = {
#define KEEP_WORD(name, text) text,
    CONFIG_KEEP_MAP(KEEP_WORD)
#undef KEEP_WORD
};
static const char *const overs[] = {
#define OVER_WORD(name, text) text,
    CONFIG_OVER_MAP(OVER_WORD)
#undef OVER_WORD
};

static dimfit_err refuse(struct setting_why *why, const char *fmt, ...) PRINTF_LIKE(2, 3);

static dimfit_err refuse(struct setting_why *why, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(why->text, sizeof why->text, fmt, args);
    va_end(args);
    return DIMFIT_ERR_INVALID;
}

/* strtoull() alone takes signs and leading blanks. */
static bool parse_whole(const char *text, uint64_t *out, const char **end) {
    if (!isdigit((unsigned char)text[0]))
        return false;
    char *stop;
    errno = 0;
    const unsigned long long v = strtoull(text, &stop, 10);
    if (errno != 0)
        return false;
    *out = v;
    *end = stop;
    return true;
}

static bool parse_real(const char *text, double *out) {
    char *stop;
    if (text[0] == '\0' || isspace((unsigned char)text[0]))
        return false;
    const double v = strtod(text, &stop);
    if (*stop != '\0' || !isfinite(v))
        return false;
    *out = v;
    return true;
}

static dimfit_err set_whole(const struct setting *setting, void *place, const char *text,
                            struct setting_why *why) {
    const bool wide = setting->type == SETTING_U64;
    const char *end;
    uint64_t v;
    if (!parse_whole(text, &v, &end) || *end != '\0' ||
        (!wide && ((double)v < setting->min || (double)v > setting->max))) {
        if (wide)
            return refuse(why, "\"%.40s\" is not a whole number of at most 64 bits", text);
        return refuse(why, "\"%.40s\" is not a whole number from %.0f to %.0f", text, setting->min,
                      setting->max);
    }
    if (wide)
        *(uint64_t *)place = v;
    else
        *(uint32_t *)place = (uint32_t)v;
    return DIMFIT_OK;
}

static dimfit_err set_size(const struct setting *setting, void *place, const char *text,
                           struct setting_why *why) {
    static const char units[] = "KMGT";
    const char *end = "";
    uint64_t v = 0;
    bool good = parse_whole(text, &v, &end);
    if (good && *end != '\0') {
        const char *const unit = strchr(units, toupper((unsigned char)*end));
        good = unit != NULL && end[1] == '\0' &&
               !__builtin_mul_overflow(v, UINT64_C(1) << 10 * (unit - units + 1), &v);
    }
    if (!good)
        return refuse(why, "\"%.40s\" is not a size such as 4096, 512M or 2G", text);
    if ((double)v < setting->min || (double)v > setting->max)
        return refuse(why, "%s is out of range: %.0f to %.0f bytes", text, setting->min,
                      setting->max);
    *(uint64_t *)place = v;
    return DIMFIT_OK;
}

static dimfit_err set_real(const struct setting *setting, void *place, const char *text,
                           struct setting_why *why) {
    double v;
    if (!parse_real(text, &v))
        return refuse(why, "\"%.40s\" is not a number", text);
    if (v < setting->min || v > setting->max)
        return refuse(why, "%s is out of range: %g to %g", text, setting->min, setting->max);
    if (setting->type == SETTING_FLOAT)
        *(float *)place = (float)v;
    else
        *(double *)place = v;
    return DIMFIT_OK;
}

/* "HH:MM" of a day, or "off". */
static dimfit_err set_time(void *place, const char *text, struct setting_why *why) {
    int32_t minutes = -1;
    if (strcmp(text, "off") != 0) {
        bool good = strlen(text) == 5 && text[2] == ':';
        for (size_t i = 0; good && i < 5; i++)
            good = i == 2 || isdigit((unsigned char)text[i]);
        const int hour = good ? (text[0] - '0') * 10 + text[1] - '0' : 24;
        const int minute = good ? (text[3] - '0') * 10 + text[4] - '0' : 60;
        if (hour > 23 || minute > 59)
            return refuse(why, "\"%.40s\" is not a time such as 04:00, nor off", text);
        minutes = hour * 60 + minute;
    }
    *(int32_t *)place = minutes;
    return DIMFIT_OK;
}

static dimfit_err set_bool(void *place, const char *text, struct setting_why *why) {
    const bool on = strcmp(text, "true") == 0;
    if (!on && strcmp(text, "false") != 0)
        return refuse(why, "\"%.40s\" is not true or false", text);
    *(bool *)place = on;
    return DIMFIT_OK;
}

static dimfit_err set_text(const struct setting *setting, char *place, const char *text,
                           struct setting_why *why) {
    const size_t max = setting->type == SETTING_NAME       ? LAYOUT_NAME_MAX
                       : setting->type == SETTING_ENDPOINT ? CLUSTER_ENDPOINT_MAX
                                                           : CONFIG_PATH_MAX;
    const size_t len = strlen(text);
    const bool may_be_empty = setting->type == SETTING_ENDPOINT && setting->initial[0] == 0;
    if (setting->type == SETTING_ENDPOINT && !(may_be_empty && len == 0) &&
        strncmp(text, "tcp://", 6) != 0 && strncmp(text, "ipc://", 6) != 0)
        return refuse(why, "\"%.80s\" is not an endpoint such as tcp://10.0.0.5:7700 or ipc://PATH",
                      text);
    if (setting->type == SETTING_NAME && len == 0)
        return refuse(why, "a name must not be empty");
    if (len > max)
        return refuse(why, "longer than %zu bytes", max);
    for (size_t i = 0; i < len; i++) {
        if (iscntrl((unsigned char)text[i]))
            return refuse(why, "control characters are not allowed");
    }
    memcpy(place, text, len + 1);
    return DIMFIT_OK;
}

static dimfit_err refuse_word(const char *text, const char *const *words, size_t n,
                              struct setting_why *why) {
    char list[128];
    return refuse(why, "\"%.40s\" is not one of %s", text, words_list(words, n, list, sizeof list));
}

static dimfit_err set_over(void *place, const char *text, struct setting_why *why) {
    for (size_t i = 0; i < ARRAY_LEN(overs); i++) {
        if (strcmp(text, overs[i]) == 0) {
            *(enum config_over *)place = (enum config_over)i;
            return DIMFIT_OK;
        }
    }
    return refuse_word(text, overs, ARRAY_LEN(overs), why);
}

static dimfit_err set_keep(void *place, const char *text, struct setting_why *why) {
    for (size_t i = 0; i < ARRAY_LEN(keeps); i++) {
        if (strcmp(text, keeps[i]) == 0) {
            *(enum config_keep *)place = (enum config_keep)i;
            return DIMFIT_OK;
        }
    }
    return refuse_word(text, keeps, ARRAY_LEN(keeps), why);
}

/* "[10, 100]": the show counts at which the tiers above the first one begin. */
static dimfit_err set_tiers(struct layout_slot *slot, const char *text, struct setting_why *why) {
    uint32_t shows[LAYOUT_TIERS_MAX] = {0}, n = 1;
    const char *at = text[0] == '[' ? text + 1 : "";
    bool good = text[0] == '[';
    while (good && *at != ']') {
        uint64_t v;
        good = n < LAYOUT_TIERS_MAX && parse_whole(at, &v, &at) && v <= LAYOUT_TIER_SHOWS_MAX;
        if (!good)
            break;
        shows[n] = (uint32_t)v;
        good = shows[n] > shows[n - 1];
        n++;
        at += strspn(at, ", ");
    }
    if (!good || at[1] != '\0')
        return refuse(why,
                      "\"%.80s\" is not a list such as [10, 100]: at most %d show counts within "
                      "1..%d, ascending",
                      text, LAYOUT_TIERS_MAX - 1, LAYOUT_TIER_SHOWS_MAX);
    slot->n_tiers = n;
    memcpy(slot->tier_shows, shows, sizeof shows);
    return DIMFIT_OK;
}

dimfit_err setting_set(const struct setting *setting, void *object, const char *text,
                       struct setting_why *why) {
    void *const place = (char *)object + setting->offset;
    switch (setting->type) {
    case SETTING_U32:
    case SETTING_U64:
        return set_whole(setting, place, text, why);
    case SETTING_SIZE:
        return set_size(setting, place, text, why);
    case SETTING_SECONDS:
    case SETTING_FLOAT:
        return set_real(setting, place, text, why);
    case SETTING_TIME:
        return set_time(place, text, why);
    case SETTING_BOOL:
        return set_bool(place, text, why);
    case SETTING_ENDPOINT:
    case SETTING_PATH:
    case SETTING_NAME:
        return set_text(setting, place, text, why);
    case SETTING_LEVEL:
        return log_level_parse(text, place) ? DIMFIT_OK
                                            : refuse_word(text, levels, ARRAY_LEN(levels), why);
    case SETTING_OVER:
        return set_over(place, text, why);
    case SETTING_KEEP:
        return set_keep(place, text, why);
    case SETTING_OPTIMIZER:
        return optimizer_parse(text, place)
                   ? DIMFIT_OK
                   : refuse_word(text, optimizers, ARRAY_LEN(optimizers), why);
    case SETTING_INIT:
        return init_parse(text, place) ? DIMFIT_OK
                                       : refuse_word(text, inits, ARRAY_LEN(inits), why);
    case SETTING_TIERS:
        return set_tiers(object, text, why);
    }
    base_assert(!"a setting's type");
    return DIMFIT_ERR_INVALID;
}

/* The fewest digits that read back as the same float: 0.05, not 0.0500000007. */
static void print_float(float v, FILE *out) {
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v)
            break;
    }
    fputs(text, out);
}

static void print_size(uint64_t v, FILE *out) {
    static const char units[] = "KMGT";
    size_t unit = 0;
    while (v != 0 && v % 1024 == 0 && unit < 4) {
        v /= 1024;
        unit++;
    }
    fprintf(out, "%" PRIu64, v);
    if (unit > 0)
        fputc(units[unit - 1], out);
}

static void print_time(int32_t minutes, FILE *out) {
    if (minutes < 0)
        fputs("off", out);
    else
        fprintf(out, "\"%02d:%02d\"", minutes / 60, minutes % 60); /* bare, YAML may see base 60 */
}

/* What YAML takes for the end of a line, where two would be joined, or not at all: control
 * characters and U+2028, U+2029. Returns the bytes that were printed as an escape, 0: none were. */
static size_t print_escape(const unsigned char *text, FILE *out) {
    if (*text == '"' || *text == '\\')
        return fprintf(out, "\\%c", *text) > 0;
    if (text[0] == 0xc2 && text[1] >= 0x80 && text[1] < 0xa0)
        return fprintf(out, "\\x%02x", text[1]) > 0 ? 2 : 0;
    if (text[0] == 0xe2 && text[1] == 0x80 && (text[2] == 0xa8 || text[2] == 0xa9))
        return fprintf(out, "\\u%04x", 0x2000 | (text[2] & 0x3f)) > 0 ? 3 : 0;
    return 0;
}

static void print_quoted(const char *text, FILE *out) {
    fputc('"', out);
    while (*text != '\0') {
        const size_t escaped = print_escape((const unsigned char *)text, out);
        if (escaped == 0)
            fputc(*text, out);
        text += escaped > 0 ? escaped : 1;
    }
    fputc('"', out);
}

static void print_tiers(const struct layout_slot *slot, FILE *out) {
    fputc('[', out);
    for (uint32_t t = 1; t < slot->n_tiers; t++)
        fprintf(out, "%s%" PRIu32, t > 1 ? ", " : "", slot->tier_shows[t]);
    fputc(']', out);
}

void setting_print(const struct setting *setting, const void *object, FILE *out) {
    const void *const place = (const char *)object + setting->offset;
    switch (setting->type) {
    case SETTING_U32:
        fprintf(out, "%" PRIu32, *(const uint32_t *)place);
        break;
    case SETTING_U64:
        fprintf(out, "%" PRIu64, *(const uint64_t *)place);
        break;
    case SETTING_SIZE:
        print_size(*(const uint64_t *)place, out);
        break;
    case SETTING_SECONDS:
        fprintf(out, "%g", *(const double *)place);
        break;
    case SETTING_FLOAT:
        print_float(*(const float *)place, out);
        break;
    case SETTING_TIME:
        print_time(*(const int32_t *)place, out);
        break;
    case SETTING_BOOL:
        fputs(*(const bool *)place ? "true" : "false", out);
        break;
    case SETTING_ENDPOINT:
    case SETTING_PATH:
    case SETTING_NAME:
        print_quoted(place, out);
        break;
    case SETTING_LEVEL:
        fputs(log_level_name(*(const enum log_level *)place), out);
        break;
    case SETTING_OVER:
        fputs(overs[*(const enum config_over *)place], out);
        break;
    case SETTING_KEEP:
        fputs(keeps[*(const enum config_keep *)place], out);
        break;
    case SETTING_OPTIMIZER:
        fputs(optimizer_name(*(const enum optimizer_kind *)place), out);
        break;
    case SETTING_INIT:
        fputs(init_name(*(const enum init_kind *)place), out);
        break;
    case SETTING_TIERS:
        print_tiers(object, out);
        break;
    }
}

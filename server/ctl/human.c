#include "server/ctl/human.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct human human_bytes(double bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    struct human out;
    size_t unit = 0;
    /* 1023.96 would be printed as 1024.0. */
    while (fabs(bytes) >= (unit == 0 ? 1024 : 1023.95) && unit + 1 < sizeof units / sizeof *units) {
        bytes /= 1024;
        unit++;
    }
    snprintf(out.text, sizeof out.text, "%.*f %s", unit == 0 ? 0 : 1, bytes, units[unit]);
    return out;
}

struct human human_count(double n) {
    char digits[32];
    struct human out;
    if (!(fabs(n) < 1e18)) {
        snprintf(out.text, sizeof out.text, "%g", n);
        return out;
    }
    snprintf(digits, sizeof digits, "%.0f", n);
    const size_t len = strlen(digits), first = digits[0] == '-' ? 1 : 0;
    size_t used = 0;
    for (size_t i = 0; i < len; i++) {
        if (i > first && (len - i) % 3 == 0)
            out.text[used++] = ',';
        out.text[used++] = digits[i];
    }
    out.text[used] = '\0';
    return out;
}

struct human human_seconds(double seconds) {
    struct human out;
    const double s = floor(seconds + 0.5);
    if (seconds < 9.995)
        snprintf(out.text, sizeof out.text, "%.2f s", seconds);
    else if (s < 60)
        snprintf(out.text, sizeof out.text, "%.0f s", s);
    else if (s < 3600)
        snprintf(out.text, sizeof out.text, "%.0f min %.0f s", floor(s / 60), fmod(s, 60));
    else if (s < 86400)
        snprintf(out.text, sizeof out.text, "%.0f h %.0f min", floor(s / 3600),
                 floor(fmod(s, 3600) / 60));
    else
        snprintf(out.text, sizeof out.text, "%.0f d %.0f h", floor(s / 86400),
                 floor(fmod(s, 86400) / 3600));
    return out;
}

struct human human_share(double part, double whole) {
    struct human out = {"-"};
    if (whole > 0)
        snprintf(out.text, sizeof out.text, "%.1f %%", 100 * part / whole);
    return out;
}

double get_number(const json_t *object, const char *key, double fallback) {
    const json_t *const value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : fallback;
}

const char *get_text(const json_t *object, const char *key, const char *fallback) {
    const json_t *const value = json_object_get(object, key);
    return json_is_string(value) ? json_string_value(value) : fallback;
}

struct human cell_count(const json_t *object, const char *key) {
    const double v = get_number(object, key, NAN);
    return isnan(v) ? (struct human){"-"} : human_count(v);
}

struct human cell_bytes(const json_t *object, const char *key) {
    const double v = get_number(object, key, NAN);
    return isnan(v) ? (struct human){"-"} : human_bytes(v);
}

#include "server/ctl/heatmap.h"

#include "server/ctl/human.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    MARGIN = 24,
    LABEL_CHARS = 24,
    HEAD = 96,         /* title, line of facts, legend */
    COLUMN_HEAD = 18,  /* unit numbers */
    WIDTH_COLUMN = 58, /* "64 -> 16" */
    BAR = 90,
    BAR_TEXT = 56,
    LEGEND = 220,
    WIDTH_LEAST = 640,     /* the head needs it */
    DECADES = 3,           /* of score that the colours tell apart */
    TOOLTIPS_MOST = 20000, /* cells; beyond that they would make up most of the file */
};

struct map {
    const json_t *slots;
    size_t n_rows, n_columns, n_cells;
    double s_max, share_max;
    int cell_w, cell_h, font; /* pixels */
    int label_w, width, height;
    bool planned;
};

static int clamp(int v, int least, int most) {
    return v < least ? least : v > most ? most : v;
}

/* XML 1.0 has no place for control characters, escaped or not. */
static void print_xml(const char *text, size_t max_chars, FILE *out) {
    size_t chars = 0;
    for (; *text != '\0'; text++) {
        const unsigned char c = (unsigned char)*text;
        if ((c & 0xc0) != 0x80 && chars++ == max_chars) {
            fputs("\xe2\x80\xa6", out);
            return;
        }
        if (c == '<')
            fputs("&lt;", out);
        else if (c == '>')
            fputs("&gt;", out);
        else if (c == '&')
            fputs("&amp;", out);
        else if (c == '"')
            fputs("&quot;", out);
        else
            fputc(c < 0x20 || c == 0x7f ? '?' : c, out);
    }
}

/* Viridis, nine anchors of it. */
static void print_colour(double t, FILE *out) {
    static const unsigned char anchors[][3] = {
        {68, 1, 84},    {71, 45, 123}, {59, 82, 139},  {44, 114, 142}, {33, 145, 140},
        {40, 174, 128}, {94, 201, 98}, {173, 220, 48}, {253, 231, 37},
    };
    const double at = fmin(fmax(t, 0), 1) * 8;
    const int i = at >= 8 ? 7 : (int)at;
    int rgb[3];
    for (int c = 0; c < 3; c++)
        rgb[c] = (int)lround(anchors[i][c] + (at - i) * (anchors[i + 1][c] - anchors[i][c]));
    fprintf(out, "#%02x%02x%02x", rgb[0], rgb[1], rgb[2]);
}

/* Where on the colour scale a score stands: by its logarithm, the largest at the end. */
static double scale(const struct map *map, double s) {
    return s > 0 ? 1 + log10(s / map->s_max) / DECADES : 0;
}

static double row_share(const json_t *slot) {
    double share = 0;
    const json_t *v;
    size_t k;
    json_array_foreach(json_object_get(slot, "s"), k, v) {
        share += json_number_value(v);
    }
    return share;
}

static struct map measure(const json_t *doc) {
    struct map map = {.slots = json_object_get(doc, "slots")};
    const json_t *slot, *v;
    size_t i, k, label = 4;
    map.n_rows = json_array_size(map.slots);
    json_array_foreach(map.slots, i, slot) {
        const json_t *const s = json_object_get(slot, "s");
        const size_t name = strlen(get_text(slot, "name", ""));
        map.n_cells += json_array_size(s);
        map.n_columns = json_array_size(s) > map.n_columns ? json_array_size(s) : map.n_columns;
        map.share_max = fmax(map.share_max, row_share(slot));
        map.planned = map.planned || json_is_array(json_object_get(slot, "keep"));
        label = name > label ? name : label;
        json_array_foreach(s, k, v) {
            map.s_max = fmax(map.s_max, json_number_value(v));
        }
    }
    const int rows = map.n_rows > 0 ? (int)map.n_rows : 1;
    const int columns = map.n_columns > 0 ? (int)map.n_columns : 1;
    map.cell_h = clamp(900 / rows, 11, 24);
    map.cell_w = clamp(900 / columns, 12, 36);
    map.font = clamp(map.cell_h - 2, 9, 13);
    map.label_w = clamp((int)label, 4, LABEL_CHARS) * map.font * 62 / 100 + 12;
    map.width = 2 * MARGIN + map.label_w + WIDTH_COLUMN + columns * map.cell_w + BAR + BAR_TEXT;
    map.width = map.width < WIDTH_LEAST ? WIDTH_LEAST : map.width;
    map.height = MARGIN + HEAD + COLUMN_HEAD + rows * map.cell_h + MARGIN;
    return map;
}

static void print_open(const struct map *map, FILE *out) {
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "viewBox=\"0 0 %d %d\" font-family=\"system-ui, 'DejaVu Sans', Helvetica, Arial, "
            "sans-serif\">\n",
            map->width, map->height, map->width, map->height);
    fputs("<style>\n"
          ".back { fill: #ffffff } .text { fill: #1c2026 } .faint { fill: #5b6470 }\n"
          ".track { fill: #eceef1 } .bar { fill: #7a8794 }\n"
          "@media (prefers-color-scheme: dark) {\n"
          ".back { fill: #15181c } .text { fill: #e8eaed } .faint { fill: #a3abb5 }\n"
          ".track { fill: #39404a } .bar { fill: #8a96a3 }\n"
          "}\n"
          "</style>\n",
          out);
    fprintf(out, "<rect class=\"back\" width=\"%d\" height=\"%d\"/>\n", map->width, map->height);
}

static void print_fact(const json_t *doc, const char *key, FILE *out) {
    const char *const word = get_text(doc, key, NULL);
    if (word == NULL)
        return;
    fprintf(out, ", %s ", key);
    print_xml(word, 40, out);
}

static void print_head(const struct map *map, const json_t *doc, FILE *out) {
    fprintf(
        out,
        "<text class=\"text\" x=\"%d\" y=\"%d\" font-size=\"18\" font-weight=\"600\">%s</text>\n",
        MARGIN, MARGIN + 16,
        map->planned ? "Embedding dimensions, by score, and what the plan keeps"
                     : "Embedding dimensions, by score");
    fprintf(out, "<text class=\"faint\" x=\"%d\" y=\"%d\" font-size=\"12\">epoch %.0f", MARGIN,
            MARGIN + 38, get_number(doc, "epoch", 0));
    print_fact(doc, "strategy", out);
    print_fact(doc, "estimator", out);
    print_fact(doc, "basis", out);
    if (get_number(doc, "kappa", 0) > 0)
        fprintf(out, ", kappa %g", get_number(doc, "kappa", 0));
    fprintf(out, ", %s samples, %zu slots</text>\n",
            human_count(get_number(doc, "samples", 0)).text, map->n_rows);
}

static void print_legend(const struct map *map, FILE *out) {
    const int y = MARGIN + 52, steps = 44;
    fputs("<g font-size=\"11\">\n", out);
    for (int i = 0; i < steps; i++) {
        fprintf(out, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"10\" fill=\"",
                MARGIN + i * LEGEND / steps, y, LEGEND / steps + 1);
        print_colour((double)i / (steps - 1), out);
        fputs("\"/>\n", out);
    }
    for (int i = 0; i <= 2; i++) {
        const double t = i / 2.0;
        static const char *const anchors[] = {"start", "middle", "end"};
        fprintf(out,
                "<text class=\"faint\" x=\"%d\" y=\"%d\" text-anchor=\"%s\">%s%.3g %%</text>\n",
                MARGIN + (int)(t * LEGEND), y + 23, anchors[i], i == 0 ? "\xe2\x89\xa4 " : "",
                100 * map->s_max * pow(10, (t - 1) * DECADES));
    }
    fprintf(out, "<text class=\"faint\" x=\"%d\" y=\"%d\">a unit's share of all score</text>\n",
            MARGIN + LEGEND + 14, y + 9);
    if (map->planned) {
        const int x = MARGIN + LEGEND + 190;
        fprintf(out,
                "<rect x=\"%d\" y=\"%d\" width=\"14\" height=\"12\" fill=\"#21918c\"/>"
                "<text class=\"faint\" x=\"%d\" y=\"%d\">kept</text>\n",
                x, y - 1, x + 20, y + 9);
        fprintf(out,
                "<rect x=\"%d\" y=\"%d\" width=\"14\" height=\"12\" class=\"track\"/>"
                "<rect x=\"%d\" y=\"%d\" width=\"6\" height=\"5\" fill=\"#21918c\"/>"
                "<text class=\"faint\" x=\"%d\" y=\"%d\">dropped</text>\n",
                x + 64, y - 1, x + 68, y + 3, x + 84, y + 9);
    }
    fputs("</g>\n", out);
}

static void print_columns(const struct map *map, int x, int y, FILE *out) {
    const size_t every = map->n_columns <= 32 ? 1 : map->n_columns <= 128 ? 4 : 16;
    fprintf(out, "<g class=\"faint\" font-size=\"%d\" text-anchor=\"middle\">\n",
            map->cell_w < 18 ? 9 : 10);
    for (size_t k = 0; k < map->n_columns; k += every)
        fprintf(out, "<text x=\"%d\" y=\"%d\">%zu</text>\n",
                x + (int)k * map->cell_w + map->cell_w / 2, y - 5, k);
    fputs("</g>\n", out);
    fprintf(out,
            "<g class=\"faint\" font-size=\"11\"><text x=\"%d\" y=\"%d\">slot</text>"
            "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">width</text>"
            "<text x=\"%d\" y=\"%d\">share of score</text></g>\n",
            MARGIN, y - 5, x - 10, y - 5, x + (int)map->n_columns * map->cell_w + 10, y - 5);
}

static void print_tooltip(const json_t *slot, size_t k, double s, const char *fate, FILE *out) {
    fputs("<title>", out);
    print_xml(get_text(slot, "name", ""), 64, out);
    fprintf(out, ", unit %zu: s %.4g %%, g %.4g%s</title>", k, 100 * s,
            json_number_value(json_array_get(json_object_get(slot, "g"), k)), fate);
}

static void print_cell(const struct map *map, const json_t *slot, size_t k, int x, int y,
                       FILE *out) {
    const json_t *const keep = json_object_get(slot, "keep");
    const double s = json_number_value(json_array_get(json_object_get(slot, "s"), k));
    const bool planned = json_is_array(keep);
    const bool dropped = planned && json_integer_value(json_array_get(keep, k)) == 0;
    const int w = map->cell_w - 1, h = map->cell_h - 1;
    const int inner_w = dropped ? (w * 2 + 2) / 5 : w, inner_h = dropped ? (h * 2 + 2) / 5 : h;
    fprintf(out, "<g>");
    if (dropped)
        fprintf(out, "<rect class=\"track\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>", x, y,
                w, h);
    fprintf(out, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"",
            x + (w - inner_w) / 2, y + (h - inner_h) / 2, inner_w, inner_h);
    print_colour(scale(map, s), out);
    fputs("\"/>", out);
    if (map->n_cells <= TOOLTIPS_MOST)
        print_tooltip(slot, k, s, dropped ? ", dropped" : planned ? ", kept" : "", out);
    fputs("</g>\n", out);
}

static void print_row(const struct map *map, const json_t *slot, int x, int y, FILE *out) {
    const int base = y + map->cell_h - 1 - (map->cell_h - map->font) / 2;
    const size_t n = json_array_size(json_object_get(slot, "s"));
    const double share = row_share(slot), tier = get_number(slot, "tier", 0);
    fprintf(out, "<text class=\"text\" x=\"%d\" y=\"%d\">", MARGIN, base);
    print_xml(get_text(slot, "name", ""), LABEL_CHARS, out);
    if (tier > 0)
        fprintf(out, "/%.0f", tier);
    fprintf(out, "</text><text class=\"faint\" x=\"%d\" y=\"%d\" text-anchor=\"end\">%zu", x - 10,
            base, n);
    if (json_is_number(json_object_get(slot, "after")))
        fprintf(out, " \xe2\x86\x92 %.0f", get_number(slot, "after", 0));
    fputs("</text>\n", out);

    for (size_t k = 0; k < n; k++)
        print_cell(map, slot, k, x + (int)k * map->cell_w, y, out);

    const int bar_x = x + (int)map->n_columns * map->cell_w + 10;
    const int bar_w = map->share_max > 0 ? (int)lround(BAR * share / map->share_max) : 0;
    fprintf(out,
            "<rect class=\"bar\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>"
            "<text class=\"faint\" x=\"%d\" y=\"%d\">%.1f %%</text>\n",
            bar_x, y + map->cell_h / 4, bar_w, map->cell_h / 2, bar_x + bar_w + 5, base,
            100 * share);
}

void heatmap_write(const json_t *doc, FILE *out) {
    const struct map map = measure(doc);
    const int x = MARGIN + map.label_w + WIDTH_COLUMN, y = MARGIN + HEAD + COLUMN_HEAD;
    const json_t *slot;
    size_t i;
    print_open(&map, out);
    print_head(&map, doc, out);
    print_legend(&map, out);
    print_columns(&map, x, y, out);
    fprintf(out, "<g font-size=\"%d\">\n", map.font);
    json_array_foreach(map.slots, i, slot) {
        print_row(&map, slot, x, y + (int)i * map.cell_h, out);
    }
    fputs("</g>\n</svg>\n", out);
}

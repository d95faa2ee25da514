#include "server/words.h"

#include <stdio.h>
#include <string.h>

enum { WORD_MAX = 32 };

static size_t min_size(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Optimal string alignment distance; words over WORD_MAX are as far as can be. */
static size_t distance(const char *a, const char *b) {
    const size_t n = strlen(a), m = strlen(b);
    if (n > WORD_MAX || m > WORD_MAX)
        return WORD_MAX;
    size_t d[WORD_MAX + 1][WORD_MAX + 1];
    for (size_t i = 0; i <= n; i++)
        d[i][0] = i;
    for (size_t j = 0; j <= m; j++)
        d[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        for (size_t j = 1; j <= m; j++) {
            d[i][j] = min_size(d[i - 1][j], d[i][j - 1]) + 1;
            d[i][j] = min_size(d[i][j], d[i - 1][j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d[i][j] = min_size(d[i][j], d[i - 2][j - 2] + 1);
        }
    }
    return d[n][m];
}

const char *words_closest(const char *word, const char *const *words, size_t n) {
    const char *best = NULL;
    size_t least = strlen(word) >= 6 ? 3 : 2;
    for (size_t i = 0; i < n; i++) {
        const size_t d = distance(word, words[i]);
        if (d < least) {
            least = d;
            best = words[i];
        }
    }
    return best;
}

char *words_list(const char *const *words, size_t n, char *out, size_t cap) {
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < n && used < cap; i++) {
        const char *join = i == 0 ? "" : i + 1 == n ? " or " : ", ";
        used += (size_t)snprintf(out + used, cap - used, "%s%s", join, words[i]);
    }
    return out;
}

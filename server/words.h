/*
 * Help for people who mistype: the nearest of the words that would have been right, and the list of
 * them. Pure functions.
 */
#ifndef SERVER_WORDS_H
#define SERVER_WORDS_H

#include <stddef.h>

/* The word at most one edit away (two for words of six letters and more), the nearest of them,
 * where an edit is a letter more, less or other, or two neighbours swapped. NULL when none is. */
const char *words_closest(const char *word, const char *const *words, size_t n);

/* "a, b or c" into out[cap], cut when it does not fit. Returns out. */
char *words_list(const char *const *words, size_t n, char *out, size_t cap);

#endif

/*
 * Numbers as people read them, and lookups in a reply that may lack a field. Pure.
 */
#ifndef SERVER_CTL_HUMAN_H
#define SERVER_CTL_HUMAN_H

#include <jansson.h>
#include <stddef.h>

/* A short text in a value, so that several can stand in one printf call. */
struct human {
    char text[40];
};

struct human human_bytes(double bytes);     /* "96 B", "1.5 KiB", "2.0 GiB" */
struct human human_count(double n);         /* "12,345,678" */
struct human human_seconds(double seconds); /* "0.25 s", "3 min 20 s", "2 h 5 min", "3 d 4 h" */
struct human human_share(double part, double whole); /* "25.0 %"; "-" of nothing */

/* The number or text of a field; fallback when it is absent, null or of another type. */
double get_number(const json_t *object, const char *key, double fallback);
const char *get_text(const json_t *object, const char *key, const char *fallback);

/* The same as a cell: "-" when there is no number. */
struct human cell_count(const json_t *object, const char *key);
struct human cell_bytes(const json_t *object, const char *key);

#endif

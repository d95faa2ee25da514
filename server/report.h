/*
 * Small JSON pieces that the admin plane's answers share. Everything returned is new and may be
 * NULL out of memory, as in jansson; json_pack() and the set functions take NULL for "no answer".
 */
#ifndef SERVER_REPORT_H
#define SERVER_REPORT_H

#include <jansson.h>
#include <stddef.h>

json_t *report_doubles(const double *values, size_t n);

#endif

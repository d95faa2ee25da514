/*
 * Scores as a picture: an SVG heat map of slot x unit.
 *
 * A row a slot (name, width, its share of all score), a column a unit, colour the unit's score s on
 * the viridis scale, by its logarithm over three decades. With a plan, units that it
 * drops are drawn as small squares and the width reads "before -> after". The file stands alone: no
 * script, no font, no reference; it follows the viewer's light or dark scheme, and cells tell their
 * numbers on hover. Pure: JSON in, text out.
 */
#ifndef SERVER_CTL_HEATMAP_H
#define SERVER_CTL_HEATMAP_H

#include <jansson.h>
#include <stdio.h>

/* doc is a reply of `scores`, or of `search plan`, whose slots have `keep` beside `s`. Whether out
 * took it all is for the caller to see (ferror). */
void heatmap_write(const json_t *doc, FILE *out);

#endif

/*
 * The coordinator's replies as text for people: one function a reply.
 *
 * Pure: JSON in, text out, no clock, no terminal. A field that is missing (an older coordinator) is
 * shown as "-". All return 0, or -1 when memory ran out.
 */
#ifndef SERVER_CTL_VIEW_H
#define SERVER_CTL_VIEW_H

#include <jansson.h>
#include <stdio.h>

int view_status(const json_t *reply, FILE *out);
int view_stats(const json_t *reply, FILE *out);
int view_slots(const json_t *reply, FILE *out);
int view_strategies(const json_t *reply, FILE *out);
int view_scores(const json_t *reply, FILE *out);
int view_search(const json_t *reply, FILE *out);  /* search status */
int view_plan(const json_t *reply, FILE *out);    /* search plan */
int view_compare(const json_t *reply, FILE *out); /* search compare */
int view_plans(const json_t *reply, FILE *out);
int view_dry_run(const json_t *reply, FILE *out); /* of apply and rollback */

int view_shrink(const json_t *reply, FILE *out); /* shrink status */

/* Scores as CSV: slot,name,tier,rows,dim,g,s, one line a unit. */
void view_scores_csv(const json_t *reply, FILE *out);

/* One line on how far a search is: "search 3: scoring, 12,000 of 65,536 samples (18.3 %), 4,000/s,
 * 13 s left", or what it waits for. */
void view_progress(const json_t *reply, FILE *out);
/* The same of a shrink: "shrink 3: 12,000 of 65,536 rows looked at (18.3 %)". */
void view_shrink_progress(const json_t *reply, FILE *out);

#endif

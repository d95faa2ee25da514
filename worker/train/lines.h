/*
 * Line formats without a header.
 *
 * criteo   label, 13 integers and 26 categories between tabs. Slots 1..39 named I1..I13, C1..C26;
 * an empty field is a feasign of its own. An integer x is bucketed: floor(log(x)^2) for x > 2, x
 * itself otherwise. libffm   label, then field:feature:value. Field f is slot f + 1 named field<f>;
 * the feature's number is its feasign and the value its weight (0: left out). slots    label, then
 * slot:feasign. A slot may come several times; its feasigns are summed. Slots are named slot<ID>.
 *
 * A reader is handed the line, writable, and fills a sample; what it refuses it explains without
 * naming file and line.
 */
#ifndef TRAIN_LINES_H
#define TRAIN_LINES_H

#include "worker/train/sample.h"

enum { CRITEO_INTEGERS = 13, CRITEO_CATEGORIES = 26 };

typedef dimfit_err lines_reader(char *line, size_t len, struct sample *out, struct err_detail *why);

lines_reader lines_criteo, lines_libffm, lines_slots;

void lines_criteo_name(uint32_t slot, char name[SAMPLE_SLOT_NAME]);
void lines_libffm_name(uint32_t slot, char name[SAMPLE_SLOT_NAME]);
void lines_slots_name(uint32_t slot, char name[SAMPLE_SLOT_NAME]);

#endif

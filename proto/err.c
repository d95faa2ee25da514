#include "proto/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

const char *err_name(dimfit_err err) {
    switch (err) {
#define ERR_NAME(num, name, text)                                                                  \
    case DIMFIT_ERR_##name:                                                                        \
        return #name;
        DIMFIT_ERR_MAP(ERR_NAME)
#undef ERR_NAME
    }
    return "UNKNOWN";
}

const char *err_text(dimfit_err err) {
    switch (err) {
#define ERR_TEXT(num, name, text)                                                                  \
    case DIMFIT_ERR_##name:                                                                        \
        return text;
        DIMFIT_ERR_MAP(ERR_TEXT)
#undef ERR_TEXT
    }
    return "an error this version does not know";
}

dimfit_err err_set(struct err_detail *detail, dimfit_err err, const char *fmt, ...) {
    if (detail != NULL) {
        va_list args;
        va_start(args, fmt);
        vsnprintf(detail->text, sizeof detail->text, fmt, args);
        va_end(args);
    }
    return err;
}

void base_assert_failed(const char *cond, const char *file, int line) {
    fprintf(stderr, "dimfit: internal contract broken at %s:%d: %s\n", file, line, cond);
    abort();
}

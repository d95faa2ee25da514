/*
 * The number type of the models: float. Their tests compile them once more in double, where
 * gradients can be held against finite differences closely.
 */
#ifndef TRAIN_REAL_H
#define TRAIN_REAL_H

#include <cblas.h>

#ifdef TRAIN_REAL_DOUBLE
typedef double real;
#define real_gemm cblas_dgemm
#define real_gemv cblas_dgemv
#else
typedef float real;
#define real_gemm cblas_sgemm
#define real_gemv cblas_sgemv
#endif

#endif

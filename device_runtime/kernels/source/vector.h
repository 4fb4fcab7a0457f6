// One vector of floats as the compiler's own extension, in the width this file is compiled for.
#pragma once

#if defined(__AVX512F__)
#define ESPALIER_LANES 16
#define ESPALIER_ACCUMULATORS 16
#elif defined(__AVX2__)
#define ESPALIER_LANES 8
#define ESPALIER_ACCUMULATORS 8
#elif defined(__aarch64__)
#define ESPALIER_LANES 4
#define ESPALIER_ACCUMULATORS 16
#else
#define ESPALIER_LANES 4
#define ESPALIER_ACCUMULATORS 8
#endif
#define ESPALIER_INLINE inline __attribute__((always_inline))
#define ESPALIER_UNROLL _Pragma("GCC unroll 32")

namespace {

constexpr int LANES = ESPALIER_LANES;
// Into how many sums the products of one entry go. A core that works in order waits for each addition: on a model of
// Cortex-A53 four take 89 cycles for 64 products where two take 118. On x86-64 four cost what they save.
#if defined(__aarch64__)
constexpr int CHAINS = 4;
#else
constexpr int CHAINS = 2;
#endif
typedef float Vector __attribute__((vector_size(LANES * 4)));
// The same at any address: onnxruntime aligns its tensors, a caller's own arrays may lie anywhere.
typedef float Loose __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef float Quarter __attribute__((vector_size(16)));
typedef float LooseQuarter __attribute__((vector_size(16), aligned(4), may_alias));

ESPALIER_INLINE Vector load(const float *p) { return *(const Loose *)p; }
ESPALIER_INLINE void store(float *p, Vector v) { *(Loose *)p = v; }
ESPALIER_INLINE Vector all(float f) { return f - Vector{}; }  // f + 0 would not be folded: -0 + 0 is 0
// A NaN in `a` stays, so that a training that diverged is seen.
ESPALIER_INLINE Vector larger(Vector a, Vector b) { return b > a ? b : a; }

// The vector's parts of four, added.
ESPALIER_INLINE Quarter quarters(Vector v) {
#if ESPALIER_LANES == 16
  typedef float Half __attribute__((vector_size(32)));
  Half h = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
           __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  return __builtin_shufflevector(h, h, 0, 1, 2, 3) + __builtin_shufflevector(h, h, 4, 5, 6, 7);
#elif ESPALIER_LANES == 8
  return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
  return v;
#endif
}

ESPALIER_INLINE float total(Vector v) {
  Quarter q = quarters(v);
  return (q[0] + q[2]) + (q[1] + q[3]);
}

// Four quarters, each added up: the totals of four vectors at once.
ESPALIER_INLINE Quarter totals(Quarter a, Quarter b, Quarter c, Quarter d) {
  Quarter ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
  Quarter cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

}  // namespace

// Which table of inner loops this processor runs, decided once when it is first asked for.
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

namespace espalier {

#if defined(__x86_64__)
extern const Kernels kernels_avx512, kernels_avx2;
#endif
extern const Kernels kernels_baseline;

static bool runs(const Kernels &k) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (&k == &kernels_avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  if (&k == &kernels_avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return &k == &kernels_baseline;
}

static const Kernels &choose() {
  static const Kernels *const tables[] = {
#if defined(__x86_64__)
      &kernels_avx512, &kernels_avx2,
#endif
      &kernels_baseline};
  const char *wanted = getenv("ESPALIER_KERNELS");
  for (const Kernels *table : tables)
    if (runs(*table) && (!wanted || !strcmp(wanted, table->name))) return *table;
  return kernels_baseline;
}

const Kernels &kernels() {
  static const Kernels *chosen = nullptr;
  const Kernels *found = __atomic_load_n(&chosen, __ATOMIC_ACQUIRE);
  if (!found) {
    found = &choose();
    __atomic_store_n(&chosen, found, __ATOMIC_RELEASE);
  }
  return *found;
}

}  // namespace espalier

// A kept weight as the dense tensor that standard operators read, zero where nothing is kept.
#include "definition.h"
#include "lists.h"

namespace espalier {

struct Dense {
  int64_t dims[8];
  size_t rank;
  long elements;

  OrtStatus *configure(const Attributes &a) {
    int shape[8];
    ESPALIER_TRY(ort::attribute(a.info, "shape", nullptr, &rank));
    if (rank > 8) return fail("a weight has %zu axes", rank);
    ESPALIER_TRY(a.list("shape", shape, rank, 1, 1 << 30));
    double count = 1;
    for (size_t i = 0; i < rank; i++) count *= dims[i] = shape[i];
    if (count >= 2147483647.0) return fail("the weight has more than 2^31 elements");
    elements = long(count);
    return nullptr;
  }

  OrtStatus *run(Call &call) {
    KeptWeights kept;
    float *to;
    ESPALIER_TRY(read_kept(call, 0, &kept));
    ESPALIER_TRY(check_indices(kept, elements));
    ESPALIER_TRY(call.output(0, dims, rank, &to));
    for (long i = 0; i < elements; i++) to[i] = 0.f;
    for (long k = 0; k < kept.count; k++) to[kept.indices[k]] = kept.values[k];
    return nullptr;
  }

  void release() {}
};

Definition dense() { return define<Dense>("Dense", "fil", 3, "f", 1); }

}  // namespace espalier

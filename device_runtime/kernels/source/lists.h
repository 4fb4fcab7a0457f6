// Kept weights as lists: which they are comes in as data, and lists are made anew only when that changes.
#pragma once
#include "array.h"
#include "operator.h"

namespace espalier {

// Entries by (part, row), where a part is a block of one of several lists that follow one another.
struct Lists {
  int rows, parts;
  Array<int> starts;   // [parts][rows + 1], positions in `offsets`
  Array<int> offsets;  // where each entry reads, in floats
  Array<int> order;    // which kept weight each entry is; empty where they are in order

  ListView view(int part, int blocks) const { return {rows, blocks, &starts.data[long(part) * (rows + 1)], offsets.data}; }
  void release() { starts.release(), offsets.release(), order.release(); }
};

struct Entry {
  int part, row, offset;
};

// The flat indices of a weight's kept elements, as they came in.
struct KeptWeights {
  const float *values = nullptr;
  const int *indices = nullptr;
  long count = 0;
  int64_t stamp = 0;
};

// Inputs `first` to `first` + 2: values float32[k], indices int32[k], stamp int64 scalar.
OrtStatus *read_kept(Call &call, size_t first, KeptWeights *kept);

// Error unless the indices rise strictly within [0, elements).
OrtStatus *check_indices(const KeptWeights &kept, long elements);

// A number that two lists share only if they are of the same kept weights in the same geometry.
uint64_t fingerprint(const KeptWeights &kept, const int *numbers, size_t count);

// Fill `lists` in two passes by entry(major, minor), where a flat index is major * minor_count + minor.
template <class F>
OrtStatus *fill(Lists &lists, const KeptWeights &kept, int minor_count, int rows, int parts, F entry) {
  const long slots = long(parts) * (rows + 1);
  lists.rows = rows, lists.parts = parts;
  if (!lists.starts.resize(slots + 1) || !lists.offsets.resize(kept.count) || !lists.order.resize(kept.count))
    return fail("no memory for lists of %ld kept weights", kept.count);
  int *starts = lists.starts.data;
  for (long i = 0; i <= slots; i++) starts[i] = 0;
  auto each = [&](auto f) {
    long major = 0, end = minor_count;
    for (long k = 0; k < kept.count; k++) {
      while (kept.indices[k] >= end) major++, end += minor_count;
      f(k, entry(int(major), int(kept.indices[k] - (end - minor_count))));
    }
  };
  // The count of (part, row) goes two slots further, so that filling moves each start to where it belongs.
  each([&](long, Entry e) { starts[long(e.part) * (rows + 1) + e.row + 2]++; });
  for (long i = 1; i <= slots; i++) starts[i] += starts[i - 1];
  bool in_order = true;
  each([&](long k, Entry e) {
    const int place = starts[long(e.part) * (rows + 1) + e.row + 1]++;
    lists.offsets[place] = e.offset;
    lists.order[place] = int(k);
    in_order &= place == k;
  });
  if (in_order) lists.order.release();
  return nullptr;
}

// Lists that the operators of one layer share, counted by their users.
struct SharedLists {
  uint64_t name;
  int users;
  Lists lists;
  SharedLists *next;
};

// Those of this name, or new ones from make(lists). Give them back with `give_back`.
struct Maker {
  OrtStatus *(*make)(void *, Lists &);
  void *data;
};
OrtStatus *take(uint64_t name, Maker maker, SharedLists **found);
void give_back(SharedLists *lists);

template <class F>
OrtStatus *take_or_make(uint64_t name, F make, SharedLists **found) {
  return take(name, {[](void *f, Lists &l) { return (*static_cast<F *>(f))(l); }, &make}, found);
}

// An operator's lists for the kept weights of the last call.
struct CurrentLists {
  bool made;
  int64_t stamp;
  long count;
  SharedLists *shared;

  bool serve(const KeptWeights &kept) const { return made && stamp == kept.stamp && count == kept.count; }
  void replace(SharedLists *by, const KeptWeights &kept) {
    release();
    made = true, stamp = kept.stamp, count = kept.count, shared = by;
  }
  void release() {
    if (shared) give_back(shared);
    shared = nullptr;
    made = false;
  }
  const Lists &lists() const { return shared->lists; }
};

// The values in the order of the lists: as they are, or gathered into `scratch`.
OrtStatus *in_list_order(Call &call, const Lists &lists, const float *values, Array<float> &scratch,
                         const float **ordered);

}  // namespace espalier

#include "lists.h"

namespace espalier {

OrtStatus *read_kept(Call &call, size_t first, KeptWeights *kept) {
  Tensor values, indices, stamp;
  ESPALIER_TRY(call.tensor(first, FLOAT, &values));
  ESPALIER_TRY(call.tensor(first + 1, INT32, &indices));
  ESPALIER_TRY(call.tensor(first + 2, INT64, &stamp));
  if (values.rank != 1 || indices.rank != 1 || values.dims[0] != indices.dims[0])
    return fail("values and indices of the kept weights are not two vectors of one length");
  if (!stamp.data || stamp.count() != 1) return fail("the stamp of the kept weights is not one number");
  if (values.dims[0] >= 2147483647) return fail("too many kept weights");
  kept->values = values.floats(), kept->indices = static_cast<const int *>(indices.data);
  kept->count = long(values.dims[0]), kept->stamp = *static_cast<const int64_t *>(stamp.data);
  return nullptr;
}

OrtStatus *check_indices(const KeptWeights &kept, long elements) {
  long before = -1;
  for (long k = 0; k < kept.count; k++) {
    const long index = kept.indices[k];
    if (index <= before || index >= elements)
      return fail("index %ld of the kept weights is %ld: indices must rise strictly below %ld", k, index, elements);
    before = index;
  }
  return nullptr;
}

uint64_t fingerprint(const KeptWeights &kept, const int *numbers, size_t count) {
  uint64_t hash = 0xcbf29ce484222325ull;  // FNV-1a, a number at a time, with a mixing step for the high bits
  auto add = [&](uint64_t number) {
    hash = (hash ^ number) * 0x100000001b3ull;
    hash ^= hash >> 29;
  };
  add(uint64_t(kept.count));
  for (size_t i = 0; i < count; i++) add(uint32_t(numbers[i]));
  for (long k = 0; k < kept.count; k++) add(uint32_t(kept.indices[k]));
  return hash;
}

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static SharedLists *all_lists;

OrtStatus *take(uint64_t name, Maker maker, SharedLists **found) {
  pthread_mutex_lock(&turn);
  SharedLists *lists = all_lists;
  while (lists && lists->name != name) lists = lists->next;
  OrtStatus *status = nullptr;
  if (!lists) {
    lists = static_cast<SharedLists *>(calloc(1, sizeof(SharedLists)));
    status = lists ? maker.make(maker.data, lists->lists) : fail("no memory for lists");
    if (status && lists) {
      lists->lists.release();
      free(lists);
    } else if (!status) {
      lists->name = name;
      lists->next = all_lists;
      all_lists = lists;
    }
  }
  if (!status) {
    lists->users++;
    *found = lists;
  }
  pthread_mutex_unlock(&turn);
  return status;
}

void give_back(SharedLists *lists) {
  pthread_mutex_lock(&turn);
  if (--lists->users == 0) {
    SharedLists **place = &all_lists;
    while (*place != lists) place = &(*place)->next;
    *place = lists->next;
    lists->lists.release();
    free(lists);
  }
  pthread_mutex_unlock(&turn);
}

OrtStatus *in_list_order(Call &call, const Lists &lists, const float *values, Array<float> &scratch,
                         const float **ordered) {
  *ordered = values;
  const long count = long(lists.order.size);
  if (!count) return nullptr;
  if (!scratch.resize(count)) return fail("no memory for %ld kept weights", count);
  *ordered = scratch.data;
  constexpr long PART = 1 << 14;
  return call.share(int((count + PART - 1) / PART), [&](int part) {
    const long end = (part + 1) * PART < count ? (part + 1) * PART : count;
    for (long k = part * PART; k < end; k++) scratch[k] = values[lists.order[k]];
  });
}

}  // namespace espalier

// A growing block of memory without the C++ standard library, which the library does without. All zero is empty.
#pragma once
#include <stddef.h>
#include <stdlib.h>

namespace espalier {

template <class T>
struct Array {
  T *data;
  size_t size, room;

  // Whether there is room for `count` elements now; what they hold is not said.
  bool resize(size_t count) {
    if (count > room) {
      free(data);
      const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
      data = static_cast<T *>(aligned_alloc(64, bytes));
      room = data ? count : 0;
    }
    size = data ? count : 0;
    return size == count;
  }
  T &operator[](size_t i) { return data[i]; }
  const T &operator[](size_t i) const { return data[i]; }
  void release() {
    free(data);
    *this = Array{};
  }
};

}  // namespace espalier

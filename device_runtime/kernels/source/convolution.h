// The windows of a convolution, and the lists its forward pass and the gradient of its values share.
#pragma once
#include "lists.h"

namespace espalier {

struct Windows {
  Geometry x, y;
  int kernel[2], stride[2], before[2], dilation[2], group;
  int minor_count;  // elements of the weight for one output channel

  OrtStatus *read(const Attributes &a);
  // Error where a window would read beyond the halo of its input.
  OrtStatus *check_halo(const Geometry &input) const;
};

struct ForwardLists {
  CurrentLists current;

  OrtStatus *update(const Windows &w, const KeptWeights &kept);

 private:
  static OrtStatus *make(const Windows &w, const KeptWeights &kept, int per_block, int blocks, Lists &lists);
};

inline bool same_map(const Geometry &a, const Geometry &b) {
  return a.channels == b.channels && a.height == b.height && a.width == b.width;
}

// Into how many bands the rows of a map are cut, so that all threads find work in few image tiles.
inline int bands_for(int tiles, int rows) {
  const int wanted = tiles >= 4 * thread_count ? 1 : (4 * thread_count + tiles - 1) / (tiles > 0 ? tiles : 1);
  const int most = rows / 2 > 1 ? rows / 2 : 1;
  return thread_count == 1 ? 1 : wanted < most ? wanted : most;
}

}  // namespace espalier

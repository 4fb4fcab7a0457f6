// Poolings by windows that are cut at the edges of the map.
#pragma once
#include "kernels.h"
#include "maps.h"
#include "vector.h"

namespace {

using espalier::Pooling;

// Positions of a window along one axis that lie on the map: the first tap, one past the last, and where tap 0 lies.
struct Taps {
  int first, last, origin;
};

ESPALIER_INLINE Taps taps(const Pooling &k, int axis, int place, int length) {
  const int d = k.dilation[axis], origin = place * k.stride[axis] - k.before[axis];
  const int first = origin >= 0 ? 0 : (-origin + d - 1) / d;
  int last = origin >= length ? 0 : (length - 1 - origin) / d + 1;
  if (last > k.kernel[axis]) last = k.kernel[axis];
  return {first, last, origin};
}

// A function of every cell of the window at (h, w).
template <class F>
ESPALIER_INLINE void each_tap(const Pooling &k, int h, int w, F f) {
  const Taps down = taps(k, 0, h, k.x.height), right = taps(k, 1, w, k.x.width);
  if (down.first == 0 && right.first == 0 && down.last == 3 && right.last == 3) {  // a usual one, unrolled
    ESPALIER_UNROLL for (int i = 0; i < 3; i++)
      ESPALIER_UNROLL for (int j = 0; j < 3; j++)
        f(down.origin + i * k.dilation[0], right.origin + j * k.dilation[1]);
    return;
  }
  for (int i = down.first; i < down.last; i++)
    for (int j = right.first; j < right.last; j++)
      f(down.origin + i * k.dilation[0], right.origin + j * k.dilation[1]);
}

ESPALIER_INLINE Vector largest(const Pooling &k, int channel, const float *x, int h, int w) {
  Vector best = all(-__builtin_inff());
  each_tap(k, h, w, [&](int y, int column) { best = larger(load(x + k.x.at(channel, y, column)), best); });
  return best;
}

// Whether all windows are 2 by 2, side by side and on the map.
ESPALIER_INLINE bool is_two_by_two(const Pooling &k) {
  return k.kernel[0] == 2 && k.kernel[1] == 2 && k.stride[0] == 2 && k.stride[1] == 2 && !k.before[0] &&
         !k.before[1] && k.dilation[0] == 1 && k.dilation[1] == 1 && 2 * k.y.height <= k.x.height &&
         2 * k.y.width <= k.x.width;
}

void max_pool(const Pooling &k, int channel, const float *x, float *y) {
  const bool simple = is_two_by_two(k);
  each_cell(k.y, channel, y, [&](int h, int w) {
    Vector best;
    if (simple) {
      const float *p = x + k.x.at(channel, 2 * h, 2 * w), *q = p + k.x.row();
      best = larger(larger(load(p), load(p + LANES)), larger(load(q), load(q + LANES)));
    } else {
      best = largest(k, channel, x, h, w);
    }
    return k.relu ? larger(best, Vector{}) : best;
  });
}

// Windows of two by two: all four cells are written at once, and what no window covers is zero.
void two_by_two_gradient(const Pooling &k, const Geometry &gd, const Geometry &go, int channel, const float *dy,
                         const float *x, bool masked, float *dx) {
  for (int h = 0; h < gd.height; h++)
    for (int w = 0; w < gd.width; w++) {
      const float *p = x + k.x.at(channel, 2 * h, 2 * w), *q = p + k.x.row();
      const Vector a = load(p), b = load(p + LANES), c = load(q), d = load(q + LANES);
      const Vector best = larger(larger(a, b), larger(c, d));
      Vector rest = load(dy + gd.at(channel, h, w));
      if (masked) rest = best > 0.f ? rest : Vector{};
      float *to = dx + go.at(channel, 2 * h, 2 * w), *below = to + go.row();
      const Vector first = a == best ? rest : Vector{};
      rest -= first;
      const Vector second = b == best ? rest : Vector{};
      rest -= second;
      const Vector third = c == best ? rest : Vector{};
      store(to, first), store(to + LANES, second), store(below, third), store(below + LANES, rest - third);
    }
}

// The gradient goes to the first of the largest, in the order of rows. masked: x is the result of a ReLU, whose own
// gradient is taken along: nothing where x is not above 0.
void max_pool_gradient(const Pooling &k, const Geometry &gd, const Geometry &go, int channel, const float *dy,
                       const float *x, bool masked, float *dx) {
  if (is_two_by_two(k) && 2 * gd.height == go.height && 2 * gd.width == go.width) {
    clear_halo(go, channel, dx);
    return two_by_two_gradient(k, gd, go, channel, dy, x, masked, dx);
  }
  zero(dx + channel * go.plane(), go.plane() + (channel == go.channels - 1 ? long(go.halo_columns) * LANES : 0));
  for (int h = 0; h < gd.height; h++)
    for (int w = 0; w < gd.width; w++) {
      const Vector best = largest(k, channel, x, h, w);
      Vector rest = load(dy + gd.at(channel, h, w));
      if (masked) rest = best > 0.f ? rest : Vector{};
      each_tap(k, h, w, [&](int y, int column) {
        const Vector hit = load(x + k.x.at(channel, y, column)) == best ? rest : Vector{};
        float *to = dx + go.at(channel, y, column);
        store(to, load(to) + hit);
        rest -= hit;
      });
    }
}

ESPALIER_INLINE float share(const Pooling &k, int h, int w) {
  int count = 1;
  for (int axis = 0; axis < 2; axis++) {
    const int place = axis ? w : h, length = axis ? k.x.width : k.x.height;
    if (k.count_padding) {
      const int room = length + k.behind[axis] - (place * k.stride[axis] - k.before[axis]);
      const int fit = (room + k.dilation[axis] - 1) / k.dilation[axis];
      count *= fit < k.kernel[axis] ? fit : k.kernel[axis];
    } else {
      const Taps t = taps(k, axis, place, length);
      count *= t.last - t.first;
    }
  }
  return 1.f / count;
}

void average_pool(const Pooling &k, int channel, const float *x, float *y) {
  each_cell(k.y, channel, y, [&](int h, int w) {
    Vector sum = Vector{};
    each_tap(k, h, w, [&](int row, int column) { sum += load(x + k.x.at(channel, row, column)); });
    return sum * all(share(k, h, w));
  });
}

void average_pool_gradient(const Pooling &k, const Geometry &gd, const Geometry &go, int channel, const float *dy,
                           float *dx) {
  zero(dx + channel * go.plane(), go.plane() + (channel == go.channels - 1 ? long(go.halo_columns) * LANES : 0));
  for (int h = 0; h < gd.height; h++)
    for (int w = 0; w < gd.width; w++) {
      const Vector part = load(dy + gd.at(channel, h, w)) * all(share(k, h, w));
      each_tap(k, h, w, [&](int row, int column) {
        float *to = dx + go.at(channel, row, column);
        store(to, load(to) + part);
      });
    }
}

}  // namespace

// Fully connected layers: one cell per feature, so a tile in registers is several image tiles of one output.
#pragma once
#include "kernels.h"
#include "vector.h"

namespace {

using espalier::Product;
using espalier::ProductGradient;

// T image tiles at once. Sums are kept in several parts, so that one addition need not wait for the one before it.
template <int T>
void product_tiles(const Product &k, int tile) {
  constexpr int PARTS = T >= 4 ? 1 : 4 / T;
  const float *x = k.x + tile * k.x_tile;
  float *y = k.y + tile * k.y_tile;
  for (int row = k.first; row < k.last; row++) {
    Vector sum[T][PARTS];
    ESPALIER_UNROLL for (int t = 0; t < T; t++) ESPALIER_UNROLL for (int p = 0; p < PARTS; p++) sum[t][p] = Vector{};
    int entry = k.list.starts[row];
    const int end = k.list.starts[row + 1];
    for (; entry + PARTS <= end; entry += PARTS)
      ESPALIER_UNROLL for (int p = 0; p < PARTS; p++) {
        const Vector weight = all(k.values[entry + p]);
        const float *from = x + k.list.offsets[entry + p];
        ESPALIER_UNROLL for (int t = 0; t < T; t++) sum[t][p] += weight * load(from + t * k.x_tile);
      }
    for (; entry < end; entry++) {
      const Vector weight = all(k.values[entry]);
      const float *from = x + k.list.offsets[entry];
      ESPALIER_UNROLL for (int t = 0; t < T; t++) sum[t][0] += weight * load(from + t * k.x_tile);
    }
    const Vector bias = all(k.bias ? k.bias[row] : 0.f);
    ESPALIER_UNROLL for (int t = 0; t < T; t++) {
      Vector result = bias;
      ESPALIER_UNROLL for (int p = 0; p < PARTS; p++) result += sum[t][p];
      if (k.relu) result = larger(result, Vector{});
      if (k.mask)
        result = load(k.mask + (tile + t) * k.mask_tile + k.mask_places[row]) > 0.f ? result : Vector{};
      store(y + t * k.y_tile + k.places[row], result);
    }
  }
}

void product(const Product &k) {
  int tile = 0;
  for (; tile + 4 <= k.tiles; tile += 4) product_tiles<4>(k, tile);
  if (tile + 2 <= k.tiles) product_tiles<2>(k, tile), tile += 2;
  if (tile < k.tiles) product_tiles<1>(k, tile);
}

// The products of one entry in T tiles, whose dy is at hand, in four parts.
template <int T>
ESPALIER_INLINE Quarter dot(const ProductGradient &k, const Vector *dy, const float *x, int entry) {
  const float *from = x + k.list.offsets[entry];
  Vector sum = load(from) * dy[0];
  ESPALIER_UNROLL for (int t = 1; t < T; t++) sum += load(from + t * k.x_tile) * dy[t];
  return quarters(sum);
}

// What T image tiles add to the gradient; the first ones begin it.
template <int T>
void gradient_tiles(const ProductGradient &k, int tile) {
  const float *x = k.x + tile * k.x_tile;
  for (int row = k.first; row < k.last; row++) {
    Vector dy[T];
    ESPALIER_UNROLL for (int t = 0; t < T; t++) dy[t] = load(k.dy + (tile + t) * k.dy_tile + long(row) * LANES);
    int entry = k.list.starts[row];
    const int end = k.list.starts[row + 1];
    for (; entry + 4 <= end; entry += 4) {
      Quarter sum = totals(dot<T>(k, dy, x, entry), dot<T>(k, dy, x, entry + 1), dot<T>(k, dy, x, entry + 2),
                           dot<T>(k, dy, x, entry + 3));
      if (tile) sum += *(LooseQuarter *)(k.gradient + entry);
      *(LooseQuarter *)(k.gradient + entry) = sum;
    }
    for (; entry < end; entry++) {
      const Quarter q = dot<T>(k, dy, x, entry);
      const float sum = (q[0] + q[2]) + (q[1] + q[3]);
      k.gradient[entry] = tile ? k.gradient[entry] + sum : sum;
    }
  }
}

void product_gradient(const ProductGradient &k) {
  int tile = 0;
  for (; tile + 4 <= k.tiles; tile += 4) gradient_tiles<4>(k, tile);
  if (tile + 2 <= k.tiles) gradient_tiles<2>(k, tile), tile += 2;
  if (tile < k.tiles) gradient_tiles<1>(k, tile);
}

}  // namespace

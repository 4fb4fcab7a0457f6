// What goes map by map without weights: halos, packing, ReLU and sums.
#pragma once
#include "kernels.h"
#include "vector.h"

namespace {

using espalier::Geometry;

ESPALIER_INLINE void zero(float *p, long count) {
  for (long i = 0; i < count; i++) p[i] = 0.f;
}

// Zeros around the map of one channel; the last channel has those behind the tile too.
void clear_halo(const Geometry &g, int channel, float *y) {
  float *plane = y + channel * g.plane();
  const long edge = long(g.halo_columns) * LANES, above = g.halo_rows * g.row();
  zero(plane, above);
  if (edge)
    for (int h = 0; h < g.height; h++) zero(plane + (h + g.halo_rows) * g.row(), edge);
  zero(plane + (g.height + g.halo_rows) * g.row(), above);
  if (channel == g.channels - 1) zero(plane + g.plane(), edge);
}

// Every cell of a channel of the output, by a function of its row and column.
template <class F>
ESPALIER_INLINE void each_cell(const Geometry &g, int channel, float *y, F value) {
  clear_halo(g, channel, y);
  for (int h = 0; h < g.height; h++) {
    float *to = y + g.at(channel, h, 0);
    for (int w = 0; w < g.width; w++) store(to + long(w) * LANES, value(h, w));
  }
}

// Four rows of four become four columns.
ESPALIER_INLINE void transpose(Quarter &a, Quarter &b, Quarter &c, Quarter &d) {
  const Quarter ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Quarter cd = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
  c = __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5);
  d = __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7);
}

ESPALIER_INLINE Quarter load4(const float *p) { return *(const LooseQuarter *)p; }
ESPALIER_INLINE void store4(float *p, Quarter q) { *(LooseQuarter *)p = q; }

void pack(const Geometry &g, int channel, const float *x, int images, float *y) {
  clear_halo(g, channel, y);
  const long image = long(g.channels) * g.height * g.width;
  for (int h = 0; h < g.height; h++) {
    const float *from = x + (long(channel) * g.height + h) * g.width;
    float *to = y + g.at(channel, h, 0);
    int w = 0;
    if (images == LANES)
      for (; w + 4 <= g.width; w += 4)
        for (int lane = 0; lane < LANES; lane += 4) {
          const float *p = from + lane * image + w;
          Quarter a = load4(p), b = load4(p + image), c = load4(p + 2 * image), d = load4(p + 3 * image);
          transpose(a, b, c, d);
          float *q = to + long(w) * LANES + lane;
          store4(q, a), store4(q + LANES, b), store4(q + 2 * LANES, c), store4(q + 3 * LANES, d);
        }
    for (; w < g.width; w++)
      for (int lane = 0; lane < LANES; lane++)
        to[long(w) * LANES + lane] = lane < images ? from[lane * image + w] : 0.f;
  }
}

void unpack(const Geometry &g, int channel, const float *x, int images, float *y) {
  const long image = long(g.channels) * g.height * g.width;
  for (int h = 0; h < g.height; h++) {
    const float *from = x + g.at(channel, h, 0);
    float *to = y + (long(channel) * g.height + h) * g.width;
    int w = 0;
    if (images == LANES)
      for (; w + 4 <= g.width; w += 4)
        for (int lane = 0; lane < LANES; lane += 4) {
          const float *p = from + long(w) * LANES + lane;
          Quarter a = load4(p), b = load4(p + LANES), c = load4(p + 2 * LANES), d = load4(p + 3 * LANES);
          transpose(a, b, c, d);
          float *q = to + lane * image + w;
          store4(q, a), store4(q + image, b), store4(q + 2 * image, c), store4(q + 3 * image, d);
        }
    for (; w < g.width; w++)
      for (int lane = 0; lane < images; lane++) to[lane * image + w] = from[long(w) * LANES + lane];
  }
}

void relu(const Geometry &gx, const Geometry &gy, int channel, const float *x, float *y) {
  each_cell(gy, channel, y, [&](int h, int w) { return larger(load(x + gx.at(channel, h, w)), Vector{}); });
}

void relu_gradient(const Geometry &gd, const Geometry &gy, const Geometry &gx, int channel, const float *dy,
                   const float *y, float *dx) {
  each_cell(gx, channel, dx, [&](int h, int w) {
    return load(y + gy.at(channel, h, w)) > 0.f ? load(dy + gd.at(channel, h, w)) : Vector{};
  });
}

float channel_sum(const Geometry &g, int tiles, int channel, const float *x) {
  Vector sum[4] = {Vector{}, Vector{}, Vector{}, Vector{}};
  const long length = long(g.width) * LANES;
  for (int tile = 0; tile < tiles; tile++)
    for (int h = 0; h < g.height; h++) {
      const float *p = x + tile * g.tile() + g.at(channel, h, 0);
      long i = 0;
      for (; i + 4 * LANES <= length; i += 4 * LANES)
        ESPALIER_UNROLL for (int q = 0; q < 4; q++) sum[q] += load(p + i + q * LANES);
      for (; i < length; i += LANES) sum[0] += load(p + i);
    }
  return total((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

}  // namespace

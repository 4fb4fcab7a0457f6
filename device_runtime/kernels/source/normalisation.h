// Batch normalisation over the images that are there, with the addition of a branch and the ReLU behind it.
//
// A batch that does not fill its last tile has lanes of zeros, or of whatever a bias made of them. They take no part in
// the moments, and their gradient is 0, so that nothing before them hears of them.
#pragma once
#include "kernels.h"
#include "maps.h"
#include "vector.h"

namespace {

using espalier::BatchNorm;
using espalier::BatchNormGradient;

// 1 in the lanes of `tile` that hold an image, else 0.
ESPALIER_INLINE Vector living(int images, int tile) {
  Vector v;
  for (int lane = 0; lane < LANES; lane++) v[lane] = tile * LANES + lane < images ? 1.f : 0.f;
  return v;
}

ESPALIER_INLINE int tiles_of(int images) { return (images + LANES - 1) / LANES; }

// Both moments of a channel in one pass, about the channel's first value.
void moments(const Geometry &g, int images, int channel, const float *x, float *mean, float *variance) {
  const long length = long(g.width) * LANES;
  const float pivot = x[g.at(channel, 0, 0)], count = float(images) * g.height * g.width;
  const Vector centre = all(pivot);
  Vector sum[4] = {Vector{}, Vector{}, Vector{}, Vector{}}, square[4] = {Vector{}, Vector{}, Vector{}, Vector{}};
  for (int tile = 0; tile < tiles_of(images); tile++) {
    const Vector live = living(images, tile);
    for (int h = 0; h < g.height; h++) {
      const float *p = x + tile * g.tile() + g.at(channel, h, 0);
      long i = 0;
      for (; i + 4 * LANES <= length; i += 4 * LANES)
        ESPALIER_UNROLL for (int q = 0; q < 4; q++) {
          const Vector d = (load(p + i + q * LANES) - centre) * live;
          sum[q] += d;
          square[q] += d * d;
        }
      for (; i < length; i += LANES) {
        const Vector d = (load(p + i) - centre) * live;
        sum[0] += d;
        square[0] += d * d;
      }
    }
  }
  const float first = total((sum[0] + sum[1]) + (sum[2] + sum[3])) / count;
  const float second = total((square[0] + square[1]) + (square[2] + square[3])) / count - first * first;
  *mean = pivot + first;
  *variance = second > 0.f ? second : 0.f;
}

void batch_norm(const BatchNorm &k, int channel, const float *x, float scale, float shift, const float *residual,
                float *y, float *mean, float *variance) {
  moments(k.x, k.images, channel, x, mean, variance);
  // The mean is taken off before scaling: a x + b would lose digits where the variance is small.
  const Vector centre = all(*mean), factor = all(scale / __builtin_sqrtf(*variance + k.epsilon)), add = all(shift);
  const long length = long(k.x.width) * LANES;
  for (int tile = 0; tile < tiles_of(k.images); tile++) {
    float *to_tile = y + tile * k.y.tile();
    clear_halo(k.y, channel, to_tile);
    for (int h = 0; h < k.x.height; h++) {
      const float *p = x + tile * k.x.tile() + k.x.at(channel, h, 0);
      const float *r = residual ? residual + tile * k.residual.tile() + k.residual.at(channel, h, 0) : nullptr;
      float *to = to_tile + k.y.at(channel, h, 0);
      for (long i = 0; i < length; i += LANES) {
        Vector v = (load(p + i) - centre) * factor + add;
        if (r) v += load(r + i);
        if (k.relu) v = larger(v, Vector{});
        store(to + i, v);
      }
    }
  }
}

// The cells of one row of dy, gated by the ReLU behind the normalisation where there is one.
ESPALIER_INLINE Vector gated(const float *dy, const float *y, long i) {
  const Vector g = load(dy + i);
  return y ? (load(y + i) > 0.f ? g : Vector{}) : g;
}

void batch_norm_gradient(const BatchNormGradient &k, int channel, const float *dy, const float *x, const float *y,
                         float scale, float mean, float variance, float *dx, float *dresidual, float *dscale,
                         float *dshift) {
  const long length = long(k.x.width) * LANES;
  const float count = float(k.images) * k.x.height * k.x.width;
  const Vector centre = all(mean);
  Vector plain[4] = {Vector{}, Vector{}, Vector{}, Vector{}}, along[4] = {Vector{}, Vector{}, Vector{}, Vector{}};
  for (int tile = 0; tile < tiles_of(k.images); tile++)
    for (int h = 0; h < k.x.height; h++) {
      const float *p = x + tile * k.x.tile() + k.x.at(channel, h, 0);
      const float *d = dy + tile * k.dy.tile() + k.dy.at(channel, h, 0);
      const float *r = y ? y + tile * k.y.tile() + k.y.at(channel, h, 0) : nullptr;
      long i = 0;
      for (; i + 4 * LANES <= length; i += 4 * LANES)
        ESPALIER_UNROLL for (int q = 0; q < 4; q++) {
          const Vector g = gated(d, r, i + q * LANES);
          plain[q] += g;
          along[q] += g * (load(p + i + q * LANES) - centre);
        }
      for (; i < length; i += LANES) {
        const Vector g = gated(d, r, i);
        plain[0] += g;
        along[0] += g * (load(p + i) - centre);
      }
    }
  const float inverse = 1.f / __builtin_sqrtf(variance + k.epsilon);
  *dshift = total((plain[0] + plain[1]) + (plain[2] + plain[3]));
  *dscale = total((along[0] + along[1]) + (along[2] + along[3])) * inverse;
  // dx = scale / sqrt(var + eps) (g - mean(g) - x^ mean(g x^))
  const Vector factor = all(scale * inverse), even = all(*dshift / count), slope = all(inverse * *dscale / count);
  for (int tile = 0; tile < tiles_of(k.images); tile++) {
    const Vector live = living(k.images, tile) * factor;
    float *dx_tile = dx + tile * k.dx.tile(), *dr_tile = dresidual ? dresidual + tile * k.dresidual.tile() : nullptr;
    clear_halo(k.dx, channel, dx_tile);
    if (dr_tile) clear_halo(k.dresidual, channel, dr_tile);
    for (int h = 0; h < k.x.height; h++) {
      const float *p = x + tile * k.x.tile() + k.x.at(channel, h, 0);
      const float *d = dy + tile * k.dy.tile() + k.dy.at(channel, h, 0);
      const float *r = y ? y + tile * k.y.tile() + k.y.at(channel, h, 0) : nullptr;
      float *to = dx_tile + k.dx.at(channel, h, 0);
      float *branch = dr_tile ? dr_tile + k.dresidual.at(channel, h, 0) : nullptr;
      for (long i = 0; i < length; i += LANES) {
        const Vector g = gated(d, r, i);
        if (branch) store(branch + i, g);
        store(to + i, ((g - even) - (load(p + i) - centre) * slope) * live);
      }
    }
  }
}

}  // namespace

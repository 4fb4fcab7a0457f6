// The inner loops of one vector width, as a table that the operators call through.
//
// Every loop works on one image tile, or says that it goes over several. Distances are in floats.
#pragma once
#include "geometry.h"

namespace espalier {

// The kept weights of a layer by (block, row): entry k of row r in block b, for k in
// [starts[b * (rows + 1) + r], starts[b * (rows + 1) + r + 1]), reads at offsets[k] from where the row starts.
struct ListView {
  int rows, blocks;
  const int *starts, *offsets;
};

// y[row] = bias[row] + sum over the row's entries of value * x[offset], for a grid of output cells.
struct Contraction {
  const float *x;
  long x_row;
  int x_step;  // cells from one column of the grid to the next
  float *y;
  long y_row, y_column, y_channel;
  const float *mask;  // where not above 0 the result becomes 0; null for none
  long mask_row, mask_column, mask_channel;
  int rows, columns;  // of the grid
  ListView list;
  const float *values, *bias;  // bias may be null
  bool relu;
};

// sums[4 k ...] += four parts of the products of dy[row] and x[offset of k], summed over a grid of cells.
struct Correlation {
  const float *x;
  long x_row;
  int x_step;
  const float *dy;
  long dy_row, dy_channel;
  int rows, columns;
  ListView list;
  int first, last;  // rows of the list
  float *sums;
};

// A fully connected layer: row r of the list makes the one cell at places[r].
struct Product {
  const float *x;
  float *y;
  const float *mask;  // as in Contraction, null for none
  const int *mask_places;
  long x_tile, y_tile, mask_tile;
  int tiles;
  const int *places;
  int first, last;
  ListView list;
  const float *values, *bias;
  bool relu;
};

// gradient[k] = sum over tiles and lanes of dy[row of k] x[offset of k].
struct ProductGradient {
  const float *x, *dy;
  long x_tile, dy_tile;
  int tiles, first, last;
  ListView list;
  float *gradient;
};

struct BatchNorm {
  Geometry x, y, residual;
  int images;
  float epsilon;
  bool relu;
};

struct BatchNormGradient {
  Geometry x, y, dy, dx, dresidual;
  int images;
  float epsilon;
};

// Windows of a pooling. `before` is what lies in front of the map; windows are cut at its edges.
struct Pooling {
  Geometry x, y;
  int kernel[2], stride[2], before[2], dilation[2];
  bool relu, count_padding;
  int behind[2];  // padding behind the map, for count_padding
};

struct Kernels {
  const char *name;
  int lanes;
  int accumulators;  // output cells that a tile of the grid holds in registers
  void (*contract)(const Contraction &);
  void (*correlate)(const Correlation &);
  void (*product)(const Product &);
  void (*product_gradient)(const ProductGradient &);
  void (*batch_norm)(const BatchNorm &, int channel, const float *x, float scale, float shift, const float *residual,
                     float *y, float *mean, float *variance);
  // y is null without a ReLU, dresidual without a residual.
  void (*batch_norm_gradient)(const BatchNormGradient &, int channel, const float *dy, const float *x, const float *y,
                              float scale, float mean, float variance, float *dx, float *dresidual, float *dscale,
                              float *dshift);
  void (*max_pool)(const Pooling &, int channel, const float *x, float *y);
  void (*max_pool_gradient)(const Pooling &, const Geometry &dy, const Geometry &dx, int channel, const float *dy_tile,
                            const float *x, bool masked, float *dx_tile);
  void (*average_pool)(const Pooling &, int channel, const float *x, float *y);
  void (*average_pool_gradient)(const Pooling &, const Geometry &dy, const Geometry &dx, int channel,
                                const float *dy_tile, float *dx_tile);
  // x is [images][channels][height][width]; lanes beyond `images` become 0.
  void (*pack)(const Geometry &, int channel, const float *x, int images, float *y);
  void (*unpack)(const Geometry &, int channel, const float *x, int images, float *y);
  void (*relu)(const Geometry &x, const Geometry &y, int channel, const float *input, float *output);
  // output = dy where y is above 0.
  void (*relu_gradient)(const Geometry &dy, const Geometry &y, const Geometry &dx, int channel, const float *gradient,
                        const float *result, float *output);
  float (*channel_sum)(const Geometry &, int tiles, int channel, const float *x);
  void (*clear_halo)(const Geometry &, int channel, float *y);
};

// The best table for this processor, or the one that the environment variable ESPALIER_KERNELS asks for.
const Kernels &kernels();

}  // namespace espalier

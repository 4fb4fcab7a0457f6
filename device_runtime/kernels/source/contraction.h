// Convolution in both directions, and the gradient of its kept weights: the loops that training spends its time in.
//
// A tile of output cells stays in registers while the entries of a row go by: per entry one offset, one value and one
// load for each cell, fused with its multiply-add. The gradient of the values mirrors it: the tile of dy stays in
// registers, and per entry the products with x are added up.
#pragma once
#include "kernels.h"
#include "vector.h"

namespace {

using espalier::Contraction;
using espalier::Correlation;

// One tile of R by C cells, one block. S: cells from one column to the next, 0 where it is known at run time only.
template <int R, int C, int S>
void contract_tile(const Contraction &k, int row, int column, int block) {
  const bool first = block == 0, last = block == k.list.blocks - 1;
  const int *starts = k.list.starts + long(block) * (k.list.rows + 1);
  const long step = long(S ? S : k.x_step) * LANES, x_row = k.x_row;
  const float *x = k.x + row * x_row + column * step;
  float *y = k.y + row * k.y_row + column * k.y_column;
  const float *mask = last && k.mask ? k.mask + row * k.mask_row + column * k.mask_column : nullptr;
  const bool relu = last && k.relu;
  for (int o = 0; o < k.list.rows; o++, y += k.y_channel) {
    Vector sum[R][C];
    if (first) {
      const Vector bias = all(k.bias ? k.bias[o] : 0.f);
      ESPALIER_UNROLL for (int r = 0; r < R; r++) ESPALIER_UNROLL for (int c = 0; c < C; c++) sum[r][c] = bias;
    } else {
      if (starts[o] == starts[o + 1] && !relu && !mask) continue;
      ESPALIER_UNROLL for (int r = 0; r < R; r++)
        ESPALIER_UNROLL for (int c = 0; c < C; c++) sum[r][c] = load(y + r * k.y_row + c * k.y_column);
    }
    const int *offset = k.list.offsets + starts[o], *end = k.list.offsets + starts[o + 1];
    const float *value = k.values + starts[o];
    for (; offset < end; offset++, value++) {
      const float *p = x + *offset;
      const Vector weight = all(*value);
      ESPALIER_UNROLL for (int r = 0; r < R; r++) {
        ESPALIER_UNROLL for (int c = 0; c < C; c++) sum[r][c] += weight * load(p + c * step);
        p += x_row;
      }
    }
    if (relu)
      ESPALIER_UNROLL for (int r = 0; r < R; r++)
        ESPALIER_UNROLL for (int c = 0; c < C; c++) sum[r][c] = larger(sum[r][c], Vector{});
    if (mask) {
      const float *m = mask + o * k.mask_channel;
      ESPALIER_UNROLL for (int r = 0; r < R; r++)
        ESPALIER_UNROLL for (int c = 0; c < C; c++)
          sum[r][c] = load(m + r * k.mask_row + c * k.mask_column) > 0.f ? sum[r][c] : Vector{};
    }
    ESPALIER_UNROLL for (int r = 0; r < R; r++)
      ESPALIER_UNROLL for (int c = 0; c < C; c++) store(y + r * k.y_row + c * k.y_column, sum[r][c]);
  }
}

template <int R, int C, int S>
void correlate_tile(const Correlation &k, int row, int column, int block) {
  const int *starts = k.list.starts + long(block) * (k.list.rows + 1);
  const long step = long(S ? S : k.x_step) * LANES, x_row = k.x_row;
  const float *x = k.x + row * x_row + column * step;
  for (int o = k.first; o < k.last; o++) {
    const int *offset = k.list.offsets + starts[o], *end = k.list.offsets + starts[o + 1];
    if (offset == end) continue;
    const float *dy = k.dy + o * k.dy_channel + row * k.dy_row + column * LANES;
    float *sums = k.sums + 4L * starts[o];
    Vector g[R][C];
    ESPALIER_UNROLL for (int r = 0; r < R; r++)
      ESPALIER_UNROLL for (int c = 0; c < C; c++) g[r][c] = load(dy + r * k.dy_row + c * LANES);
    for (; offset < end; offset++, sums += 4) {
      const float *p = x + *offset;
      Vector part[CHAINS];
      ESPALIER_UNROLL for (int i = 0; i < CHAINS; i++) part[i] = Vector{};
      ESPALIER_UNROLL for (int r = 0; r < R; r++) {
        ESPALIER_UNROLL for (int c = 0; c < C; c++) part[(r * C + c) % CHAINS] += g[r][c] * load(p + c * step);
        p += x_row;
      }
      ESPALIER_UNROLL for (int i = CHAINS / 2; i; i /= 2) ESPALIER_UNROLL for (int j = 0; j < i; j++) part[j] += part[j + i];
      *(LooseQuarter *)sums += quarters(part[0]);
    }
  }
}

typedef void (*ContractTile)(const Contraction &, int, int, int);
typedef void (*CorrelateTile)(const Correlation &, int, int, int);

template <int R, int C, int S>
constexpr ContractTile contract_of() {
  if constexpr (R * C <= ESPALIER_ACCUMULATORS && (C <= 8 || R == 1)) return contract_tile<R, C, S>;
  else return nullptr;
}

template <int R, int C, int S>
constexpr CorrelateTile correlate_of() {
  if constexpr (R * C <= ESPALIER_ACCUMULATORS && (C <= 8 || R == 1)) return correlate_tile<R, C, S>;
  else return nullptr;
}

#define ESPALIER_ROW(F, R, S) {F<R, 1, S>(), F<R, 2, S>(), F<R, 4, S>(), F<R, 8, S>(), F<R, 16, S>()}
#define ESPALIER_STEP(F, S) \
  {ESPALIER_ROW(F, 1, S), ESPALIER_ROW(F, 2, S), ESPALIER_ROW(F, 4, S), ESPALIER_ROW(F, 8, S), ESPALIER_ROW(F, 16, S)}
// By column step (any, 1, 2), then by the logarithms of rows and columns.
const ContractTile CONTRACT[3][5][5] = {ESPALIER_STEP(contract_of, 0), ESPALIER_STEP(contract_of, 1),
                                        ESPALIER_STEP(contract_of, 2)};
const CorrelateTile CORRELATE[3][5][5] = {ESPALIER_STEP(correlate_of, 0), ESPALIER_STEP(correlate_of, 1),
                                          ESPALIER_STEP(correlate_of, 2)};

// Cover a grid with tiles, as wide as 8 columns (16 in a grid of one row) and then as high as registers allow.
template <class F>
ESPALIER_INLINE void cover(int rows, int columns, F tile) {
  const int widest = rows == 1 ? 4 : 3;
  for (int column = 0; column < columns;) {
    int wide = widest;
    while ((1 << wide) > columns - column || !CONTRACT[0][0][wide]) wide--;
    for (int row = 0; row < rows;) {
      int high = 4;
      while ((1 << high) > rows - row || !CONTRACT[0][high][wide]) high--;
      tile(row, column, high, wide);
      row += 1 << high;
    }
    column += 1 << wide;
  }
}

void contract(const Contraction &k) {
  const auto &step = CONTRACT[k.x_step <= 2 ? k.x_step : 0];
  cover(k.rows, k.columns, [&](int row, int column, int high, int wide) {
    for (int block = 0; block < k.list.blocks; block++) step[high][wide](k, row, column, block);
  });
}

void correlate(const Correlation &k) {
  const auto &step = CORRELATE[k.x_step <= 2 ? k.x_step : 0];
  cover(k.rows, k.columns, [&](int row, int column, int high, int wide) {
    for (int block = 0; block < k.list.blocks; block++) step[high][wide](k, row, column, block);
  });
}

}  // namespace

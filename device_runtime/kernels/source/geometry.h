// How an activation lies in memory: images innermost, a halo of zeros around every map.
//
//   [tile][channel][height + 2 halo_rows][width + halo_columns][lane], then halo_columns cells
//
// A cell is one pixel of `lanes` images, one vector wide. The front halo of a row serves as the back halo of the row
// before it, and the cells at the end serve the last row; so a window that reaches over the edge reads zeros, and no
// operator has edge cases. A vector of features is a map of one pixel without a halo.
#pragma once

namespace espalier {

struct Geometry {
  int channels, height, width, halo_rows, halo_columns, lanes;

  // Distances in floats.
  long row() const { return long(width + halo_columns) * lanes; }
  long plane() const { return long(height + 2 * halo_rows) * row(); }
  long tile() const { return channels * plane() + long(halo_columns) * lanes; }
  long at(long channel, long y, long x) const {
    return channel * plane() + (y + halo_rows) * row() + (x + halo_columns) * lanes;
  }
  long cells() const { return tile() / lanes; }
};

}  // namespace espalier

// Convolutions of one and two axes: forward, gradient of the input, gradient of the kept weights.
#include "convolution.h"

#include "definition.h"
#include "lists.h"

namespace espalier {

OrtStatus *Windows::read(const Attributes &a) {
  ESPALIER_TRY(a.geometry("x", &x));
  ESPALIER_TRY(a.geometry("y", &y));
  ESPALIER_TRY(a.list("kernel", kernel, 2, 1, 1 << 20));
  ESPALIER_TRY(a.list("strides", stride, 2, 1, 1 << 20));
  ESPALIER_TRY(a.list("before", before, 2, 0, 1 << 20));
  ESPALIER_TRY(a.list("dilations", dilation, 2, 1, 1 << 20));
  group = int(a.integer("group", 1));
  if (group < 1 || x.channels % group || y.channels % group) return fail("%d groups do not divide the channels", group);
  const double count = double(x.channels / group) * kernel[0] * kernel[1];
  if (count * y.channels >= 2147483647.0) return fail("the weight has more than 2^31 elements");
  minor_count = int(count);
  return nullptr;
}

OrtStatus *Windows::check_halo(const Geometry &g) const {
  const int length[2] = {g.height, g.width}, halo[2] = {g.halo_rows, g.halo_columns}, places[2] = {y.height, y.width};
  for (int axis = 0; axis < 2; axis++) {
    const long reach = long(places[axis] - 1) * stride[axis] - before[axis] + long(kernel[axis] - 1) * dilation[axis];
    if (before[axis] > halo[axis] || reach - (length[axis] - 1) > halo[axis])
      return fail("windows reach beyond the halo of their input");
  }
  return nullptr;
}

// How many blocks the channels of the reading side are cut into, so that what a tile of the grid reads of one block
// stays in the first-level cache. Measured: 40 KB where most weights are kept, else 64 KB, and 5 entries per row.
static int blocks_for(int channels, int kernel, int step, int rows, int columns, double entries_per_row) {
  const Kernels &k = kernels();
  int wide = columns < 8 ? columns : 8;
  if (wide > k.accumulators) wide = k.accumulators;
  const int high = rows < k.accumulators / wide ? rows : k.accumulators / wide;
  const double bytes = 4.0 * k.lanes * (high * step + kernel - step) * (wide * step + kernel - step);
  const double density = entries_per_row / (double(channels) * kernel * kernel);
  double per_block = (density > 0.3 ? 40 : 64) * 1024 / bytes;
  const double least = 5 * channels / (entries_per_row > 0.01 ? entries_per_row : 0.01);
  if (per_block < least) per_block = least;
  if (per_block < 1) per_block = 1;
  return per_block >= channels ? 1 : int((channels + per_block - 1) / per_block);
}

OrtStatus *ForwardLists::update(const Windows &w, const KeptWeights &kept) {
  if (current.serve(kept)) return nullptr;
  ESPALIER_TRY(check_indices(kept, long(w.y.channels) * w.minor_count));
  const int longest = w.kernel[0] > w.kernel[1] ? w.kernel[0] : w.kernel[1];
  const int widest = w.stride[0] > w.stride[1] ? w.stride[0] : w.stride[1];
  const int inputs = w.x.channels / w.group;
  int blocks = w.group > 1 ? 1
                           : blocks_for(inputs, longest, widest, w.y.height, w.y.width,
                                        double(kept.count) / w.y.channels);
  const int per_block = (inputs + blocks - 1) / blocks;
  blocks = (inputs + per_block - 1) / per_block;
  const int numbers[] = {0,          w.x.channels,  w.x.height,    w.x.width,   w.x.halo_rows,   w.x.halo_columns,
                         w.x.lanes,  w.y.channels,  w.kernel[0],   w.kernel[1], w.dilation[0],   w.dilation[1],
                         w.group,    blocks,        per_block};
  SharedLists *found;
  ESPALIER_TRY(take_or_make(fingerprint(kept, numbers, sizeof numbers / sizeof *numbers),
                            [&](Lists &lists) { return make(w, kept, per_block, blocks, lists); }, &found));
  current.replace(found, kept);
  return nullptr;
}

OrtStatus *ForwardLists::make(const Windows &w, const KeptWeights &kept, int per_block, int blocks, Lists &lists) {
  const int area = w.kernel[0] * w.kernel[1], inputs = w.x.channels / w.group, outputs = w.y.channels / w.group;
  Array<Entry> places{};
  if (!places.resize(w.minor_count)) return fail("no memory for a kernel of %d elements", w.minor_count);
  for (int f = 0; f < w.minor_count; f++) {
    const int channel = f / area, i = f % area / w.kernel[1], j = f % w.kernel[1];
    const long offset = channel * w.x.plane() + i * w.dilation[0] * w.x.row() + long(j) * w.dilation[1] * w.x.lanes;
    places[f] = {channel / per_block, 0, int(offset)};
  }
  OrtStatus *status = fill(lists, kept, w.minor_count, w.y.channels, blocks, [&](int o, int f) {
    const Entry &e = places[f];
    return Entry{e.part, o, int(e.offset + (o / outputs) * inputs * w.x.plane())};
  });
  places.release();
  return status;
}

struct Convolution {
  Windows w;
  bool relu;
  ForwardLists lists;
  Array<float> scratch;

  OrtStatus *configure(const Attributes &a) {
    ESPALIER_TRY(w.read(a));
    relu = a.integer("relu", 0);
    return w.check_halo(w.x);
  }

  OrtStatus *run(Call &call) {
    Packed x;
    KeptWeights kept;
    Tensor bias;
    float *y;
    const float *values;
    ESPALIER_TRY(call.packed(0, w.x, &x));
    ESPALIER_TRY(read_kept(call, 1, &kept));
    ESPALIER_TRY(call.tensor(4, FLOAT, &bias));
    if (bias.data && bias.count() != w.y.channels) return fail("the bias has another length than the channels");
    ESPALIER_TRY(lists.update(w, kept));
    ESPALIER_TRY(call.packed_output(0, w.y, x.tiles, &y));
    const Lists &l = lists.current.lists();
    ESPALIER_TRY(in_list_order(call, l, kept.values, scratch, &values));
    const int bands = bands_for(x.tiles, w.y.height);
    return call.share(x.tiles * bands, [&](int unit) {
      const long tile = unit / bands, band = unit % bands;
      const int top = int(w.y.height * band / bands), bottom = int(w.y.height * (band + 1) / bands);
      float *to = y + tile * w.y.tile();
      if (band == 0)
        for (int c = 0; c < w.y.channels; c++) kernels().clear_halo(w.y, c, to);
      Contraction k{};
      k.x = x.data + tile * w.x.tile() + w.x.at(0, long(top) * w.stride[0] - w.before[0], -w.before[1]);
      k.x_row = w.stride[0] * w.x.row(), k.x_step = w.stride[1];
      k.y = to + w.y.at(0, top, 0);
      k.y_row = w.y.row(), k.y_column = w.y.lanes, k.y_channel = w.y.plane();
      k.rows = bottom - top, k.columns = w.y.width;
      k.list = l.view(0, l.parts), k.values = values, k.bias = bias.floats(), k.relu = relu;
      kernels().contract(k);
    });
  }

  void release() { lists.current.release(), scratch.release(); }
};

// dx by the transposed lists. With a stride, cells of dx fall into classes by their place modulo the stride; each class
// is a grid of its own that reads dy at stride 1.
struct InputGradient {
  Windows w;
  Geometry dy, dx;
  CurrentLists current;
  int blocks;
  Array<float> scratch;

  struct Class {
    int row, column, rows, columns;
  };
  Class of(int number) const {
    const int row = number / w.stride[1], column = number % w.stride[1];
    return {row, column, (w.x.height - row + w.stride[0] - 1) / w.stride[0],
            (w.x.width - column + w.stride[1] - 1) / w.stride[1]};
  }
  int classes() const { return w.stride[0] * w.stride[1]; }

  OrtStatus *configure(const Attributes &a) {
    ESPALIER_TRY(w.read(a));
    ESPALIER_TRY(a.geometry("dy", &dy));
    ESPALIER_TRY(a.geometry("dx", &dx));
    if (!same_map(dy, w.y) || !same_map(dx, w.x)) return fail("a gradient has another map than its value");
    if (classes() > 1 << 10) return fail("a stride of %d x %d is too long", w.stride[0], w.stride[1]);
    const int length[2] = {w.x.height, w.x.width}, small[2] = {w.y.height, w.y.width};
    const int halo[2] = {dy.halo_rows, dy.halo_columns};
    for (int axis = 0; axis < 2; axis++)
      for (int tap = 0; tap < w.kernel[axis]; tap++) {
        const Tap t = tap_of(axis, tap);
        const int places = (length[axis] - t.phase + w.stride[axis] - 1) / w.stride[axis];
        if (places > 0 && (t.shift < -halo[axis] || t.shift + places - 1 > small[axis] - 1 + halo[axis]))
          return fail("windows reach beyond the halo of the gradient");
      }
    return nullptr;
  }

  // Along one axis: cells of class `phase` read dy at their place in the class plus `shift`.
  struct Tap {
    int phase, shift;
  };
  Tap tap_of(int axis, int tap) const {
    const int s = w.stride[axis], away = tap * w.dilation[axis] - w.before[axis];
    const int phase = ((away % s) + s) % s;
    return {phase, (phase - away) / s};
  }

  OrtStatus *update(const KeptWeights &kept) {
    if (current.serve(kept)) return nullptr;
    ESPALIER_TRY(check_indices(kept, long(w.y.channels) * w.minor_count));
    const int outputs = w.y.channels;
    const int longest = w.kernel[0] > w.kernel[1] ? w.kernel[0] : w.kernel[1];
    const int widest = w.stride[0] > w.stride[1] ? w.stride[0] : w.stride[1];
    const Class first = of(0);
    blocks = w.group > 1 ? 1
                         : blocks_for(outputs, (longest + widest - 1) / widest, 1, first.rows, first.columns,
                                      double(kept.count) / w.x.channels / classes());
    const int per_block = (outputs + blocks - 1) / blocks;
    blocks = (outputs + per_block - 1) / per_block;
    const int numbers[] = {1,        w.x.channels, w.x.height,     dy.height,    dy.width,  dy.halo_rows, dy.halo_columns,
                           dy.lanes, dy.channels,  w.kernel[0],    w.kernel[1],  w.group,   blocks,       w.stride[0],
                           w.stride[1], w.dilation[0], w.dilation[1], w.before[0], w.before[1]};
    SharedLists *found;
    ESPALIER_TRY(take_or_make(fingerprint(kept, numbers, sizeof numbers / sizeof *numbers),
                              [&](Lists &lists) { return make(kept, per_block, lists); }, &found));
    current.replace(found, kept);
    return nullptr;
  }

  OrtStatus *make(const KeptWeights &kept, int per_block, Lists &lists) const {
    const int area = w.kernel[0] * w.kernel[1], inputs = w.x.channels / w.group, outputs = w.y.channels / w.group;
    Array<Entry> places{};
    if (!places.resize(w.minor_count)) return fail("no memory for a kernel of %d elements", w.minor_count);
    for (int f = 0; f < w.minor_count; f++) {
      const Tap down = tap_of(0, f % area / w.kernel[1]), right = tap_of(1, f % w.kernel[1]);
      places[f] = {(down.phase * w.stride[1] + right.phase) * blocks, f / area,
                   int(down.shift * dy.row() + long(right.shift) * dy.lanes)};
    }
    OrtStatus *status = fill(lists, kept, w.minor_count, w.x.channels, classes() * blocks, [&](int o, int f) {
      const Entry &e = places[f];
      return Entry{e.part + o / per_block, e.row + o / outputs * inputs, int(e.offset + o * dy.plane())};
    });
    places.release();
    return status;
  }

  OrtStatus *run(Call &call) {
    Packed dy_, mask;
    KeptWeights kept;
    Tensor given;
    float *to;
    const float *values;
    ESPALIER_TRY(call.packed(0, dy, &dy_));
    ESPALIER_TRY(read_kept(call, 1, &kept));
    ESPALIER_TRY(call.tensor(4, FLOAT, &given));
    if (given.data) ESPALIER_TRY(call.packed(4, w.x, dy_.tiles, &mask));
    ESPALIER_TRY(update(kept));
    ESPALIER_TRY(call.packed_output(0, dx, dy_.tiles, &to));
    ESPALIER_TRY(in_list_order(call, current.lists(), kept.values, scratch, &values));
    const int bands = bands_for(dy_.tiles, w.x.height / w.stride[0]);
    return call.share(dy_.tiles * bands, [&](int unit) {
      const long tile = unit / bands;
      if (unit % bands == 0)
        for (int c = 0; c < dx.channels; c++) kernels().clear_halo(dx, c, to + tile * dx.tile());
      for (int number = 0; number < classes(); number++)
        one_class(number, dy_.data + tile * dy.tile(), mask.data ? mask.data + tile * w.x.tile() : nullptr, values,
                  to + tile * dx.tile(), unit % bands, bands);
    });
  }

  void one_class(int number, const float *from, const float *mask, const float *values, float *to, long band,
                 long bands) const {
    const Class c = of(number);
    const int top = int(c.rows * band / bands), bottom = int(c.rows * (band + 1) / bands);
    if (bottom <= top || c.columns <= 0) return;
    const int row = c.row + top * w.stride[0];
    Contraction k{};
    k.x = from + dy.at(0, top, 0), k.x_row = dy.row(), k.x_step = 1;
    k.y = to + dx.at(0, row, c.column);
    k.y_row = w.stride[0] * dx.row(), k.y_column = long(w.stride[1]) * dx.lanes, k.y_channel = dx.plane();
    k.mask = mask ? mask + w.x.at(0, row, c.column) : nullptr;
    k.mask_row = w.stride[0] * w.x.row(), k.mask_column = long(w.stride[1]) * w.x.lanes, k.mask_channel = w.x.plane();
    k.rows = bottom - top, k.columns = c.columns;
    k.list = current.lists().view(number * blocks, blocks), k.values = values;
    kernels().contract(k);
  }

  void release() { current.release(), scratch.release(); }
};

struct ValueGradient {
  Windows w;
  Geometry dy;
  ForwardLists lists;
  Array<float> sums;

  OrtStatus *configure(const Attributes &a) {
    ESPALIER_TRY(w.read(a));
    ESPALIER_TRY(a.geometry("dy", &dy));
    if (!same_map(dy, w.y)) return fail("a gradient has another map than its value");
    return w.check_halo(w.x);
  }

  OrtStatus *run(Call &call) {
    Packed dy_, x;
    KeptWeights kept;
    float *gradient;
    ESPALIER_TRY(call.packed(0, dy, &dy_));
    ESPALIER_TRY(read_kept(call, 1, &kept));
    ESPALIER_TRY(call.packed(4, w.x, dy_.tiles, &x));
    ESPALIER_TRY(lists.update(w, kept));
    ESPALIER_TRY(call.vector_output(0, kept.count, &gradient));
    if (!sums.resize(4 * kept.count)) return fail("no memory for %ld kept weights", kept.count);
    const Lists &l = lists.current.lists();
    const int parts = thread_count < w.y.channels ? thread_count : w.y.channels;
    return call.share(parts, [&](int part) {
      rows(l, dy_, x, gradient, border(l, kept.count, part, parts), border(l, kept.count, part + 1, parts));
    });
  }

  // The row at which a part begins, so that parts have about as many entries.
  int border(const Lists &l, long count, int part, int parts) const {
    if (part == 0) return 0;
    if (part == parts) return l.rows;
    long seen = 0;
    for (int row = 0; row < l.rows; row++) {
      if (seen * parts >= count * part) return row;
      for (int block = 0; block < l.parts; block++) {
        const long at = long(block) * (l.rows + 1) + row;
        seen += l.starts[at + 1] - l.starts[at];
      }
    }
    return l.rows;
  }

  void rows(const Lists &l, const Packed &dy_, const Packed &x, float *gradient, int first, int last) {
    if (first >= last) return;
    auto each = [&](auto f) {
      for (int block = 0; block < l.parts; block++) {
        const long at = long(block) * (l.rows + 1);
        for (int k = l.starts[at + first]; k < l.starts[at + last]; k++) f(k);
      }
    };
    each([&](int k) { sums[4L * k] = sums[4L * k + 1] = sums[4L * k + 2] = sums[4L * k + 3] = 0.f; });
    for (int tile = 0; tile < x.tiles; tile++) {
      Correlation k{};
      k.x = x.data + tile * w.x.tile() + w.x.at(0, -w.before[0], -w.before[1]);
      k.x_row = w.stride[0] * w.x.row(), k.x_step = w.stride[1];
      k.dy = dy_.data + tile * dy.tile() + dy.at(0, 0, 0), k.dy_row = dy.row(), k.dy_channel = dy.plane();
      k.rows = w.y.height, k.columns = w.y.width;
      k.list = l.view(0, l.parts), k.first = first, k.last = last, k.sums = sums.data;
      kernels().correlate(k);
    }
    each([&](int k) {
      const float *s = &sums[4L * k];
      gradient[l.order.size ? l.order[k] : k] = (s[0] + s[1]) + (s[2] + s[3]);
    });
  }

  void release() { lists.current.release(), sums.release(); }
};

Definition convolution() { return define<Convolution>("Conv", "ffilf", 4, "f", 1); }
Definition convolution_input_gradient() { return define<InputGradient>("ConvInputGradient", "ffilf", 4, "f", 1); }
Definition convolution_value_gradient() { return define<ValueGradient>("ConvValueGradient", "ffilf", 5, "f", 1); }

}  // namespace espalier

// Fully connected layers over all features of a map: forward, gradient of the input, gradient of the kept weights.
#include "convolution.h"
#include "definition.h"
#include "lists.h"

namespace espalier {

// A weight is [outputs, features], or [features, outputs] where `transposed`.
struct Layer {
  Geometry x;
  int outputs, features;
  bool transposed;

  Geometry y() const { return {outputs, 1, 1, 0, 0, x.lanes}; }
  int minor_count() const { return transposed ? outputs : features; }
  int place(const Geometry &g, int feature) const {
    const int area = g.height * g.width;
    return int(g.at(feature / area, feature % area / g.width, feature % g.width));
  }

  OrtStatus *read(const Attributes &a) {
    ESPALIER_TRY(a.geometry("x", &x));
    const int64_t given = a.integer("outputs", 0);
    const double count = double(x.channels) * x.height * x.width;
    if (given < 1 || count * given >= 2147483647.0 || double(given) * x.lanes >= 2147483647.0)
      return fail("a layer of %lld outputs is impossible", (long long)given);
    outputs = int(given), features = int(count), transposed = a.integer("transposed", 0);
    return nullptr;
  }

  // Error unless every place of every feature in `g` fits.
  OrtStatus *all_places(const Geometry &g, Array<int> &places) const {
    if (!places.resize(features)) return fail("no memory for %d features", features);
    for (int f = 0; f < features; f++) places[f] = place(g, f);
    return nullptr;
  }

  // Lists of rows = outputs that read x, or of rows = features that read dy.
  OrtStatus *update(const KeptWeights &kept, bool by_feature, CurrentLists &current) const {
    if (current.serve(kept)) return nullptr;
    ESPALIER_TRY(check_indices(kept, long(outputs) * features));
    const int numbers[] = {2 + by_feature, x.channels, x.height, x.width, x.halo_rows, x.halo_columns, x.lanes, outputs,
                           transposed};
    SharedLists *found;
    ESPALIER_TRY(take_or_make(fingerprint(kept, numbers, sizeof numbers / sizeof *numbers),
                              [&](Lists &lists) { return make(kept, by_feature, lists); }, &found));
    current.replace(found, kept);
    return nullptr;
  }

 private:
  OrtStatus *make(const KeptWeights &kept, bool by_feature, Lists &lists) const {
    Array<int> places{};
    ESPALIER_TRY(all_places(x, places));
    OrtStatus *status =
        fill(lists, kept, minor_count(), by_feature ? features : outputs, 1, [&](int major, int minor) {
          const int output = transposed ? minor : major, feature = transposed ? major : minor;
          return by_feature ? Entry{0, feature, output * x.lanes} : Entry{0, output, places[feature]};
        });
    places.release();
    return status;
  }
};

// Rows are shared out in parts; f(first, last).
template <class F>
static OrtStatus *share_rows(Call &call, int rows, F f) {
  const int parts = thread_count == 1 ? 1 : rows < 4 * thread_count ? rows : 4 * thread_count;
  return call.share(parts, [&](int part) {
    f(int(int64_t(rows) * part / parts), int(int64_t(rows) * (part + 1) / parts));
  });
}

struct Linear {
  Layer layer;
  bool relu;
  CurrentLists current;
  Array<int> places;
  Array<float> scratch;

  OrtStatus *configure(const Attributes &a) {
    ESPALIER_TRY(layer.read(a));
    relu = a.integer("relu", 0);
    if (!places.resize(layer.outputs)) return fail("no memory for %d outputs", layer.outputs);
    for (int o = 0; o < layer.outputs; o++) places[o] = o * layer.x.lanes;
    return nullptr;
  }

  OrtStatus *run(Call &call) {
    Packed x;
    KeptWeights kept;
    Tensor bias;
    Product k{};
    ESPALIER_TRY(call.packed(0, layer.x, &x));
    ESPALIER_TRY(read_kept(call, 1, &kept));
    ESPALIER_TRY(call.tensor(4, FLOAT, &bias));
    if (bias.data && bias.count() != layer.outputs) return fail("the bias has another length than the outputs");
    ESPALIER_TRY(layer.update(kept, false, current));
    ESPALIER_TRY(call.packed_output(0, layer.y(), x.tiles, &k.y));
    ESPALIER_TRY(in_list_order(call, current.lists(), kept.values, scratch, &k.values));
    k.x = x.data, k.x_tile = layer.x.tile(), k.y_tile = layer.y().tile(), k.tiles = x.tiles;
    k.places = places.data, k.list = current.lists().view(0, 1), k.bias = bias.floats(), k.relu = relu;
    return share_rows(call, layer.outputs, [&](int first, int last) {
      Product part = k;
      part.first = first, part.last = last;
      kernels().product(part);
    });
  }

  void release() { current.release(), places.release(), scratch.release(); }
};

struct LinearInputGradient {
  Layer layer;
  Geometry dx;
  CurrentLists current;
  Array<int> places, mask_places;
  Array<float> scratch;

  OrtStatus *configure(const Attributes &a) {
    ESPALIER_TRY(layer.read(a));
    ESPALIER_TRY(a.geometry("dx", &dx));
    if (!same_map(dx, layer.x)) return fail("a gradient has another map than its value");
    ESPALIER_TRY(layer.all_places(dx, places));
    return layer.all_places(layer.x, mask_places);
  }

  OrtStatus *run(Call &call) {
    Packed dy, mask;
    KeptWeights kept;
    Tensor given;
    Product k{};
    ESPALIER_TRY(call.packed(0, layer.y(), &dy));
    ESPALIER_TRY(read_kept(call, 1, &kept));
    ESPALIER_TRY(call.tensor(4, FLOAT, &given));
    if (given.data) ESPALIER_TRY(call.packed(4, layer.x, dy.tiles, &mask));
    ESPALIER_TRY(layer.update(kept, true, current));
    ESPALIER_TRY(call.packed_output(0, dx, dy.tiles, &k.y));
    ESPALIER_TRY(in_list_order(call, current.lists(), kept.values, scratch, &k.values));
    k.x = dy.data, k.x_tile = layer.y().tile(), k.y_tile = dx.tile(), k.tiles = dy.tiles, k.places = places.data;
    k.mask = mask.data, k.mask_tile = layer.x.tile(), k.mask_places = mask_places.data;
    k.list = current.lists().view(0, 1);
    for (int tile = 0; tile < dy.tiles; tile++)
      for (int c = 0; c < dx.channels; c++) kernels().clear_halo(dx, c, k.y + tile * dx.tile());
    return share_rows(call, layer.features, [&](int first, int last) {
      Product part = k;
      part.first = first, part.last = last;
      kernels().product(part);
    });
  }

  void release() { current.release(), places.release(), mask_places.release(), scratch.release(); }
};

struct LinearValueGradient {
  Layer layer;
  CurrentLists current;
  Array<float> in_order;

  OrtStatus *configure(const Attributes &a) { return layer.read(a); }

  OrtStatus *run(Call &call) {
    Packed dy, x;
    KeptWeights kept;
    float *gradient;
    ESPALIER_TRY(call.packed(0, layer.y(), &dy));
    ESPALIER_TRY(read_kept(call, 1, &kept));
    ESPALIER_TRY(call.packed(4, layer.x, dy.tiles, &x));
    ESPALIER_TRY(layer.update(kept, false, current));
    ESPALIER_TRY(call.vector_output(0, kept.count, &gradient));
    const Lists &l = current.lists();
    ProductGradient k{};
    k.x = x.data, k.dy = dy.data, k.x_tile = layer.x.tile(), k.dy_tile = layer.y().tile(), k.tiles = x.tiles;
    k.list = l.view(0, 1), k.gradient = gradient;
    if (l.order.size) {
      if (!in_order.resize(kept.count)) return fail("no memory for %ld kept weights", kept.count);
      k.gradient = in_order.data;
    }
    return share_rows(call, layer.outputs, [&](int first, int last) {
      ProductGradient part = k;
      part.first = first, part.last = last;
      kernels().product_gradient(part);
      if (l.order.size)
        for (int e = l.starts[first]; e < l.starts[last]; e++) gradient[l.order[e]] = in_order[e];
    });
  }

  void release() { current.release(), in_order.release(); }
};

Definition linear() { return define<Linear>("Linear", "ffilf", 4, "f", 1); }
Definition linear_input_gradient() { return define<LinearInputGradient>("LinearInputGradient", "ffilf", 4, "f", 1); }
Definition linear_value_gradient() { return define<LinearValueGradient>("LinearValueGradient", "ffilf", 5, "f", 1); }

}  // namespace espalier

// Operators without weights: packing, ReLU, sums per channel, normalisation and pooling.
#include "convolution.h"
#include "definition.h"

namespace espalier {

struct Pack {
  Geometry y;

  // onnxruntime does not hold a graph's version of a domain against the versions of its operators, so this does.
  OrtStatus *configure(const Attributes &a) {
    const int64_t wanted = a.integer("operators", OPERATORS_VERSION);
    if (wanted != OPERATORS_VERSION)
      return fail("the graph is for version %lld of the operators, not %d", (long long)wanted, OPERATORS_VERSION);
    return a.geometry("y", &y);
  }

  OrtStatus *run(Call &call) {
    Tensor x;
    float *to;
    ESPALIER_TRY(call.tensor(0, FLOAT, &x));
    const int64_t image = int64_t(y.channels) * y.height * y.width;
    if (!x.data || x.rank < 2 || x.dims[0] < 1 || x.dims[0] > 1 << 24 || x.count() != x.dims[0] * image)
      return fail("the input is no batch of maps of %d x %d x %d", y.channels, y.height, y.width);
    const int images = int(x.dims[0]), tiles = (images + y.lanes - 1) / y.lanes;
    ESPALIER_TRY(call.packed_output(0, y, tiles, &to));
    return call.share_channels(y.channels, [&](int channel) {
      for (int tile = 0; tile < tiles; tile++) {
        const int here = images - tile * y.lanes < y.lanes ? images - tile * y.lanes : y.lanes;
        kernels().pack(y, channel, x.floats() + tile * y.lanes * image, here, to + tile * y.tile());
      }
    });
  }

  void release() {}
};

struct Unpack {
  Geometry x;
  int sample[7];
  size_t rank;

  OrtStatus *configure(const Attributes &a) {
    ESPALIER_TRY(a.geometry("x", &x));
    const OrtKernelInfo *info = a.info;
    ESPALIER_TRY(ort::attribute(info, "sample", nullptr, &rank));
    if (rank > 7) return fail("a sample has %zu axes", rank);
    ESPALIER_TRY(a.list("sample", sample, rank, 1, 1 << 24));
    double count = 1;
    for (size_t i = 0; i < rank; i++) count *= sample[i];
    if (count != double(x.channels) * x.height * x.width) return fail("a sample has another size than its map");
    return nullptr;
  }

  OrtStatus *run(Call &call) {
    Packed from;
    int images;
    float *to;
    ESPALIER_TRY(call.packed(0, x, &from));
    ESPALIER_TRY(call.images(1, from.tiles, &images));
    int64_t dims[8] = {images};
    for (size_t i = 0; i < rank; i++) dims[i + 1] = sample[i];
    ESPALIER_TRY(call.output(0, dims, rank + 1, &to));
    const int64_t image = int64_t(x.channels) * x.height * x.width;
    return call.share_channels(x.channels, [&](int channel) {
      for (int tile = 0; tile < from.tiles; tile++) {
        const int here = images - tile * x.lanes < x.lanes ? images - tile * x.lanes : x.lanes;
        kernels().unpack(x, channel, from.data + tile * x.tile(), here, to + tile * x.lanes * image);
      }
    });
  }

  void release() {}
};

struct Relu {
  Geometry x, y;

  OrtStatus *configure(const Attributes &a) {
    ESPALIER_TRY(a.geometry("x", &x));
    ESPALIER_TRY(a.geometry("y", &y));
    return same_map(x, y) ? nullptr : fail("a ReLU changes no map");
  }

  OrtStatus *run(Call &call) {
    Packed from;
    float *to;
    ESPALIER_TRY(call.packed(0, x, &from));
    ESPALIER_TRY(call.packed_output(0, y, from.tiles, &to));
    return call.share_channels(x.channels, [&](int channel) {
      for (int tile = 0; tile < from.tiles; tile++)
        kernels().relu(x, y, channel, from.data + tile * x.tile(), to + tile * y.tile());
    });
  }

  void release() {}
};

struct ReluGradient {
  Geometry y, dy, dx;

  OrtStatus *configure(const Attributes &a) {
    ESPALIER_TRY(a.geometry("y", &y));
    ESPALIER_TRY(a.geometry("dy", &dy));
    ESPALIER_TRY(a.geometry("dx", &dx));
    return same_map(y, dy) && same_map(y, dx) ? nullptr : fail("a gradient has another map than its value");
  }

  OrtStatus *run(Call &call) {
    Packed from, result;
    float *to;
    ESPALIER_TRY(call.packed(0, dy, &from));
    ESPALIER_TRY(call.packed(1, y, from.tiles, &result));
    ESPALIER_TRY(call.packed_output(0, dx, from.tiles, &to));
    return call.share_channels(y.channels, [&](int channel) {
      for (int tile = 0; tile < from.tiles; tile++)
        kernels().relu_gradient(dy, y, dx, channel, from.data + tile * dy.tile(), result.data + tile * y.tile(),
                                to + tile * dx.tile());
    });
  }

  void release() {}
};

struct ChannelSum {
  Geometry x;

  OrtStatus *configure(const Attributes &a) { return a.geometry("x", &x); }

  OrtStatus *run(Call &call) {
    Packed from;
    float *to;
    ESPALIER_TRY(call.packed(0, x, &from));
    ESPALIER_TRY(call.vector_output(0, x.channels, &to));
    return call.share_channels(
        x.channels, [&](int channel) { to[channel] = kernels().channel_sum(x, from.tiles, channel, from.data); });
  }

  void release() {}
};

// Inputs x, scale, shift, batch and the branch that is added, which may be missing; outputs y and the batch's moments.
struct Normalisation {
  BatchNorm k;

  OrtStatus *configure(const Attributes &a) {
    ESPALIER_TRY(a.geometry("x", &k.x));
    ESPALIER_TRY(a.geometry("y", &k.y));
    ESPALIER_TRY(a.geometry("branch", &k.residual));
    k.epsilon = a.real("epsilon", 1e-5f), k.relu = a.integer("relu", 0);
    return same_map(k.x, k.y) && same_map(k.x, k.residual) ? nullptr : fail("a normalisation changes no map");
  }

  OrtStatus *run(Call &call) {
    Packed x, branch;
    const float *scale, *shift;
    Tensor given;
    float *y, *mean, *variance;
    ESPALIER_TRY(call.packed(0, k.x, &x));
    ESPALIER_TRY(call.vector(1, k.x.channels, &scale));
    ESPALIER_TRY(call.vector(2, k.x.channels, &shift));
    ESPALIER_TRY(call.images(3, x.tiles, &k.images));
    ESPALIER_TRY(call.tensor(4, FLOAT, &given));
    if (given.data) ESPALIER_TRY(call.packed(4, k.residual, x.tiles, &branch));
    ESPALIER_TRY(call.packed_output(0, k.y, x.tiles, &y));
    ESPALIER_TRY(call.vector_output(1, k.x.channels, &mean));
    ESPALIER_TRY(call.vector_output(2, k.x.channels, &variance));
    return call.share_channels(k.x.channels, [&](int c) {
      kernels().batch_norm(k, c, x.data, scale[c], shift[c], branch.data, y, mean + c, variance + c);
    });
  }

  void release() {}
};

// Inputs dy, x, scale, mean, variance, batch and, where a ReLU follows, y; outputs dx, the gradients of scale and
// shift, and of the branch where the node has one.
struct NormalisationGradient {
  BatchNormGradient k;

  OrtStatus *configure(const Attributes &a) {
    ESPALIER_TRY(a.geometry("x", &k.x));
    ESPALIER_TRY(a.geometry("y", &k.y));
    ESPALIER_TRY(a.geometry("dy", &k.dy));
    ESPALIER_TRY(a.geometry("dx", &k.dx));
    ESPALIER_TRY(a.geometry("dbranch", &k.dresidual));
    k.epsilon = a.real("epsilon", 1e-5f);
    if (same_map(k.y, k.x) && same_map(k.dy, k.x) && same_map(k.dx, k.x) && same_map(k.dresidual, k.x)) return nullptr;
    return fail("a gradient has another map than its value");
  }

  OrtStatus *run(Call &call) {
    Packed dy, x, y;
    const float *scale, *mean, *variance;
    Tensor given;
    float *dx, *dscale, *dshift, *dbranch = nullptr;
    ESPALIER_TRY(call.packed(0, k.dy, &dy));
    ESPALIER_TRY(call.packed(1, k.x, dy.tiles, &x));
    ESPALIER_TRY(call.vector(2, k.x.channels, &scale));
    ESPALIER_TRY(call.vector(3, k.x.channels, &mean));
    ESPALIER_TRY(call.vector(4, k.x.channels, &variance));
    ESPALIER_TRY(call.images(5, dy.tiles, &k.images));
    ESPALIER_TRY(call.tensor(6, FLOAT, &given));
    if (given.data) ESPALIER_TRY(call.packed(6, k.y, dy.tiles, &y));
    ESPALIER_TRY(call.packed_output(0, k.dx, dy.tiles, &dx));
    ESPALIER_TRY(call.vector_output(1, k.x.channels, &dscale));
    ESPALIER_TRY(call.vector_output(2, k.x.channels, &dshift));
    if (call.has_output(3)) ESPALIER_TRY(call.packed_output(3, k.dresidual, dy.tiles, &dbranch));
    return call.share_channels(k.x.channels, [&](int c) {
      kernels().batch_norm_gradient(k, c, dy.data, x.data, y.data, scale[c], mean[c], variance[c], dx, dbranch,
                                    dscale + c, dshift + c);
    });
  }

  void release() {}
};

static OrtStatus *read_pooling(const Attributes &a, Pooling *k) {
  ESPALIER_TRY(a.geometry("x", &k->x));
  ESPALIER_TRY(a.geometry("y", &k->y));
  ESPALIER_TRY(a.list("kernel", k->kernel, 2, 1, 1 << 20));
  ESPALIER_TRY(a.list("strides", k->stride, 2, 1, 1 << 20));
  ESPALIER_TRY(a.list("before", k->before, 2, 0, 1 << 20));
  ESPALIER_TRY(a.list("behind", k->behind, 2, 0, 1 << 20));
  ESPALIER_TRY(a.list("dilations", k->dilation, 2, 1, 1 << 20));
  k->relu = a.integer("relu", 0), k->count_padding = a.integer("count_padding", 0);
  if (k->x.channels != k->y.channels) return fail("a pooling keeps its channels");
  return nullptr;
}

template <bool MAXIMUM>
struct Pool {
  Pooling k;

  OrtStatus *configure(const Attributes &a) { return read_pooling(a, &k); }

  OrtStatus *run(Call &call) {
    Packed x;
    float *y;
    ESPALIER_TRY(call.packed(0, k.x, &x));
    ESPALIER_TRY(call.packed_output(0, k.y, x.tiles, &y));
    return call.share_channels(k.x.channels, [&](int c) {
      for (int tile = 0; tile < x.tiles; tile++)
        (MAXIMUM ? kernels().max_pool : kernels().average_pool)(k, c, x.data + tile * k.x.tile(),
                                                                y + tile * k.y.tile());
    });
  }

  void release() {}
};

// Inputs dy and, for the maximum, x.
template <bool MAXIMUM>
struct PoolGradient {
  Pooling k;
  Geometry dy, dx;
  bool masked;

  OrtStatus *configure(const Attributes &a) {
    ESPALIER_TRY(read_pooling(a, &k));
    ESPALIER_TRY(a.geometry("dy", &dy));
    ESPALIER_TRY(a.geometry("dx", &dx));
    masked = a.integer("masked", 0);
    return same_map(dy, k.y) && same_map(dx, k.x) ? nullptr : fail("a gradient has another map than its value");
  }

  OrtStatus *run(Call &call) {
    Packed from, x;
    float *to;
    ESPALIER_TRY(call.packed(0, dy, &from));
    if (MAXIMUM) ESPALIER_TRY(call.packed(1, k.x, from.tiles, &x));
    ESPALIER_TRY(call.packed_output(0, dx, from.tiles, &to));
    return call.share_channels(k.x.channels, [&](int c) {
      for (int tile = 0; tile < from.tiles; tile++)
        if (MAXIMUM)
          kernels().max_pool_gradient(k, dy, dx, c, from.data + tile * dy.tile(), x.data + tile * k.x.tile(), masked,
                                      to + tile * dx.tile());
        else
          kernels().average_pool_gradient(k, dy, dx, c, from.data + tile * dy.tile(), to + tile * dx.tile());
    });
  }

  void release() {}
};

Definition pack() { return define<Pack>("Pack", "f", 1, "f", 1); }
Definition unpack() { return define<Unpack>("Unpack", "ff", 2, "f", 1); }
Definition relu() { return define<Relu>("Relu", "f", 1, "f", 1); }
Definition relu_gradient() { return define<ReluGradient>("ReluGradient", "ff", 2, "f", 1); }
Definition channel_sum() { return define<ChannelSum>("ChannelSum", "f", 1, "f", 1); }
Definition batch_norm() { return define<Normalisation>("BatchNorm", "fffff", 4, "fff", 3); }
Definition batch_norm_gradient() { return define<NormalisationGradient>("BatchNormGradient", "fffffff", 6, "ffff", 3); }
Definition max_pool() { return define<Pool<true>>("MaxPool", "f", 1, "f", 1); }
Definition average_pool() { return define<Pool<false>>("AveragePool", "f", 1, "f", 1); }
Definition max_pool_gradient() { return define<PoolGradient<true>>("MaxPoolGradient", "ff", 2, "f", 1); }
Definition average_pool_gradient() { return define<PoolGradient<false>>("AveragePoolGradient", "f", 1, "f", 1); }

}  // namespace espalier

// What operators have in common: attributes read and checked once, tensors checked at every call, work shared out.
//
// Nothing a graph or a caller gives is believed: a geometry that does not fit, a tensor of another size or a list of
// kept weights that is not one gives an error through onnxruntime, never a read outside a tensor.
#pragma once
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

#include "array.h"
#include "kernels.h"
#include "runtime.h"

namespace espalier {

// The version of the operators. A graph says in its Pack which it was written for.
constexpr int OPERATORS_VERSION = 1;

#define ESPALIER_TRY(expression)                    \
  do {                                              \
    if (OrtStatus *failed = (expression)) return failed; \
  } while (0)

__attribute__((format(printf, 1, 2))) inline OrtStatus *fail(const char *format, ...) {
  char text[300];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return ort::create_status(INVALID_ARGUMENT, text);
}

// The attributes of a node. A number that is left out has its default; a list must be there.
struct Attributes {
  const OrtKernelInfo *info;

  int64_t integer(const char *name, int64_t otherwise) const {
    int64_t value;
    OrtStatus *missing = ort::attribute(info, name, &value);
    if (!missing) return value;
    ort::release(missing);
    return otherwise;
  }
  float real(const char *name, float otherwise) const {
    float value;
    OrtStatus *missing = ort::attribute(info, name, &value);
    if (!missing) return value;
    ort::release(missing);
    return otherwise;
  }
  OrtStatus *list(const char *name, int *values, size_t count, int64_t least, int64_t most) const {
    int64_t found[8];
    size_t length = 0;
    ESPALIER_TRY(ort::attribute(info, name, nullptr, &length));
    if (length != count) return fail("attribute %s has %zu numbers where %zu are needed", name, length, count);
    ESPALIER_TRY(ort::attribute(info, name, found, &length));
    for (size_t i = 0; i < count; i++) {
      if (found[i] < least || found[i] > most)
        return fail("attribute %s has %lld, which is not between %lld and %lld", name, (long long)found[i],
                    (long long)least, (long long)most);
      values[i] = int(found[i]);
    }
    return nullptr;
  }
  // channels, height, width, rows and columns of the halo
  OrtStatus *geometry(const char *name, Geometry *g) const {
    int d[5];
    ESPALIER_TRY(list(name, d, 5, 0, 1 << 24));
    *g = {d[0], d[1], d[2], d[3], d[4], kernels().lanes};
    if (!d[0] || !d[1] || !d[2]) return fail("attribute %s describes an empty map", name);
    const double floats = (double(d[0]) * (d[1] + 2.0 * d[3]) * (double(d[2]) + d[4]) + d[4]) * g->lanes;
    if (floats >= 2147483647.0) return fail("attribute %s describes a map of more than 2^31 numbers", name);
    return nullptr;
  }
};

struct Tensor {
  void *data = nullptr;
  size_t rank = 0;
  int64_t dims[8] = {};

  const float *floats() const { return static_cast<const float *>(data); }
  int64_t count() const {
    int64_t n = 1;
    for (size_t i = 0; i < rank; i++) n *= dims[i];
    return n;
  }
};

// An activation in the layout: its cells, and how many tiles of images.
struct Packed {
  const float *data = nullptr;
  int tiles = 0;
};

// How many threads share the work of a call; more parts than that only cost.
extern int thread_count;

struct Call {
  OrtKernelContext *context;

  // data is null for an input that is left out.
  OrtStatus *tensor(size_t position, int type, Tensor *t) {
    *t = Tensor{};
    size_t count;
    ESPALIER_TRY(ort::input_count(context, &count));
    if (position >= count) return nullptr;
    const OrtValue *value = nullptr;
    ESPALIER_TRY(ort::input(context, position, &value));
    if (!value) return nullptr;
    OrtTensorTypeAndShapeInfo *info;
    ESPALIER_TRY(ort::type_and_shape(value, &info));
    OrtStatus *status = describe(info, position, type, t);
    ort::release(info);
    if (status) return status;
    return ort::data(value, &t->data);
  }
  OrtStatus *packed(size_t position, const Geometry &g, Packed *p) {
    Tensor t;
    ESPALIER_TRY(tensor(position, FLOAT, &t));
    if (!t.data || t.rank != 3 || t.dims[1] != g.cells() || t.dims[2] != g.lanes || t.dims[0] > 1 << 24)
      return fail("input %zu is not packed for a map of %d x %d x %d with a halo of %d, %d", position, g.channels,
                  g.height, g.width, g.halo_rows, g.halo_columns);
    p->data = t.floats(), p->tiles = int(t.dims[0]);
    return nullptr;
  }
  // As `packed`, of as many tiles as another tensor.
  OrtStatus *packed(size_t position, const Geometry &g, int tiles, Packed *p) {
    ESPALIER_TRY(packed(position, g, p));
    return p->tiles == tiles ? nullptr : fail("input %zu has %d tiles where %d are needed", position, p->tiles, tiles);
  }
  OrtStatus *vector(size_t position, int64_t length, const float **data) {
    Tensor t;
    ESPALIER_TRY(tensor(position, FLOAT, &t));
    if (!t.data || t.rank != 1 || t.dims[0] != length)
      return fail("input %zu is no vector of %lld numbers", position, (long long)length);
    *data = t.floats();
    return nullptr;
  }
  // The length of the batch, by any tensor of which it is the first axis; checked against the tiles of an activation.
  OrtStatus *images(size_t position, int tiles, int *count) {
    Tensor t;
    ESPALIER_TRY(tensor(position, FLOAT, &t));
    const int lanes = kernels().lanes;
    if (!t.data || t.rank < 1 || t.dims[0] < 1 || (t.dims[0] + lanes - 1) / lanes != tiles)
      return fail("input %zu has a batch that does not fit the activations", position);
    *count = int(t.dims[0]);
    return nullptr;
  }
  OrtStatus *output(size_t position, const int64_t *dims, size_t rank, float **data) {
    OrtValue *value = nullptr;
    ESPALIER_TRY(ort::output(context, position, dims, rank, &value));
    void *p = nullptr;
    if (value) ESPALIER_TRY(ort::data(value, &p));
    *data = static_cast<float *>(p);
    return nullptr;
  }
  OrtStatus *packed_output(size_t position, const Geometry &g, int tiles, float **data) {
    const int64_t dims[3] = {tiles, g.cells(), g.lanes};
    return output(position, dims, 3, data);
  }
  OrtStatus *vector_output(size_t position, int64_t length, float **data) {
    return output(position, &length, 1, data);
  }
  bool has_output(size_t position) {
    size_t count = 0;
    OrtStatus *status = ort::output_count(context, &count);
    if (status) ort::release(status);
    return position < count;
  }
  // f(0) ... f(count - 1), in any order and on several threads.
  template <class F>
  OrtStatus *share(int count, F f) {
    if (count <= 1 || thread_count <= 1) {
      for (int i = 0; i < count; i++) f(i);
      return nullptr;
    }
    return ort::parallel(context, [](void *data, size_t i) { (*static_cast<F *>(data))(int(i)); }, size_t(count), &f);
  }
  // f(channel) for every channel, a few of them at a time.
  template <class F>
  OrtStatus *share_channels(int channels, F f) {
    const int parts = channels < 4 * thread_count ? channels : 4 * thread_count;
    return share(parts, [&](int part) {
      for (int c = int(int64_t(channels) * part / parts); c < int(int64_t(channels) * (part + 1) / parts); c++) f(c);
    });
  }

 private:
  static OrtStatus *describe(OrtTensorTypeAndShapeInfo *info, size_t position, int type, Tensor *t) {
    int found;
    ESPALIER_TRY(ort::element_type(info, &found));
    if (found != type) return fail("input %zu has another type than is needed", position);
    ESPALIER_TRY(ort::rank(info, &t->rank));
    if (t->rank > 8) return fail("input %zu has %zu axes", position, t->rank);
    return ort::dimensions(info, t->dims, t->rank);
  }
};

// One kind of operator: its signature as a letter per tensor (f float32, i int32, l int64), of which the first few are
// required, and how its kernels are made, run and destroyed.
struct Definition : OrtCustomOp {
  const char *name, *inputs, *outputs;
  size_t required_inputs, required_outputs;
};

// Fill in a definition for operator class T, which is zero at first and has configure(attributes) and run(call).
template <class T>
Definition define(const char *name, const char *inputs, size_t required_inputs, const char *outputs,
                  size_t required_outputs);

}  // namespace espalier

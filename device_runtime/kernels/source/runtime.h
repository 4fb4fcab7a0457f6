// The slice of onnxruntime's C interface that an operator library needs, at version 17.
//
// The table of functions only ever grows at its end, so a library that asks for version 17 loads into every onnxruntime
// from 1.17 on. Positions are those of the public header (MIT licence), which is not needed to build this.
#pragma once
#include <stddef.h>
#include <stdint.h>

extern "C" {
struct OrtStatus;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtValue;
struct OrtTensorTypeAndShapeInfo;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtApi {
  void *functions[275];
};
struct OrtApiBase {
  const OrtApi *(*GetApi)(uint32_t version);
  const char *(*GetVersionString)();
};
struct OrtCustomOp {
  uint32_t version;
  void *(*CreateKernel)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *);
  const char *(*GetName)(const OrtCustomOp *);
  const char *(*GetExecutionProviderType)(const OrtCustomOp *);
  int (*GetInputType)(const OrtCustomOp *, size_t);
  size_t (*GetInputTypeCount)(const OrtCustomOp *);
  int (*GetOutputType)(const OrtCustomOp *, size_t);
  size_t (*GetOutputTypeCount)(const OrtCustomOp *);
  void (*KernelCompute)(void *, OrtKernelContext *);
  void (*KernelDestroy)(void *);
  int (*GetInputCharacteristic)(const OrtCustomOp *, size_t);
  int (*GetOutputCharacteristic)(const OrtCustomOp *, size_t);
  int (*GetInputMemoryType)(const OrtCustomOp *, size_t);
  int (*GetVariadicInputMinArity)(const OrtCustomOp *);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp *);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp *);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp *);
  OrtStatus *(*CreateKernelV2)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *, void **);
  OrtStatus *(*KernelComputeV2)(void *, OrtKernelContext *);
  OrtStatus *(*InferOutputShapeFn)(const OrtCustomOp *, void *);
  int (*GetStartVersion)(const OrtCustomOp *);
  int (*GetEndVersion)(const OrtCustomOp *);
};
}

namespace espalier {

constexpr uint32_t API_VERSION = 17;
enum ElementType { FLOAT = 1, INT32 = 6, INT64 = 7 };
enum ErrorCode { INVALID_ARGUMENT = 2 };

// Set when the library is registered, before any operator is made.
extern const OrtApi *runtime;

template <class F>
F *api(int position) {
  return reinterpret_cast<F *>(runtime->functions[position]);
}

namespace ort {
inline auto create_status = [](int code, const char *text) { return api<OrtStatus *(int, const char *)>(0)(code, text); };
inline OrtStatus *element_type(const OrtTensorTypeAndShapeInfo *i, int *type) {
  return api<OrtStatus *(const OrtTensorTypeAndShapeInfo *, int *)>(60)(i, type);
}
inline OrtStatus *rank(const OrtTensorTypeAndShapeInfo *i, size_t *n) {
  return api<OrtStatus *(const OrtTensorTypeAndShapeInfo *, size_t *)>(61)(i, n);
}
inline OrtStatus *dimensions(const OrtTensorTypeAndShapeInfo *i, int64_t *d, size_t n) {
  return api<OrtStatus *(const OrtTensorTypeAndShapeInfo *, int64_t *, size_t)>(62)(i, d, n);
}
inline OrtStatus *data(const OrtValue *v, void **p) { return api<OrtStatus *(const OrtValue *, void **)>(51)(v, p); }
inline OrtStatus *type_and_shape(const OrtValue *v, OrtTensorTypeAndShapeInfo **i) {
  return api<OrtStatus *(const OrtValue *, OrtTensorTypeAndShapeInfo **)>(65)(v, i);
}
inline void release(OrtTensorTypeAndShapeInfo *i) { api<void(OrtTensorTypeAndShapeInfo *)>(99)(i); }
inline void release(OrtStatus *s) { api<void(OrtStatus *)>(93)(s); }
inline OrtStatus *input_count(const OrtKernelContext *c, size_t *n) {
  return api<OrtStatus *(const OrtKernelContext *, size_t *)>(88)(c, n);
}
inline OrtStatus *output_count(const OrtKernelContext *c, size_t *n) {
  return api<OrtStatus *(const OrtKernelContext *, size_t *)>(89)(c, n);
}
inline OrtStatus *input(const OrtKernelContext *c, size_t i, const OrtValue **v) {
  return api<OrtStatus *(const OrtKernelContext *, size_t, const OrtValue **)>(90)(c, i, v);
}
inline OrtStatus *output(OrtKernelContext *c, size_t i, const int64_t *d, size_t n, OrtValue **v) {
  return api<OrtStatus *(OrtKernelContext *, size_t, const int64_t *, size_t, OrtValue **)>(91)(c, i, d, n, v);
}
inline OrtStatus *attribute(const OrtKernelInfo *i, const char *name, float *value) {
  return api<OrtStatus *(const OrtKernelInfo *, const char *, float *)>(85)(i, name, value);
}
inline OrtStatus *attribute(const OrtKernelInfo *i, const char *name, int64_t *value) {
  return api<OrtStatus *(const OrtKernelInfo *, const char *, int64_t *)>(86)(i, name, value);
}
inline OrtStatus *attribute(const OrtKernelInfo *i, const char *name, int64_t *values, size_t *n) {
  return api<OrtStatus *(const OrtKernelInfo *, const char *, int64_t *, size_t *)>(163)(i, name, values, n);
}
inline OrtStatus *parallel(const OrtKernelContext *c, void (*f)(void *, size_t), size_t total, void *data) {
  return api<OrtStatus *(const OrtKernelContext *, void (*)(void *, size_t), size_t, size_t, void *)>(274)(c, f, total,
                                                                                                           0, data);
}
}  // namespace ort

}  // namespace espalier

// How an operator class becomes what onnxruntime calls.
#pragma once
#include <string.h>

#include "operator.h"

namespace espalier {

// Calls of one kernel take turns: its lists and scratch are its own.
template <class T>
struct Kernel {
  pthread_mutex_t turn;  // all zero is unlocked
  T state;
};

template <class T>
OrtStatus *create_kernel(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *info, void **kernel) {
  auto *made = static_cast<Kernel<T> *>(calloc(1, sizeof(Kernel<T>)));
  if (!made) return fail("no memory for an operator");
  if (OrtStatus *status = made->state.configure(Attributes{info})) {
    made->state.release();
    free(made);
    return status;
  }
  *kernel = made;
  return nullptr;
}

template <class T>
OrtStatus *run_kernel(void *kernel, OrtKernelContext *context) {
  auto *k = static_cast<Kernel<T> *>(kernel);
  pthread_mutex_lock(&k->turn);
  Call call{context};
  OrtStatus *status = k->state.run(call);
  pthread_mutex_unlock(&k->turn);
  return status;
}

template <class T>
void destroy_kernel(void *kernel) {
  auto *k = static_cast<Kernel<T> *>(kernel);
  k->state.release();
  free(k);
}

inline int element_type(char letter) { return letter == 'f' ? FLOAT : letter == 'i' ? INT32 : INT64; }
inline const Definition &as_definition(const OrtCustomOp *o) { return *static_cast<const Definition *>(o); }

template <class T>
Definition define(const char *name, const char *inputs, size_t required_inputs, const char *outputs,
                  size_t required_outputs) {
  Definition d{};
  d.version = API_VERSION;
  d.name = name, d.inputs = inputs, d.outputs = outputs;
  d.required_inputs = required_inputs, d.required_outputs = required_outputs;
  d.GetName = [](const OrtCustomOp *o) { return as_definition(o).name; };
  d.GetExecutionProviderType = [](const OrtCustomOp *) -> const char * { return nullptr; };
  d.GetInputType = [](const OrtCustomOp *o, size_t i) { return element_type(as_definition(o).inputs[i]); };
  d.GetInputTypeCount = [](const OrtCustomOp *o) { return strlen(as_definition(o).inputs); };
  d.GetOutputType = [](const OrtCustomOp *o, size_t i) { return element_type(as_definition(o).outputs[i]); };
  d.GetOutputTypeCount = [](const OrtCustomOp *o) { return strlen(as_definition(o).outputs); };
  d.GetInputCharacteristic = [](const OrtCustomOp *o, size_t i) { return int(i >= as_definition(o).required_inputs); };
  d.GetOutputCharacteristic = [](const OrtCustomOp *o, size_t i) {
    return int(i >= as_definition(o).required_outputs);
  };
  d.GetInputMemoryType = [](const OrtCustomOp *, size_t) { return 0; };
  d.GetVariadicInputMinArity = d.GetVariadicInputHomogeneity = [](const OrtCustomOp *) { return 1; };
  d.GetVariadicOutputMinArity = d.GetVariadicOutputHomogeneity = [](const OrtCustomOp *) { return 1; };
  d.CreateKernel = [](const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *) -> void * { return nullptr; };
  d.KernelCompute = [](void *, OrtKernelContext *) {};
  d.CreateKernelV2 = create_kernel<T>;
  d.KernelComputeV2 = run_kernel<T>;
  d.KernelDestroy = destroy_kernel<T>;
  d.GetStartVersion = [](const OrtCustomOp *) { return 1; };
  d.GetEndVersion = [](const OrtCustomOp *) { return 1; };
  return d;
}

}  // namespace espalier

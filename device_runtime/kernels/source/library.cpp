// What the library shows: its operators to onnxruntime, and its version, instructions and thread count to the engine.
#include "operator.h"

#define ESPALIER_EXPORT extern "C" __attribute__((visibility("default")))

namespace espalier {

const OrtApi *runtime;
int thread_count = 1;

Definition convolution(), convolution_input_gradient(), convolution_value_gradient(), linear(),
    linear_input_gradient(), linear_value_gradient(), pack(), unpack(), relu(), relu_gradient(), channel_sum(),
    batch_norm(), batch_norm_gradient(), max_pool(), max_pool_gradient(), average_pool(), average_pool_gradient(),
    dense();

static Definition definitions[] = {
    convolution(), convolution_input_gradient(), convolution_value_gradient(), linear(), linear_input_gradient(),
    linear_value_gradient(), pack(), unpack(), relu(), relu_gradient(), channel_sum(), batch_norm(),
    batch_norm_gradient(), max_pool(), max_pool_gradient(), average_pool(), average_pool_gradient(), dense()};

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static OrtCustomOpDomain *domain;

static OrtStatus *make_domain() {
  OrtCustomOpDomain *made;
  ESPALIER_TRY(api<OrtStatus *(const char *, OrtCustomOpDomain **)>(26)("espalier", &made));
  for (Definition &d : definitions)
    ESPALIER_TRY(api<OrtStatus *(OrtCustomOpDomain *, const OrtCustomOp *)>(27)(made, &d));
  domain = made;
  return nullptr;
}

}  // namespace espalier

// Called by SessionOptions.register_custom_ops_library. The domain lives as long as the process: sessions refer to it.
ESPALIER_EXPORT OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
  using namespace espalier;
  const OrtApi *table = base->GetApi(API_VERSION);
  if (!table) return nullptr;  // older than 1.17: onnxruntime has said so, and will miss the operators
  pthread_mutex_lock(&turn);
  runtime = table;
  OrtStatus *status = domain ? nullptr : make_domain();
  pthread_mutex_unlock(&turn);
  if (status) return status;
  return api<OrtStatus *(OrtSessionOptions *, OrtCustomOpDomain *)>(28)(options, domain);
}

ESPALIER_EXPORT int espalier_kernels_version() { return espalier::OPERATORS_VERSION; }

// Which instructions the inner loops use here, and how many images they take at once.
ESPALIER_EXPORT const char *espalier_kernels_instructions() { return espalier::kernels().name; }
ESPALIER_EXPORT int espalier_kernels_lanes() { return espalier::kernels().lanes; }

// Into how many threads' work a call is divided. Results do not depend on it.
ESPALIER_EXPORT void espalier_kernels_set_threads(int count) { espalier::thread_count = count > 1 ? count : 1; }

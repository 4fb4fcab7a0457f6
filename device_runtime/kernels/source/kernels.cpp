// One table of inner loops, for the instructions this file is compiled with; NAME says which.
#include "kernels.h"

#include "contraction.h"
#include "maps.h"
#include "normalisation.h"
#include "pooling.h"
#include "product.h"

#define ESPALIER_TEXT2(x) #x
#define ESPALIER_TEXT(x) ESPALIER_TEXT2(x)
#define ESPALIER_JOIN2(a, b) a##b
#define ESPALIER_JOIN(a, b) ESPALIER_JOIN2(a, b)

namespace espalier {

extern const Kernels ESPALIER_JOIN(kernels_, ESPALIER_NAME) = {
    ESPALIER_TEXT(ESPALIER_NAME), LANES, ESPALIER_ACCUMULATORS,
    contract, correlate, product, product_gradient,
    batch_norm, batch_norm_gradient,
    max_pool, max_pool_gradient, average_pool, average_pool_gradient,
    pack, unpack, relu, relu_gradient, channel_sum, clear_halo,
};

}  // namespace espalier

"""Every maximum of the protocol, in one place, so that no peer can make us allocate without bound."""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

PROTOCOL_VERSION: Final = 1

# 120 KiB of data plus envelope stays under the smallest broker limit met in practice (128 KB).
CHUNK_BYTES_MAX: Final = 120 * KIB
ENVELOPE_BYTES_MAX: Final = 124 * KIB
WINDOW_CHUNKS: Final = 8

BLOB_BYTES_MAX: Final = 256 * MIB
DECODED_BYTES_MAX: Final = 1024 * MIB
CHUNK_COUNT_MAX: Final = BLOB_BYTES_MAX // CHUNK_BYTES_MAX + 1

TENSOR_COUNT_MAX: Final = 4096
TENSOR_DIMS_MAX: Final = 8
# What an optimizer remembers of each parameter, and some of the whole step.
STATE_COUNT_MAX: Final = 4 * TENSOR_COUNT_MAX
TENSOR_HEADER_BYTES_MAX: Final = 1 * MIB
PARAMETER_NAME_BYTES_MAX: Final = 200
# Of an ONNX file. The train step of a residual network with 20 layers has 45 thousand fields.
GRAPH_FIELD_COUNT_MAX: Final = 2 * MIB
OPERATOR_NAME_BYTES_MAX: Final = 200
VALUE_NAME_BYTES_MAX: Final = 1000
# zstd windows above 8 MiB are refused: a small board must not reserve more for a hostile frame.
ZSTD_WINDOW_LOG_MAX: Final = 23

# With names of the greatest length an offer still fits its envelope.
KEPT_BACK_COUNT_MAX: Final = 256

# No training moves a value so far, and sums of such values stay finite. It is above what running variances of raw
# measurements move by (those of 16 bits: 1e9), so that no honest device meets it.
UPDATE_VALUE_MAX: Final = 1e10

NAME_BYTES_MAX: Final = 63
TEXT_BYTES_MAX: Final = 2000
DEVICE_COUNT_MAX: Final = 10_000
SAMPLE_COUNT_MAX: Final = 100_000_000
# A layer that needs an hour of the fastest board for one sample.
SAMPLE_FLOPS_MAX: Final = 10**15
ROUND_COUNT_MAX: Final = 1_000_000
INBOX_COUNT_MAX: Final = 4096
# Eleven days: no clock read that for a training step or a phase of a round, and sums of such stay finite.
DURATION_NS_MAX: Final = 10**15

# So many chunks are under way to the aggregator at once, whatever the number of devices: what has arrived waits in its
# memory until it is written. 128 small updates at once, or 16 of those that use the whole window.
UPDATE_CHUNKS_MAX: Final = 128

# The record of a profile run with all raw samples; ten cases of a model with steps of a millisecond have 5 MB.
PROFILE_BYTES_MAX: Final = 16 * MIB
# Two profiles at once, one chunk of each after the other: an update waits behind one chunk of a profile at most.
PROFILE_CHUNKS_MAX: Final = 2
PROFILE_WINDOW_CHUNKS: Final = 1

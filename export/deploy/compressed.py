"""How small a file gets on its way to a device: one zstd frame at the highest common level."""

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL = 19


def compressed_size(data: bytes) -> int:
    """Bytes of `data` as one zstd frame of level 19."""
    return len(zstd.compress(data, level=LEVEL))

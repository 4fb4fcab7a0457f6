"""Record the vectors anew: `python -m tests.golden.make`. A changed envelope is a new version of the protocol."""

from pathlib import Path

from device_runtime.wire.envelope import encode_message
from tests.golden.values import BLOBS, MESSAGES, VARIANTS

VECTORS = Path(__file__).parent / "vectors"


def read_vector(name: str) -> bytes:
    """The recorded bytes of one vector."""
    return (VECTORS / f"{name}.bin").read_bytes()


def record() -> None:
    """Write every vector."""
    VECTORS.mkdir(exist_ok=True)
    for name, message in (MESSAGES | VARIANTS).items():
        (VECTORS / f"message_{name}.bin").write_bytes(encode_message(message))
    for name, encode in BLOBS.items():
        (VECTORS / f"blob_{name}.bin").write_bytes(encode())


if __name__ == "__main__":
    record()

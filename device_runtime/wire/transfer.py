"""Pulling a blob chunk by chunk: a pure state machine with a window, resumed by asking again, checked by SHA-256."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from device_runtime.wire import limits
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.messages import Chunk, Get
from device_runtime.wire.support import sha256_hex


@dataclass(frozen=True, slots=True)
class Download:
    """A blob under way. `size_bytes` is None until the first chunk tells it, or the offer did; `window` chunks at most
    are asked for at a time. `gathers`: chunks are held here, to be assembled; else only their indices stay, and the
    bytes go elsewhere as they come."""

    sha: str
    size_bytes_max: int
    size_bytes: int | None = None
    chunks: Mapping[int, bytes] = field(default_factory=dict)
    asked: frozenset[int] = frozenset()
    window: int = limits.WINDOW_CHUNKS
    gathers: bool = True

    @property
    def complete(self) -> bool:
        """Whether every chunk is here."""
        return self.size_bytes is not None and len(self.chunks) == chunk_count(self.size_bytes)


def chunk_count(size_bytes: int) -> int:
    """How many chunks a blob of `size_bytes` travels in; an empty blob travels in one empty chunk."""
    return max(1, -(-size_bytes // limits.CHUNK_BYTES_MAX))


def request(download: Download) -> tuple[Download, Get | None]:
    """Ask for the next chunks, up to the window; None when nothing more is to be asked for."""
    end = download.window if download.size_bytes is None else chunk_count(download.size_bytes)
    room = download.window - len(download.asked)
    missing = (i for i in range(end) if i not in download.chunks and i not in download.asked)
    wanted = tuple(index for index, _ in zip(missing, range(room), strict=False))
    if not wanted:
        return download, None
    return replace(download, asked=download.asked | set(wanted)), Get(sha=download.sha, indices=wanted)


def retry(download: Download) -> tuple[Download, Get | None]:
    """Forget what was asked for and ask again: after a silence, or a new connection."""
    return request(replace(download, asked=frozenset()))


def accept(download: Download, chunk: Chunk) -> Download:
    """The download with one more chunk; a duplicate changes nothing.

    Raises RemoteWireError when the chunk contradicts the blob's size or exceeds the limit set for it.
    """
    if chunk.size_bytes > download.size_bytes_max:
        raise RemoteWireError(f"blob {chunk.sha[:12]} has {chunk.size_bytes} bytes; {download.size_bytes_max} allowed")
    if download.size_bytes is not None and chunk.size_bytes != download.size_bytes:
        raise RemoteWireError(f"blob {chunk.sha[:12]} changed its size")
    count = chunk_count(chunk.size_bytes)
    last = chunk.size_bytes - (count - 1) * limits.CHUNK_BYTES_MAX
    expected = last if chunk.index == count - 1 else limits.CHUNK_BYTES_MAX
    if chunk.index >= count or len(chunk.data) != expected:
        raise RemoteWireError(f"chunk {chunk.index} of blob {chunk.sha[:12]} has {len(chunk.data)} bytes")
    # Chunks beyond the end were asked for blindly while the size was unknown: they will never come.
    asked = frozenset(i for i in download.asked if i != chunk.index and i < count)
    chunks = {**download.chunks, chunk.index: chunk.data if download.gathers else b""}
    return replace(download, size_bytes=chunk.size_bytes, chunks=chunks, asked=asked)


def assemble(download: Download) -> bytes:
    """The whole blob.

    Raises RemoteWireError when its SHA-256 is not its name.
    """
    assert download.complete, "assemble is called on a complete download"
    assert download.gathers, "and on one whose bytes are here"
    data = b"".join(download.chunks[i] for i in range(len(download.chunks)))
    if sha256_hex(data) != download.sha:
        raise RemoteWireError(f"blob {download.sha[:12]} does not match its SHA-256")
    return data

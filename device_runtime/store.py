"""Files that are whole or absent: atomic writes, a store of blobs named by their SHA-256, and what arrives for it."""

import contextlib
import os
import shutil
import struct
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path

from device_runtime.wire import limits
from device_runtime.wire.errors import UsageError
from device_runtime.wire.messages import Chunk
from device_runtime.wire.support import sha256_hex
from device_runtime.wire.transfer import chunk_count

_ABSENT = (FileNotFoundError, NotADirectoryError)
_PACK_HEAD = struct.Struct("<32sQ")


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that after any crash `path` holds the old bytes or the new ones, on disk.

    Raises UsageError when the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            os.fchmod(handle, 0o644)  # mkstemp makes it the owner's alone; what is kept here is for others to read
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
        sync(path.parent)
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror or error}.") from error


def sync(path: Path) -> None:
    """Make the content of a file durable, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class BlobStore:
    """Blobs under `folder/<first two digits>/<sha>`, and those of little use for long in one file, `folder/pack`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pack = Pack(folder / "pack")

    def path(self, sha: str) -> Path:
        """Where the blob is, or would be, if it has a file of its own."""
        return self.folder / sha[:2] / sha

    def get(self, sha: str) -> bytes | None:
        """The blob's bytes, None when it is not here or no longer matches its name."""
        for read in (self._pack.get, self._read):
            data = read(sha)
            if data is not None and sha256_hex(data) == sha:
                return data
        return None

    def _read(self, sha: str) -> bytes | None:
        try:
            return self.path(sha).read_bytes()
        except _ABSENT:
            return None

    def chunk(self, sha: str, index: int) -> Chunk | None:
        """Chunk `index` of a blob with a file of its own, None beyond its end or when there is none.

        Only the chunk is read: who pulls a blob asks for its chunks one by one, and checks the whole by its SHA-256.
        """
        try:
            with open(self.path(sha), "rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                if index >= chunk_count(size_bytes):
                    return None
                file.seek(index * limits.CHUNK_BYTES_MAX)
                return Chunk(sha=sha, index=index, size_bytes=size_bytes, data=file.read(limits.CHUNK_BYTES_MAX))
        except _ABSENT:
            return None

    def put(self, data: bytes) -> str:
        """Keep a blob durably, in place of one that rotted; returns its SHA-256."""
        sha = sha256_hex(data)
        if self.get(sha) is None:
            write_atomic(self.path(sha), data)
        return sha

    def add(self, data: bytes) -> str:
        """Keep a blob that is durable after the next `sync`, together with others; returns its SHA-256.

        A thousand files cost three thousand waits for the disk, a thousand blobs added one.
        """
        sha = sha256_hex(data)
        if self.get(sha) is None:
            self._pack.add(sha, data)
        return sha

    def sync(self) -> None:
        """What was added is on disk when this returns."""
        self._pack.sync()

    def keep_only(self, shas: Iterable[str]) -> None:
        """Delete every blob not named; those that were added go when none of them is."""
        wanted = set(shas)
        for path in self.folder.glob("??/*"):
            if path.name not in wanted:
                path.unlink(missing_ok=True)
        self._pack.clear_unless(wanted)


class Pack:
    """Blobs one after the other in one file, each behind its SHA-256 (32 bytes) and its size (8, little-endian).

    Appending is all that is done to it, so a crash can damage its end only: what is not whole there is cut off when it
    is opened, and was not synced, so nobody was told of it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, tuple[int, int]] = {}  # offset and size
        self._end = 0
        self._find_places()
        self._synced_end = self._end

    def _find_places(self) -> None:
        with contextlib.suppress(*_ABSENT), open(self._path, "r+b") as file:
            file_size = os.fstat(file.fileno()).st_size
            while len(head := file.read(_PACK_HEAD.size)) == _PACK_HEAD.size:
                digest, size = _PACK_HEAD.unpack(head)
                start = self._end + _PACK_HEAD.size
                if not any(digest) or start + size > file_size:  # a hole where nothing was written, or the torn end
                    break
                self._places[digest.hex()] = (start, size)
                self._end = start + size
                file.seek(self._end)
            file.truncate(self._end)

    def get(self, sha: str) -> bytes | None:
        """The bytes kept under this name, unchecked."""
        place = self._places.get(sha)
        if place is None:
            return None
        with contextlib.suppress(*_ABSENT), open(self._path, "rb") as file:
            file.seek(place[0])
            return file.read(place[1])
        return None

    def add(self, sha: str, data: bytes) -> None:
        """Append a blob. Raises UsageError when the file cannot be written."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644), "wb") as file:
                file.seek(self._end)
                file.write(_PACK_HEAD.pack(bytes.fromhex(sha), len(data)))
                file.write(data)
        except OSError as error:
            raise UsageError(f"cannot write {str(self._path)!r}: {error.strerror or error}.") from error
        self._places[sha] = (self._end + _PACK_HEAD.size, len(data))
        self._end += _PACK_HEAD.size + len(data)

    def sync(self) -> None:
        """All that was added is on disk when this returns."""
        if self._synced_end == self._end:
            return
        sync(self._path)
        sync(self._path.parent)
        self._synced_end = self._end

    def clear_unless(self, wanted: Collection[str]) -> None:
        """Forget everything, unless some of it is wanted."""
        if self._places and self._places.keys().isdisjoint(wanted):
            self._path.unlink(missing_ok=True)
            self._places, self._end, self._synced_end = {}, 0, 0


class ArrivingBlobs:
    """Blobs under way, a file in `folder` for each: chunks are written as they come and nothing is held in memory.

    What is here counts for nothing until it is taken, whole and checked; so nothing is made durable, and what an
    earlier process left is removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)

    def path(self, owner: str, sha: str) -> Path:
        """Where the chunks of a blob lie that comes from `owner`, so that nobody can spoil what another sends."""
        return self.folder / f"{owner}.{sha}"

    def write(self, owner: str, chunk: Chunk) -> None:
        """Write a chunk at its place. Raises UsageError when the folder cannot be written."""
        path = self.path(owner, chunk.sha)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644), "wb") as file:
                file.seek(chunk.index * limits.CHUNK_BYTES_MAX)
                file.write(chunk.data)
        except OSError as error:
            raise UsageError(f"cannot write {str(path)!r}: {error.strerror or error}.") from error

    def take(self, owner: str, sha: str) -> bytes | None:
        """The blob's bytes, None when they do not match its name; either way it is no longer here."""
        try:
            data = self.path(owner, sha).read_bytes()
        except _ABSENT:
            return None
        self.drop(owner, sha)
        return data if sha256_hex(data) == sha else None

    def drop(self, owner: str, sha: str) -> None:
        """Forget what was written of a blob."""
        self.path(owner, sha).unlink(missing_ok=True)

"""Files that are whole or absent: atomic writes, a store of blobs named by their SHA-256, and what arrives for it."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from device_runtime.wire import limits
from device_runtime.wire.errors import UsageError
from device_runtime.wire.messages import Chunk
from device_runtime.wire.support import sha256_hex
from device_runtime.wire.transfer import chunk_count


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
        sync_folder(path.parent)
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror or error}.") from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, as fsync does for a file's content."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class BlobStore:
    """Blobs under `folder/<first two digits>/<sha>`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha: str) -> Path:
        """Where the blob is, or would be."""
        return self.folder / sha[:2] / sha

    def has(self, sha: str) -> bool:
        """Whether the blob is here."""
        return self.path(sha).is_file()

    def get(self, sha: str) -> bytes | None:
        """The blob's bytes, None when it is not here or no longer matches its name."""
        try:
            data = self.path(sha).read_bytes()
        except FileNotFoundError:
            return None
        return data if sha256_hex(data) == sha else None

    def chunk(self, sha: str, index: int) -> Chunk | None:
        """Chunk `index` of a blob, None beyond its end or when it is not here.

        Only the chunk is read: who pulls a blob asks for its chunks one by one, and checks the whole by its SHA-256.
        """
        try:
            with open(self.path(sha), "rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                if index >= chunk_count(size_bytes):
                    return None
                file.seek(index * limits.CHUNK_BYTES_MAX)
                return Chunk(sha=sha, index=index, size_bytes=size_bytes, data=file.read(limits.CHUNK_BYTES_MAX))
        except FileNotFoundError:
            return None

    def put(self, data: bytes) -> str:
        """Keep a blob durably, in place of one that rotted; returns its SHA-256."""
        sha = sha256_hex(data)
        if self.get(sha) is None:
            write_atomic(self.path(sha), data)
        return sha

    def keep_only(self, shas: Iterable[str]) -> None:
        """Delete every blob not named."""
        wanted = set(shas)
        for path in self.folder.glob("??/*"):
            if path.name not in wanted:
                path.unlink(missing_ok=True)


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
        except FileNotFoundError:
            return None
        self.drop(owner, sha)
        return data if sha256_hex(data) == sha else None

    def drop(self, owner: str, sha: str) -> None:
        """Forget what was written of a blob."""
        self.path(owner, sha).unlink(missing_ok=True)

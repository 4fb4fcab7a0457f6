"""The profile that a device offers to its aggregator: found, checked and put among the blobs, once at the start."""

import logging
from pathlib import Path

from device_runtime.config import DeviceSettings
from device_runtime.profile.record import decode_profile
from device_runtime.store import BlobStore
from device_runtime.wire.errors import UsageError
from device_runtime.wire.limits import PROFILE_BYTES_MAX
from device_runtime.wire.messages import BlobRef

DEFAULT_FILE = "profile.json"
log = logging.getLogger("espalier.device")


def offered_profile(settings: DeviceSettings, blobs: BlobStore) -> BlobRef | None:
    """The profile of the settings as a blob of the store; None where there is none.

    A file that the settings name must be a profile: raises UsageError naming it. One that merely lies in the device's
    folder is left out with a warning when it is not.
    """
    try:
        data = read_offered(settings)
    except UsageError as error:
        if settings.profile:
            raise
        log.warning("no profile is offered: %s", error)
        return None
    return None if data is None else BlobRef(sha=blobs.put(data), size_bytes=len(data))


def read_offered(settings: DeviceSettings) -> bytes | None:
    """The bytes of the profile that the settings name or the device's folder holds, None where there is none.

    Raises UsageError naming the file for one that cannot be read, is no profile, or is too large to travel.
    """
    path = Path(settings.profile or Path(settings.folder) / DEFAULT_FILE)
    if not settings.profile and not path.is_file():
        return None
    try:
        size_bytes = path.stat().st_size
        if size_bytes > PROFILE_BYTES_MAX:
            raise UsageError(
                f"the profile {str(path)!r} has {size_bytes} bytes; {PROFILE_BYTES_MAX} may travel: "
                "profile fewer cases, or for fewer --seconds."
            )
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the profile {str(path)!r} cannot be read: {error.strerror or error}.") from error
    decode_profile(data, repr(str(path)))
    return data

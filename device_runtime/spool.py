"""The spool: the one update that a device has made and has no receipt for, on disk from before it is offered."""

from pathlib import Path

import msgspec

from device_runtime.personal import Choice
from device_runtime.personal_file import PersonalFiles
from device_runtime.store import BlobStore, write_atomic
from device_runtime.wire.messages import Offer


class Spooled(msgspec.Struct, frozen=True, kw_only=True):
    """What the spool holds: an offer, and what was personal in the settings when its update was made."""

    offer: Offer
    personal: Choice


class Spool:
    """`folder/spool.json`, and the update's blob beside it."""

    def __init__(self, folder: Path, blobs: BlobStore, personal: PersonalFiles, chosen: Choice) -> None:
        self._path = folder / "spool.json"
        self._blobs = blobs
        self._personal = personal
        self._chosen = chosen

    def keep(self, offer: Offer, update: bytes) -> None:
        """Make an update and its offer durable: the update first, for the offer points to it."""
        self._blobs.put(update)
        write_atomic(self._path, msgspec.json.encode(Spooled(offer=offer, personal=self._chosen)))

    def read(self) -> Offer | None:
        """The offer not yet receipted, None when there is none, or when it would upload what is personal by now."""
        try:
            spooled = msgspec.json.decode(self._path.read_bytes(), type=Spooled)
        except (FileNotFoundError, UnicodeDecodeError, msgspec.MsgspecError):
            return None
        return spooled.offer if self._personal.fits(spooled.offer.kept_back, spooled.personal) else None

    def of(self, assignment_id: str) -> Offer | None:
        """The offer left by this assignment, if its update is still whole."""
        offer = self.read()
        if offer is None or offer.assignment_id != assignment_id:
            return None
        return offer if self._blobs.get(offer.update_sha) else None

    def forget(self, assignment_id: str) -> None:
        """The update of this assignment has its receipt."""
        if self.of(assignment_id) is not None:
            self._path.unlink(missing_ok=True)

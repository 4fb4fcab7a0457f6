"""The family of errors a person or a peer can cause; each says what was wrong, where, and what to change.

EspalierError
  UsageError            a setting, a file or a command line that a person can mend
  WireError
    LocalWireError      we built a message that breaks our own rules (a bug on this side)
    RemoteWireError     the peer sent bytes that break the rules (reject them, keep going)
  EngineError           a training engine cannot do what was asked, or is not installed
  LinkError             the broker cannot be reached or refuses us
"""


class EspalierError(Exception):
    """Base of every error that Espalier raises on purpose; its text is one sentence for a person."""


class UsageError(EspalierError, ValueError):
    """A setting, file or argument is wrong, and the text names what to change."""


class WireError(EspalierError):
    """Something between the two ends breaks the contract."""


class LocalWireError(WireError):
    """This side tried to build a message or blob that breaks the contract."""


class RemoteWireError(WireError):
    """The other side sent bytes that break the contract."""


class EngineError(EspalierError):
    """A training engine is missing, or refuses an artifact or a batch."""


class LinkError(EspalierError):
    """The broker cannot be reached, or refuses this client."""

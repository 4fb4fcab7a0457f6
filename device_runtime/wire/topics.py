"""The topic grammar: where a site's messages go; no topic string is built anywhere else.

    espalier/1/<site>/d/<device>/up    one device writes
    espalier/1/<site>/d/<device>/dn    one device reads
    espalier/1/<site>/all              every device of the site reads

Six levels at most, names from `names`, and one wildcard subscription for the aggregator: every broker takes that.
"""

from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.names import is_name

_ROOT = "espalier/1"


def up_topic(site: str, device: str) -> str:
    """Where `device` publishes."""
    return f"{_ROOT}/{site}/d/{device}/up"


def down_topic(site: str, device: str) -> str:
    """Where `device` listens."""
    return f"{_ROOT}/{site}/d/{device}/dn"


def all_topic(site: str) -> str:
    """Where every device of the site listens."""
    return f"{_ROOT}/{site}/all"


def up_filter(site: str) -> str:
    """The aggregator's one subscription."""
    return f"{_ROOT}/{site}/d/+/up"


def device_of(topic: str) -> str:
    """The device that a message on an `up` topic comes from.

    Raises RemoteWireError for any other topic.
    """
    parts = topic.split("/")
    well_formed = len(parts) == 6 and is_name(parts[2]) and is_name(parts[4])
    if not well_formed or topic != up_topic(parts[2], parts[4]):
        raise RemoteWireError(f"not a device's topic: {topic[:120]!r}")
    return parts[4]

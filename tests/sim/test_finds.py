"""Faults put back into the shells, one by one: a simulation that would not find them would say nothing."""

import pytest

from aggregator.core import pulls
from aggregator.correspondence import Correspondence
from aggregator.round_work import RoundWork
from device_runtime import agent
from device_runtime.store import BlobStore
from device_runtime.wire.errors import UsageError
from tests.sim.plan import TROUBLED


def crash_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hello that nobody can serve ends the aggregator, where a round would be for that device alone."""
    servable = RoundWork._servable

    def raising(self, devices, state):
        found, _ = servable(self, devices, state)
        if devices and not found:
            raise UsageError(f"no device of round {state.round_index} can be given an artifact.")
        return found, {}

    monkeypatch.setattr(RoundWork, "_servable", raising)


def late_acceptance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round that closes still takes in the updates that were under way."""
    monkeypatch.setattr(pulls, "drop_all", lambda under_way: (under_way, []))


def verdict_before_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update is judged in the ledger before it is on disk."""
    monkeypatch.setattr(BlobStore, "sync", lambda _: None)


def receipt_before_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said does not wait for what it rests on to be on disk."""
    send = Correspondence.send

    def hasty(self, device, message):
        send(self, device, message)
        self.publish()

    monkeypatch.setattr(Correspondence, "send", hasty)


def offer_before_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device offers its update before it is on disk."""
    trained = agent._trained

    def hasty(*arguments):
        state, commands = trained(*arguments)
        return state, commands[::-1]

    monkeypatch.setattr(agent, "_trained", hasty)


@pytest.mark.parametrize(
    ("put_back", "found"),
    [
        (crash_loop, "aggregator ended by itself: UsageError: no device of round"),
        (late_acceptance, r"round \d counts|aggregator ended by itself: KeyError"),
        (verdict_before_update, "ended by itself: UsageError: the accepted update .* is missing"),
        (receipt_before_verdict, "got a receipt that the ledger does not know"),
        (offer_before_spool, "before it is in its spool"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_put_back_is_found(put_back, found, simulate, monkeypatch):
    def search() -> None:
        for seed in range(200):
            simulate(seed, TROUBLED)

    put_back(monkeypatch)
    with pytest.raises(AssertionError, match=found):
        search()

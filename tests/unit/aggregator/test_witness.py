"""A ledger that is damaged, lost or gone back is refused in a sentence, and nothing beside it is touched."""

import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from aggregator.ledger import Ledger
from aggregator.witness import open_ledger, write_witness
from device_runtime.wire.errors import UsageError
from device_runtime.wire.messages import Receipt
from tests import fakes

COMMITTED = 6


def _round(ledger: Ledger, index: int) -> None:
    """A round of two devices, not committed."""
    assignments = tuple(fakes.assignment(name, index) for name in ("a", "b"))
    ledger.open_round(index, 0, 500, assignments)
    for assignment in assignments:
        offer = fakes.offer(assignment)
        accepted = Receipt(
            assignment_id=offer.assignment_id, update_sha=offer.update_sha, verdict="accepted", reason=""
        )
        ledger.record_update(index, offer, accepted)
        ledger.add_traffic(index, {offer.device: (10, 20)})


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder as a kill in round 7 leaves it, six rounds committed."""
    live, left = tmp_path_factory.mktemp("live"), tmp_path_factory.mktemp("left") / "run"
    ledger = open_ledger(live)
    ledger.set_setting("settings", "{}")
    ledger.set_setting("run_id", "r1")
    for name in ("a", "b"):
        ledger.enrol(fakes.hello(name))
    for index in range(1, COMMITTED + 1):
        _round(ledger, index)
        ledger.commit_round(index, f"sha-{index}", {"round_index": index})
        ledger.checkpoint()
        write_witness(live, ledger)
    _round(ledger, COMMITTED + 1)
    shutil.copytree(live, left, ignore=shutil.ignore_patterns("*-shm"))
    ledger.close()
    return left


@pytest.fixture
def run(killed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(killed, tmp_path / "run"))


def _flip(path: Path, draws: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
    path.write_bytes(data)


def _read_all(folder: Path, *, read_only: bool) -> int:
    """Read all that a command or a start reads; how many rounds are committed."""
    ledger = open_ledger(folder, read_only=read_only)
    try:
        for index in range(1, COMMITTED + 2):
            ledger.opened_round(index)
            ledger.traffic_of(index)
        ledger.devices(), ledger.traffic(), ledger.update_counts(), ledger.accepted_offers(first=1)
        ledger.results(dict), ledger.setting("settings"), ledger.seconds_since_opening(1)
        return (ledger.last_committed() or (0, ""))[0]
    finally:
        ledger.close()


def test_a_killed_run_is_read_whole(run: Path) -> None:
    assert _read_all(run, read_only=False) == COMMITTED
    ledger = open_ledger(run)
    opened = ledger.opened_round(COMMITTED + 1)
    assert opened is not None
    assert set(opened.accepted) == {"a", "b"}


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_in_the_main_file_is_a_sentence_or_costs_no_round(run: Path, seed: int) -> None:
    _flip(run / "ledger.sqlite", random.Random(seed))
    for read_only in (True, False):
        try:
            outcome = str(_read_all(run, read_only=read_only))
        except UsageError as error:
            outcome = str(error)
        assert outcome == str(COMMITTED) or str(run / "ledger.sqlite") in outcome


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_in_the_write_ahead_file_costs_at_most_the_open_round(run: Path, seed: int) -> None:
    _flip(run / "ledger.sqlite-wal", random.Random(seed))
    assert _read_all(run, read_only=False) == COMMITTED


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_truncated_ledger_is_refused(run: Path, share: float) -> None:
    path = run / "ledger.sqlite"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    for _ in range(2):
        with pytest.raises(UsageError, match=r"ledger\.sqlite' is .*; nothing was deleted|put back"):
            _read_all(run, read_only=False)


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("beside", ["committed.json", "settings.json", "models"])
def test_a_missing_or_empty_ledger_beside_a_run_is_refused_and_none_is_made(
    tmp_path: Path, beside: str, read_only: bool
) -> None:
    (tmp_path / beside).mkdir() if beside == "models" else (tmp_path / beside).write_text(
        '{"run_id":"r1","round_index":1,"state_sha":""}'
    )
    with pytest.raises(UsageError, match=rf"is missing, and {beside} beside it is of a run: .*put back a copy"):
        open_ledger(tmp_path, read_only=read_only)
    assert [path.name for path in tmp_path.iterdir()] == [beside]
    (tmp_path / "ledger.sqlite").touch()
    with pytest.raises(UsageError, match=rf"is empty, and {beside} beside it is of a run"):
        open_ledger(tmp_path, read_only=read_only)
    assert (tmp_path / "ledger.sqlite").stat().st_size == 0


def test_a_ledger_that_went_back_is_refused(run: Path, killed: Path) -> None:
    with sqlite3.connect(run / "ledger.sqlite") as db:
        db.execute("UPDATE rounds SET state_sha = NULL, result = NULL WHERE round_index > 4")
    with pytest.raises(UsageError, match="ends with round 4, and round 6 was committed: it was lost or replaced"):
        open_ledger(run)


def test_a_ledger_of_another_run_or_state_is_refused(run: Path) -> None:
    with sqlite3.connect(run / "ledger.sqlite") as db:
        db.execute("UPDATE rounds SET state_sha = 'other' WHERE round_index = 6")
    with pytest.raises(UsageError, match="has another state after round 6 than was committed"):
        open_ledger(run)
    with sqlite3.connect(run / "ledger.sqlite") as db:
        db.execute("UPDATE run SET value = 'r2' WHERE key = 'run_id'")
    with pytest.raises(UsageError, match=r"is of run r2, and committed\.json beside it of run r1"):
        open_ledger(run)


def test_a_ledger_one_round_ahead_of_its_witness_goes_on(run: Path) -> None:
    with sqlite3.connect(run / "ledger.sqlite") as db:
        db.execute("UPDATE rounds SET state_sha = 'sha-7', result = '{}' WHERE round_index = 7")
    assert _read_all(run, read_only=False) == 7


def test_a_first_start_that_was_killed_before_the_run_had_an_id_goes_on(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger.set_setting("settings", "{}")
    ledger.close()
    (tmp_path / "settings.json").write_text("{}")
    open_ledger(tmp_path).close()


def test_a_run_of_before_has_no_witness_and_goes_on(run: Path) -> None:
    (run / "committed.json").unlink()
    assert _read_all(run, read_only=False) == COMMITTED


def test_a_damaged_witness_says_what_to_do(run: Path) -> None:
    (run / "committed.json").write_bytes(b"\xff{")
    with pytest.raises(UsageError, match=r"committed\.json' cannot be read .* remove it if the ledger"):
        open_ledger(run)


def test_a_database_of_something_else_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE birds (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(UsageError, match="is no ledger, but a database of something else"):
        open_ledger(tmp_path)
    assert path.read_bytes() == before


def test_a_ledger_that_is_a_folder_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").mkdir()
    with pytest.raises(UsageError, match=r"ledger\.sqlite' cannot be used: unable to open database file"):
        open_ledger(tmp_path)


def test_after_a_checkpoint_the_write_ahead_file_is_empty_and_a_batch_goes_on(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    _round(ledger, 1)
    ledger.checkpoint()
    assert (tmp_path / "ledger.sqlite-wal").stat().st_size == 0

"""A run folder that was damaged while its aggregator was dead: with real processes, told in a sentence or survived."""

import json
import random
import shutil
from pathlib import Path
from signal import SIGKILL

import pytest

from aggregator.demo.broker import Broker
from aggregator.demo.plan import Options, make_plan
from tests.e2e.harness import espalier, fleet, params_bytes, undisturbed_bytes

pytestmark = pytest.mark.e2e

OPTIONS = Options(rounds=4, devices=2, noise="none", seed=5, tables={"training": {"local_epochs": 60}})


def _flip(path: Path, at_share: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at_share)] ^= 0xFF
    path.write_bytes(data)


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("at_share", [0.1, 0.6])
def test_a_flipped_byte_in_the_write_ahead_file_costs_the_open_round_at_most(
    tmp_path: Path, broker: Broker, at_share: float
) -> None:
    expected = undisturbed_bytes(OPTIONS, make_plan(OPTIONS, tmp_path / "plan"), tmp_path / "in-process")
    with fleet(OPTIONS, tmp_path / "run", broker.port) as run:
        run.start_all()
        run.wait_for("round_opened", round_index=3)
        run.end("aggregator", SIGKILL)
        _flip(run.folder / "ledger.sqlite-wal", at_share)
        run.start("aggregator")
        run.finish()
        started = [e for e in run.events() if e["event"] == "started"]
        assert [e["round_index"] for e in started] == [1, 3]
    assert params_bytes(run.folder) == expected


def test_a_damaged_or_lost_ledger_is_one_sentence_in_every_command_and_nothing_is_touched(
    tmp_path: Path, broker: Broker
) -> None:
    with fleet(OPTIONS, tmp_path / "run", broker.port) as run:
        run.start_all()
        run.wait_for("round_opened", round_index=3)
        run.end("aggregator", SIGKILL)
        ledger, whole = run.folder / "ledger.sqlite", tmp_path / "whole"
        shutil.copytree(run.folder, whole)
        for how in ("scrambled", "foreign", "empty", "missing"):
            if how == "missing":
                ledger.unlink()
            else:
                size = ledger.stat().st_size
                scrambled = ledger.read_bytes()[:4096] + random.Random(1).randbytes(size - 4096)
                ledger.write_bytes({"scrambled": scrambled, "foreign": b"a letter, " * 900, "empty": b""}[how])
            before = _bytes_of(run.folder / "blobs")
            lines = [["run", "--config", run.folder / "aggregator.toml"]]
            lines += [[name, run.folder] for name in ("status", "rounds", "devices")]
            for line in lines:
                ended = espalier("aggregator", *line)
                assert (ended.returncode, len(ended.stderr.strip().splitlines())) == (2, 1), (how, ended.stderr)
                assert "ledger.sqlite' is " in ended.stderr
                assert "put back a copy of the run folder" in ended.stderr
            assert _bytes_of(run.folder / "blobs") == before
            assert how != "missing" or not ledger.exists()
            for name in ("ledger.sqlite", "ledger.sqlite-wal"):  # as the way to recover says
                shutil.copy(whole / name, run.folder / name)
            (run.folder / "ledger.sqlite-shm").unlink(missing_ok=True)
            (status,) = json.loads(espalier("aggregator", "status", run.folder, "--json").stdout)
            assert status["rounds_committed"] == 2
        run.start("aggregator")
        run.finish()


PLACES = ("blobs", "artifacts", "committed.json", "settings.json", "ledger.sqlite")


@pytest.mark.parametrize("place", PLACES)
def test_a_folder_where_a_file_should_be_or_the_other_way_round_is_one_sentence(
    tmp_path: Path, broker: Broker, place: str
) -> None:
    with fleet(OPTIONS, tmp_path / "run", broker.port) as run:
        path = run.folder / place
        path.mkdir() if "." in place else path.touch()
        ended = espalier("aggregator", "run", "--config", run.folder / "aggregator.toml")
        assert (ended.returncode, len(ended.stderr.strip().splitlines())) == (2, 1), ended.stderr
        assert place in ended.stderr

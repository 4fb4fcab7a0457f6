"""One aggregator at a time on a run folder: a second one is refused by name, and death lets go of the folder."""

import os
from pathlib import Path
from signal import SIGKILL, SIGSTOP

import pytest

from aggregator.demo.broker import Broker
from aggregator.demo.plan import Options
from aggregator.run_lock import holding
from device_runtime.wire.errors import UsageError
from tests.e2e.harness import espalier, fleet

pytestmark = pytest.mark.e2e

OPTIONS = Options(rounds=2, devices=2, noise="none", seed=3)


def test_a_second_aggregator_is_refused_naming_the_first_while_readers_go_on(tmp_path: Path, broker: Broker) -> None:
    with fleet(OPTIONS, tmp_path / "run", broker.port) as run:
        run.start("aggregator")
        run.wait_for("started")
        config = run.folder / "aggregator.toml"
        for _ in range(2):
            second = espalier("aggregator", "run", "--config", config)
            assert second.returncode == 2
            assert f"in use by process {run.running['aggregator'].pid}: one aggregator" in second.stderr
            assert len(second.stderr.strip().splitlines()) == 1
            run.signal("aggregator", SIGSTOP)  # one that hangs holds it too
        assert espalier("aggregator", "status", run.folder).returncode == 0
        run.end("aggregator", SIGKILL)
        run.start_all()
        run.finish()


def test_a_folder_that_was_made_for_the_lock_alone_goes_with_it(tmp_path: Path) -> None:
    with holding(tmp_path / "new"):
        assert (tmp_path / "new" / "lock").read_text() == str(os.getpid())
        with pytest.raises(UsageError, match=f"in use by process {os.getpid()}"), holding(tmp_path / "new"):
            pass
    assert not (tmp_path / "new").exists()


def test_a_folder_with_a_run_in_it_stays(tmp_path: Path) -> None:
    for _ in range(2):
        with holding(tmp_path / "run"):
            (tmp_path / "run" / "ledger.sqlite").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["ledger.sqlite"]


def test_a_file_where_the_folder_should_be_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    words = r"run' cannot be used: .*run: File exists; mend that"
    with pytest.raises(UsageError, match=words), holding(tmp_path / "run"):
        pass


def test_a_demo_does_not_clear_the_folder_of_one_that_runs(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "processes.json").write_text("[]")
    with holding(folder):
        ended = espalier("demo", "--rounds", "1", "--devices", "2", "--out", folder)
        assert ended.returncode == 2
        assert f"in use by process {os.getpid()}" in ended.stderr
        assert (folder / "processes.json").exists()
    assert espalier("demo", "--rounds", "1", "--devices", "2", "--out", folder).returncode == 0

"""Boards are made once per session: the root from its cache, the wheel from this checkout."""

from pathlib import Path

import pytest

from benchmarks.install_size import build_wheel
from tests.arm.board import Board, NoBoardError, make_board, make_root


@pytest.fixture(scope="session")
def arm_root() -> Path:
    """The aarch64 root, or a skip that says why there is none."""
    try:
        return make_root()
    except NoBoardError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's own wheel."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def board(arm_root: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Board:
    """A board with the device runtime, as `pip install espalier-fl` gives it."""
    return make_board(arm_root, wheel, tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="session")
def gateway(arm_root: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Board:
    """A board with the aggregator, as `pip install 'espalier-fl[aggregator]'` gives it."""
    return make_board(arm_root, wheel, tmp_path_factory.mktemp("gateway"), "aggregator")

"""The boards and sources that come with Espalier, read from their TOML files."""

from functools import cache
from importlib.resources import files

from device_runtime.wire.errors import UsageError
from firmware_profiles.schema import Board, Source, parse_board, parse_sources

_SOURCES = "sources.toml"


@cache
def load_sources() -> dict[str, Source]:
    """Where the numbers come from, by key."""
    return parse_sources(files("firmware_profiles").joinpath(_SOURCES).read_text(encoding="utf-8"), _SOURCES)


@cache
def load_boards() -> dict[str, Board]:
    """All boards by id, in the order of their ids. Raises UsageError naming the file and the key that is wrong."""
    boards = {}
    for path in sorted(files("firmware_profiles.boards").iterdir(), key=lambda p: p.name):
        if path.name.endswith(".toml"):
            board = parse_board(path.read_text(encoding="utf-8"), f"boards/{path.name}", load_sources())
            if path.name != f"{board.id}.toml":
                raise UsageError(f"boards/{path.name}: id is {board.id!r}; the file is named for it.")
            boards[board.id] = board
    return boards


def load_board(board_id: str) -> Board:
    """One board. Raises UsageError that lists the ids there are."""
    boards = load_boards()
    if board_id not in boards:
        raise UsageError(f"there is no board {board_id!r}; boards are: {', '.join(boards)}.")
    return boards[board_id]

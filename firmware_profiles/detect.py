"""Which board this is, how certainly, and why: rules of the TOML files against the facts of a machine."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from firmware_profiles.catalogue import load_boards
from firmware_profiles.facts import Facts, read_facts
from firmware_profiles.schema import Board, Memory, Power, Thermal

Certainty = Literal["board", "architecture", "none"]
ARCHITECTURES = {"arm64": "aarch64", "amd64": "x86_64"}


@dataclass(frozen=True, slots=True)
class Detection:
    """The answer. `certainty` "architecture" means that only a fallback fits: its speed, power and heat are unknown
    and left out of `board`. `reasons` say what decided, `doubts` what speaks against it."""

    board: Board | None
    certainty: Certainty
    reasons: tuple[str, ...]
    doubts: tuple[str, ...]
    facts: Facts


def detect_board(root: Path = Path("/"), architecture: str | None = None) -> Detection:
    """Which of our boards the machine below `root` is."""
    return detect(read_facts(root, architecture), load_boards())


def detect(facts: Facts, boards: Mapping[str, Board]) -> Detection:
    """The board whose rules fit best: by device tree first, most specific name first, then by model, then by
    architecture."""
    architecture = ARCHITECTURES.get(facts.architecture, facts.architecture)
    ranked = [
        (rank, board, reason) for board in boards.values() if (found := _fit(board, facts)) for rank, reason in [found]
    ]
    if ranked:
        _rank, board, reason = min(ranked, key=lambda r: r[0])
        return Detection(board, "board", (reason, *_agreeing(board, facts)), _doubts(board, facts, architecture), facts)
    for board in boards.values():
        if board.match.fallback and board.match.architecture == architecture:
            return Detection(
                _unmeasured(board), "architecture", _fallback_reasons(facts, architecture), _virtual(facts), facts
            )
    reason = f"no board of ours has a processor of architecture {facts.architecture!r}"
    return Detection(None, "none", (reason,), (), facts)


def _fit(board: Board, facts: Facts) -> tuple[int, str] | None:
    """How specific the strongest rule that fits is (0 is the most specific), and its words."""
    match = board.match
    for place, name in enumerate(facts.compatible):
        if name in match.compatible:
            return place, f"the device tree is compatible with {name!r}"
    if match.model and facts.model and re.search(match.model, facts.model):
        return 100, f"the device tree's model is {facts.model!r}"
    if match.cpu_model and re.search(match.cpu_model, facts.cpu_model):
        return 200, f"the processor is {facts.cpu_model!r}"
    return None


def _agreeing(board: Board, facts: Facts) -> tuple[str, ...]:
    cores = sorted(set(facts.midr) & set(board.match.midr))
    return (f"its cores are {', '.join(cores)} (MIDR implementer and part), as that board's",) if cores else ()


def _doubts(board: Board, facts: Facts, architecture: str) -> tuple[str, ...]:
    doubts = list(_virtual(facts))
    if board.match.midr and facts.midr and not set(facts.midr) & set(board.match.midr):
        doubts.append(
            f"the cores are {', '.join(sorted(set(facts.midr)))} (MIDR), but that board has "
            f"{', '.join(board.match.midr)}: is the device tree another board's?"
        )
    if architecture != board.match.architecture:
        doubts.append(
            f"the system is {facts.architecture}, not {board.match.architecture}: onnxruntime has wheels for the "
            "64-bit system only; flash a 64-bit image"
        )
    return tuple(doubts)


def _virtual(facts: Facts) -> tuple[str, ...]:
    return (f"it runs under {facts.hypervisor}: times measured here are no board's",) if facts.hypervisor else ()


def _fallback_reasons(facts: Facts, architecture: str) -> tuple[str, ...]:
    named = facts.model or facts.cpu_model
    nearest = f"none of our boards matches {named!r}" if named else "there is no device tree and no name of a processor"
    return nearest, f"the architecture is {architecture}"


def _unmeasured(board: Board) -> Board:
    """A fallback without the numbers of a machine that this is not."""
    return msgspec.structs.replace(
        board, clusters=(), memory=Memory(), linpack_fp64=None, power=Power(), thermal=Thermal()
    )

"""How many threads training gets: what the settings say, else what the board's file says, else every usable core."""

from pathlib import Path

from device_runtime.metering.system import usable_cores


def training_threads(asked: int, root: Path = Path("/"), architecture: str | None = None) -> int:
    """`asked` if it is not 0; else the threads of the board that this is (`firmware_profiles/boards`), at most the
    usable cores; else all usable cores. `root` is where /proc and /sys are read."""
    if asked:
        return asked
    from firmware_profiles.detect import detect_board  # thirteen files, read only where they are asked for

    found = detect_board(root, architecture)
    suggested = found.board.onnxruntime.intra_threads if found.board and found.certainty == "board" else None
    cores = usable_cores()
    return min(int(suggested.value), cores) if suggested and suggested.value else cores

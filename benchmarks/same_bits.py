"""Whether two checkouts end with the same bits: every option of the demo over seeds, and every rule of the settings.

    python -m benchmarks.same_bits record --checkout DIR --seeds 1-5 --json A.json   # with DIR/.venv
    python -m benchmarks.same_bits compare A.json B.json

A record holds, for each run, digests of the final parameters, of what the ledger says of every round (assignments with
the hashes of all they name, updates, verdicts) and of result.json. Left out: times, memory, temperatures, bytes of
traffic (they hold measurements, whose length varies), the run's random id, the echo of the settings (its tables may be
named anew) and the blob of the state (its form may change; all that is sent from it is compared).
"""

import argparse
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

DEMOS: dict[str, tuple[str, ...]] = {
    "default": (),
    "samples": ("--weighting", "samples"),
    "uniform": ("--weighting", "uniform"),
    "keep": ("--residual", "keep"),
    "zero": ("--residual", "zero"),
    "dense": ("--sparsity", "0"),
    "sparsity 0.9": ("--sparsity", "0.9"),
    "dense rounds": ("--dense-rounds", "4"),
    "fp32": ("--update-dtype", "fp32"),
    "int8": ("--update-dtype", "int8"),
    "adamw": ("--optimizer", "adamw", "--lr", "0.003"),
    "plain sgd": ("--momentum", "0", "--batch", "16", "--local-epochs", "2"),
    "portable": ("--engine", "portable"),
    "mixed engines": ("--engine", "portable,ort_training"),
    "cnn": ("--model", "cnn", "--rounds", "4"),
    "resnet8": ("--model", "resnet8", "--rounds", "3"),
    "iid": ("--partition", "iid"),
    "skew": ("--partition", "dirichlet:0.1"),
    "no noise": ("--noise", "none"),
    "two devices": ("--devices", "2"),
    "one device": ("--devices", "1", "--rounds", "6"),
}

# Settings that the demo has no option for: as they were written until tables became rules, and as they are now.
SETTINGS: dict[str, tuple[str, str]] = {
    "static": ('[pruning]\ntopology = "static"', '[topology]\nkind = "static"'),
    "reprune": ('[pruning]\nbetween = "reprune"', '[topology]\nbetween = "reprune"'),
    "grow zero": ('[pruning]\ngrow_value = "zero"', '[topology]\ngrow_value = "zero"'),
    "grow init": ('[pruning]\ngrow_value = "init"', '[topology]\ngrow_value = "init"'),
    "er": ('[pruning]\nlayers = "er"', '[pruning]\nlayers = "er"'),
    "uniform layers": ('[pruning]\nlayers = "uniform"', '[pruning]\nlayers = "uniform"'),
    "erk_sparsity": ('[pruning]\nlayers = "erk_sparsity"', '[pruning]\nlayers = "erk_sparsity"'),
    "share": ('[contribution]\nscore_scale = "share"', '[weighting]\nscore_scale = "share"'),
    "exclude self": ("[contribution]\nexclude_self = true", "[scoring]\nexclude_self = true"),
    "residual mean": ('[contribution]\ncoverage = "residual_mean"', '[combining]\ncoverage = "residual_mean"'),
    "unit step": ('[contribution]\nstep = "unit"', '[combining]\nkind = "unit"'),
    "rescaled step": ('[contribution]\nstep = "rescaled"', '[combining]\nkind = "rescaled"'),
    "rates by contribution": ('[rates]\npolicy = "contribution"', '[rates]\nkind = "contribution"'),
    "nesterov": ("[training]\nnesterov = true", "[training]\nnesterov = true"),
}

_TIMED = ("_s", "_ms", "_ms_p50", "_ms_p90", "_ms_p99", "_mb", "_mb_peak", "_hz", "_c", "_per_s")
_LEFT_OUT = {"settings", "versions", "bytes_up", "bytes_down"}

# Runs in the checkout's own environment: the in-process federation over settings given as TOML.
_IN_PROCESS = """
import hashlib, importlib.util, json, sys, tempfile
from pathlib import Path
import numpy as np
from aggregator.demo.dataset import load_dataset
from aggregator.demo.partition import parse_noise, partition, spoil
from aggregator.settings import load_settings
from aggregator.simulation.in_process import run_in_process
from device_runtime.data import LocalData
from device_runtime.wire.draws import Draws
variants, seed = json.load(sys.stdin)
new = importlib.util.find_spec("aggregator.core.method") is not None
data = load_dataset("digits", "auto", "mlp")
noise = parse_noise("pair:0.4@2", 5)
found = {}
for name, texts in variants.items():
    with tempfile.TemporaryDirectory() as folder:
        held_out = Path(folder) / "held_out.npz"
        np.savez(held_out, x_test=data.x_test, y_test=data.y_test)
        i = data.input
        text = f'''
[run]
folder = "{folder}"
seed = {seed}
held_out = "{held_out}"
[input]
shape = {list(i.shape)}
axes = {list(i.axes)}
scale = {i.scale!r}
mean = {list(i.mean)}
std = {list(i.std)}
[link]
allow_unsigned = true
[rounds]
count = 9
{texts[new]}
'''
        settings = load_settings(Path("same-bits.toml"), text)
        devices = {}
        parts = partition("dirichlet:0.5", data.y_train, data.groups, 5, seed)
        for number, chosen in enumerate(parts, start=1):
            y = data.y_train[chosen]
            if number in noise.devices:
                y = spoil(y, noise, data.class_count, Draws(seed, "noise", number))
            devices[f"device-{number:02d}"] = LocalData(data.x_train[chosen], y, "same-bits")
        run = run_in_process(settings, devices, Path(folder) / "run")
        h = hashlib.sha256()
        for key, value in run.state.model.theta.items():
            h.update(key.encode() + value.tobytes())
        sparse = [getattr(o, "evaluation", o).sparse for o in run.outcomes]
        scores = [[s.accuracy, s.loss, sorted(o.scores.items())] for s, o in zip(sparse, run.outcomes)]
        h.update(json.dumps([scores, run.update_bytes]).encode())
        found[name] = h.hexdigest()
json.dump(found, sys.stdout)
"""


def digest(value: object) -> str:
    """A short hash of a value that JSON can write."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def untimed(value: Any) -> Any:
    """A record without what a clock, a thermometer or the system's memory gave."""
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if k not in _LEFT_OUT and not k.endswith(_TIMED)}
    return [untimed(v) for v in value] if isinstance(value, list) else value


def of_ledger(path: Path) -> list[object]:
    """All rounds of a run's ledger: what was assigned, what came back, what was said of it."""
    db = sqlite3.connect(path)
    rows: list[object] = []
    for index, device, body in db.execute("SELECT round_index, device, body FROM assignments ORDER BY 1, 2"):
        a = msgspec.msgpack.decode(body)
        a["id"] = a["id"].partition("-")[2]
        rows.append(["assignment", index, device, a])
    for index, device, sha, verdict, reason, body in db.execute(
        "SELECT round_index, device, update_sha, verdict, reason, offer FROM updates ORDER BY 1, 2, 3"
    ):
        offer = msgspec.msgpack.decode(body)
        rows.append(["update", index, device, sha, verdict, reason, offer["sample_count"], offer.get("kept_back", [])])
    rows += [["round", *row] for row in db.execute("SELECT round_index, attempt FROM rounds ORDER BY 1")]
    return rows


def run_demo(checkout: Path, options: tuple[str, ...], seed: int) -> dict[str, str]:
    """One demo of the checkout, as digests."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        # In the checkout's folder: the demo's processes are started as modules, which the current folder comes before.
        command = [checkout / ".venv/bin/espalier", "demo", "--out", out, "--seed", str(seed), "--json", *options]
        done = subprocess.run(
            [str(c) for c in command], capture_output=True, text=True, timeout=600, check=False, cwd=checkout
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(options)} seed {seed}: {done.stderr[-2000:]}")
        result = json.loads((out / "result.json").read_text())
        return {
            "params": result["final"]["params_sha"][:16],
            "ledger": digest(of_ledger(out / "ledger.sqlite")),
            "result": digest(untimed(result)),
        }


def run_settings(checkout: Path, variants: dict[str, tuple[str, str]], seed: int) -> dict[str, dict[str, str]]:
    """The in-process runs of the checkout, as digests."""
    done = subprocess.run(
        [str(checkout / ".venv/bin/python"), "-c", _IN_PROCESS],
        input=json.dumps([variants, seed]), capture_output=True, text=True, cwd=checkout, timeout=3000, check=False,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return {name: {"run": value[:16]} for name, value in json.loads(done.stdout.splitlines()[-1]).items()}


def record(checkout: Path, seeds: list[int], only: list[str]) -> dict[str, dict[str, str]]:
    """Digests by "variant, seed"; what is done is told as it is done."""
    found: dict[str, dict[str, str]] = {}
    for seed in seeds:
        chosen = {n: t for n, t in SETTINGS.items() if not only or n in only}
        if chosen:
            found |= {f"{n}, seed {seed}": d for n, d in run_settings(checkout, chosen, seed).items()}
        for name, options in DEMOS.items():
            if not only or name in only:
                found[f"demo {name}, seed {seed}"] = run_demo(checkout, options, seed)
                print(f"demo {name}, seed {seed}: {found[f'demo {name}, seed {seed}']}", file=sys.stderr, flush=True)
    return found


def compare(a: dict[str, dict[str, str]], b: dict[str, dict[str, str]]) -> list[str]:
    """What differs, a line each; runs that only one record has are left out."""
    return [
        f"{run}: {what} differs"
        for run in sorted(a.keys() & b.keys())
        for what in a[run]
        if a[run][what] != b[run][what]
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("--checkout", type=Path, default=Path())
    recording.add_argument("--seeds", default="1-5")
    recording.add_argument("--only", default="", help="variants, comma-separated")
    recording.add_argument("--json", type=Path, required=True)
    comparing = commands.add_parser("compare")
    comparing.add_argument("a", type=Path)
    comparing.add_argument("b", type=Path)
    options = parser.parse_args()
    if options.command == "record":
        first, _, last = options.seeds.partition("-")
        only = [name.strip() for name in options.only.split(",") if name.strip()]
        found = record(options.checkout.resolve(), list(range(int(first), int(last or first) + 1)), only)
        options.json.write_text(json.dumps(found, indent=1))
        return
    a, b = (json.loads(path.read_text()) for path in (options.a, options.b))
    differing = compare(a, b)
    print("\n".join(differing) if differing else f"{len(a.keys() & b.keys())} runs compared, all equal")
    raise SystemExit(bool(differing))


if __name__ == "__main__":
    main()

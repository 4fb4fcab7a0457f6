"""A TFLite model as C source for TFLite Micro: an aligned array, its size, and a header that says what it needs."""

import dataclasses
import os
import re
import tempfile
from pathlib import Path

import msgspec

from device_runtime.wire.errors import UsageError
from device_runtime.wire.support import sha256_hex
from export.deploy.budget import Need, tensor_bytes
from export.deploy.deployment import Report, Request, deploy_tflite
from export.deploy.facts import Inspection
from export.deploy.provenance import Provenance
from export.tflite.flatbuffer import load_schema
from export.tflite.reading import read_model

_PER_LINE = 16


class CReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was written, what it needs, and the report of the model inside."""

    file: str
    header: str
    need: Need
    model: Report


def deploy_c(request: Request, *, flash_bytes: int | None, ram_bytes: int | None) -> CReport:
    """Write the TFLite model of a request as `out` (C) and a header of the same name, proven as the TFLite file is.

    Raises UsageError as `deploy_tflite` does, for a name that is no C file's, and for a model that does not fit the
    budgets; then nothing is left under either name.
    """
    out = request.out
    if out.suffix not in (".c", ".cc", ".cpp"):
        raise UsageError(f"{out} is no name of a C file: let it end in .c, .cc or .cpp")
    header = out.with_suffix(".h")
    try:
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / f"{out.stem}.tflite"
            report = deploy_tflite(_replaced(request, model))
            data = model.read_bytes()
        need = Need(flash_bytes=len(data), ram_bytes=_ram(data), flash_limit=flash_bytes, ram_limit=ram_bytes)
        if need.over():
            raise UsageError(f"{out.name} does not fit: {'; '.join(need.over())}; prune more, use --int8, or give more")
    except UsageError:
        out.unlink(missing_ok=True)
        header.unlink(missing_ok=True)
        raise
    report = msgspec.structs.replace(report, file=str(out))
    _write(header, header_text(_symbol(out), header.name, report.inspection, need, sha256_hex(data)))
    _write(out, source_text(_symbol(out), header.name, data))
    return CReport(file=str(out), header=str(header), need=need, model=report)


def _replaced(request: Request, out: Path) -> Request:
    """The same request for a file elsewhere; TFLite Micro unpacks no sparse tensors."""
    return dataclasses.replace(request, out=out, compact=False)


def _ram(data: bytes) -> int:
    types = {n: name for name, n in vars(load_schema().TensorType).items() if isinstance(n, int)}
    return tensor_bytes(read_model(data), types)


def _symbol(out: Path) -> str:
    """A C name from a file's.

    >>> _symbol(Path("build/3d-model.c"))
    'm_3d_model'
    """
    name = re.sub(r"[^0-9A-Za-z_]", "_", out.stem)
    return f"m_{name}" if not name or name[0].isdigit() else name


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text)
        os.replace(beside, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}): choose another place") from error


def header_text(symbol: str, name: str, found: Inspection, need: Need, sha: str) -> str:
    """The header: declarations, and in a comment the operators to register, shapes and needs."""
    guard = re.sub(r"[^0-9A-Z]", "_", name.upper()) + "_"
    model = found.provenance.model if found.provenance else symbol
    facts = [*_meaning(found.provenance), f"sha256     {sha}", *_needs(found, need)]
    comment = "\n".join(f" * {fact}" for fact in facts)
    return f"""/* {model}: a TFLite model, written by espalier.
{comment}
 */
#ifndef {guard}
#define {guard}

#ifdef __cplusplus
extern "C" {{
#endif

extern const unsigned char {symbol}[];
extern const unsigned int {symbol}_size;
#define {symbol.upper()}_TENSOR_BYTES {need.ram_bytes}

#ifdef __cplusplus
}}
#endif

#endif /* {guard} */
"""


def _meaning(provenance: Provenance | None) -> list[str]:
    """What goes in and what comes out, where the model says."""
    facts = []
    if provenance and provenance.labels:
        facts.append(f"labels     {', '.join(label.replace('*/', '') for label in provenance.labels)}")
    if provenance and provenance.input:
        spec = provenance.input
        facts.append(
            f"raw data   times {spec.scale!r}, minus {list(spec.mean)}, divided by {list(spec.std)} per channel"
        )
    return facts


def _needs(found: Inspection, need: Need) -> list[str]:
    """Shapes, bytes, and the operators to register."""
    used = sorted({layer.op for layer in found.layers})
    return [
        *(f"input      {n} {'x'.join(map(str, s))}" for n, s in found.inputs.items()),
        *(f"output     {n} {'x'.join(map(str, s))}" for n, s in found.outputs.items()),
        f"flash      {need.flash_bytes} bytes",
        f"RAM        {need.ram_bytes} bytes of tensors, and what the arena adds",
        f"operators  {len(used)} for a MicroMutableOpResolver: {', '.join(used)}",
    ]


def source_text(symbol: str, header: str, data: bytes) -> str:
    """The array, aligned to 16 bytes, in C11 and C++11."""
    rows = [
        "  " + ", ".join(f"0x{byte:02x}" for byte in data[i : i + _PER_LINE]) + ","
        for i in range(0, len(data), _PER_LINE)
    ]
    return "\n".join(
        [
            f'#include "{header}"',
            "",
            "#ifdef __cplusplus",
            "#define ALIGNED_16 alignas(16)",
            "#else",
            "#define ALIGNED_16 _Alignas(16)",
            "#endif",
            "",
            f"ALIGNED_16 const unsigned char {symbol}[] = {{",
            *rows,
            "};",
            "",
            f"const unsigned int {symbol}_size = {len(data)}u;",
            "",
        ]
    )

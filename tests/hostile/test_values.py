"""Values that no training gives are refused before they are journalled, however a peer codes them.

The peer here does not check itself: it writes tensors as they are, past everything that a device of ours would hold
back.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aggregator.core.method import Present
from aggregator.federation import Federation
from aggregator.settings import ModelSection, RunSection, Settings
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.limits import UPDATE_VALUE_MAX
from device_runtime.wire.manifest import InputSpec
from device_runtime.wire.messages import Assignment
from device_runtime.wire.tensors import Tensor, encode_tensors
from tests import fakes

BAD = "fc2.weight"


class Judge:
    """The aggregator's check of an update of a small mlp."""

    def __init__(self, folder: Path) -> None:
        settings = Settings(
            run=RunSection(folder=str(folder)), input=InputSpec(shape=(1, 4, 4)), model=ModelSection(classes=3)
        )
        self.federation = Federation(settings, folder)
        stamp, here = ("run", 1, 0), {"pi-1": Present(20)}
        (self.assignment,), _ = self.federation.assign(self.federation.start(), stamp, {"pi-1": ["portable"]}, here)

    def honest(self, dtype: str = "float32") -> dict[str, Tensor]:
        """An update of hundredths, as it travels."""
        supports = self.federation.submodels.supports_of(self.assignment)
        return {name: np.full(s.count, 0.01, dtype) for name, s in supports.items()}

    def check(self, tensors: dict[str, Tensor]) -> None:
        """What the shell asks for when an update is here."""
        data = encode_tensors(tensors)
        of: Assignment = self.assignment
        self.federation.submodels.check(of, fakes.offer(of, data), data)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return Judge(tmp_path_factory.mktemp("run"))


def spoilt(tensors: dict[str, Tensor], value: float) -> dict[str, Tensor]:
    """One value of one tensor is other."""
    values = tensors[BAD].copy()
    values[3] = value
    return {**tensors, BAD: values}


def quantised(tensors: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """One tensor as int8 of this scale, with a value of -127."""
    values = np.zeros(tensors[BAD].size, np.int8)
    values[3] = -127
    return {**tensors, BAD: values, f"{BAD}#scale": np.array([scale], np.float32)}


CASES: dict[str, tuple[Callable[[Judge], dict[str, Tensor]], str]] = {
    "fp32 too far": (lambda j: spoilt(j.honest(), 1e38), f"tensor '{BAD}' moves a value by 1e[+]38; .* than 1e[+]10"),
    "fp32 too far down": (lambda j: spoilt(j.honest(), -2e10), f"tensor '{BAD}' moves a value by 2e[+]10"),
    "int8 too far": (lambda j: quantised(j.honest(), 1e36), f"tensor '{BAD}' moves a value by 1.27e[+]38"),
    "int8 beyond fp32": (lambda j: quantised(j.honest(), 3e38), f"tensor '{BAD}' has values that are not finite"),
    "int8 of no scale": (lambda j: quantised(j.honest(), np.inf), f"tensor '{BAD}' has values that are not finite"),
    "fp32 NaN": (lambda j: spoilt(j.honest(), np.nan), f"tensor '{BAD}' has values that are not finite"),
    "fp32 infinity": (lambda j: spoilt(j.honest(), -np.inf), f"tensor '{BAD}' has values that are not finite"),
    "fp16 NaN": (lambda j: spoilt(j.honest("float16"), np.nan), f"tensor '{BAD}' has values that are not finite"),
    "fp16 infinity": (lambda j: spoilt(j.honest("float16"), np.inf), f"tensor '{BAD}' has values that are not finite"),
}


@pytest.mark.parametrize(("make", "why"), CASES.values(), ids=CASES.keys())
def test_values_that_no_training_gives_are_refused_by_name(judge, make, why):
    judge.check(judge.honest())
    with pytest.raises(RemoteWireError, match=why):
        judge.check(make(judge))


def test_the_limit_itself_is_taken_and_the_next_number_is_not(judge):
    limit = np.float32(UPDATE_VALUE_MAX)
    judge.check(spoilt(judge.honest(), float(limit)))
    judge.check(spoilt(judge.honest("float16"), 65504.0))  # the greatest of fp16
    with pytest.raises(RemoteWireError, match="may move none by more"):
        judge.check(spoilt(judge.honest(), float(np.nextafter(limit, np.float32(np.inf)))))

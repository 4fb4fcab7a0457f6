"""The profiles that a run keeps: `RUN/profiles/<device>.json`, whole or absent, and what of them a policy may use."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from device_runtime.profile.record import Profile, decode_profile
from device_runtime.store import write_atomic
from device_runtime.wire.errors import UsageError
from device_runtime.wire.limits import DURATION_NS_MAX
from device_runtime.wire.names import is_name
from device_runtime.wire.support import sha256_hex


@dataclass(frozen=True, slots=True)
class CaseFacts:
    """What a policy needs of a case: what was run, the median step, and whether it may stand for the board."""

    engine: str
    batch: int
    sparsity: float
    step_ns_p50: int
    is_valid: bool


@dataclass(frozen=True, slots=True)
class ProfileFacts:
    """A kept profile without its raw samples. `sha` names its bytes; `verdict` is that of its cases, in words."""

    sha: str
    model: str
    input_shape: tuple[int, ...]
    class_count: int
    is_emulated: bool
    cases: tuple[CaseFacts, ...]
    verdict: str


def profile_facts(data: bytes, source: str) -> ProfileFacts:
    """The facts in the bytes of a profile. Raises UsageError naming `source` when they are no profile."""
    profile = decode_profile(data, source)
    cases = tuple(
        CaseFacts(
            engine=case.engine,
            batch=case.batch,
            sparsity=case.sparsity,
            step_ns_p50=case.step.p50,
            is_valid=case.verdict.may_aggregate and 0 <= case.sparsity < 1 and 0 < case.step.p50 <= DURATION_NS_MAX,
        )
        for case in profile.cases
    )
    subject = profile.subject
    return ProfileFacts(
        sha=sha256_hex(data),
        model=subject.model,
        input_shape=subject.input_shape,
        class_count=subject.class_count,
        is_emulated=bool(profile.machine.emulated),
        cases=cases,
        verdict=verdict_words(profile),
    )


def verdict_words(profile: Profile) -> str:
    """The verdict on all cases: the one they share, or how many of them are valid."""
    kinds = [case.verdict.kind for case in profile.cases]
    if not kinds:
        return "no case"
    return kinds[0] if len(set(kinds)) == 1 else f"{kinds.count('valid')} of {len(kinds)} cases valid"


class KeptProfiles:
    """The folder of a run's profiles, read once; files that are no profiles are as good as absent."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder / "profiles"
        self._facts = read_kept(run_folder)

    @property
    def facts(self) -> Mapping[str, ProfileFacts]:
        """What is kept, by device."""
        return self._facts

    def keep(self, device: str, data: bytes) -> ProfileFacts:
        """Make a device's profile durable, in place of an older one.

        Raises UsageError, a sentence about "it", for bytes that are no profile or a folder that cannot be written.
        """
        facts = profile_facts(data, "it")
        write_atomic(self._folder / f"{device}.json", data)
        self._facts[device] = facts
        return facts


def read_kept(run_folder: Path) -> dict[str, ProfileFacts]:
    """The profiles in a run folder, by device; a file that is no profile is left out."""
    found = {}
    for path in sorted((run_folder / "profiles").glob("*.json")):
        try:
            if is_name(path.stem):
                found[path.stem] = profile_facts(path.read_bytes(), repr(str(path)))
        except (OSError, UsageError):
            continue
    return found

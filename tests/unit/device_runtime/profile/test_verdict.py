"""The verdict: the gravest reason decides, all are kept, and only a valid case is aggregated."""

import pytest

from device_runtime.profile.values import absent, derived
from device_runtime.profile.verdict import judge

CLOSE = derived(0.05, "1")
APART = derived(0.051, "1")


@pytest.fixture
def verdict_of(make_repeat):
    def make(spread=CLOSE, *, emulated="", events=(), threads=1, cores=4, is_stable=True, are_finite=True, **state):
        repeats = [make_repeat([1000] * 10, **state), make_repeat([1000] * 10, events=events, **state)]
        return judge(
            emulated, repeats, spread, threads=threads, cores=cores, is_stable=is_stable, are_finite=are_finite
        )

    return make


def test_valid(verdict_of):
    verdict = verdict_of()
    assert verdict.kind == "valid"
    assert verdict.reasons == ()
    assert verdict.may_aggregate


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ({"emulated": "QEMU", "events": ["under-voltage"], "spread": APART, "is_stable": False}, "emulated"),
        ({"events": ["throttled", "under-voltage"], "spread": APART}, "under-voltage"),
        ({"events": ["frequency capped"], "spread": APART}, "throttled"),
        ({"events": ["soft temperature limit"]}, "throttled"),
        ({"spread": APART}, "noisy"),
        ({"spread": absent("1", "fewer than 3 repeats")}, "noisy"),
        ({"is_stable": False}, "noisy"),
        ({"are_finite": False}, "noisy"),
        ({"others": 3.2}, "noisy"),
        ({"stolen": 0.2}, "noisy"),
    ],
)
def test_the_gravest_reason_decides(verdict_of, state, kind):
    verdict = verdict_of(**state)
    assert verdict.kind == kind
    assert verdict.reasons
    assert not verdict.may_aggregate


def test_all_reasons_are_kept(verdict_of):
    verdict = verdict_of(
        APART, emulated="QEMU", events=["under-voltage", "throttled", "throttled"], is_stable=False, are_finite=False
    )
    assert len(verdict.reasons) == 6
    assert verdict.reasons[2].count("throttled") == 1


@pytest.mark.parametrize(
    ("others", "threads", "cores"), [(3.05, 1, 4), (0.1, 4, 4), (0.3, 4, 4), (None, 4, 4), (1.0, 1, 2)]
)
def test_others_may_use_the_cores_that_we_leave(verdict_of, others, threads, cores):
    assert verdict_of(others=others, threads=threads, cores=cores).kind == "valid"


@pytest.mark.parametrize(("others", "threads", "cores"), [(0.5, 4, 4), (1.2, 1, 2), (0.2, 8, 4)])
def test_but_not_ours(verdict_of, others, threads, cores):
    assert verdict_of(others=others, threads=threads, cores=cores).kind == "noisy"

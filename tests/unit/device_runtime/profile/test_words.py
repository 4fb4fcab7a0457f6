"""A soak in one sentence: rates of the first and the last minute, warmth, and what happened when."""

from device_runtime.profile.record import Soak, SoakMinute
from device_runtime.profile.values import absent, derived, measured
from device_runtime.profile.words import soak_sentence


def minute(steps: int, degrees: float | None, *events: str) -> SoakMinute:
    warmth = absent("°C", "none") if degrees is None else measured(degrees, "°C")
    return SoakMinute(
        step_count=steps,
        seconds=60.0,
        step_p50=measured(1e6, "ns"),
        temperature=warmth,
        frequency=absent("Hz", "none"),
        events=events,
    )


def test_a_board_that_throttles_is_told_with_the_minute():
    minutes = (minute(6000, 48.0), minute(5400, 79.0, "throttled"), minute(4500, 82.0))
    assert soak_sentence(Soak(minutes=minutes, slowdown=derived(-0.25, "1"))) == (
        "a soak of 3 min: 100 steps/s in the first minute, 75 in the last (-25.0 %);"
        " 48 °C to 82 °C; minute 2: throttled"
    )


def test_what_was_not_measured_is_left_out():
    soak = Soak(minutes=(minute(6000, None),), slowdown=absent("1", "the soak lasted one minute"))
    assert soak_sentence(soak) == "a soak of 1 min: 100 steps/s in the first minute, 100 in the last"

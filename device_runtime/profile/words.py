"""What a profile found, in words for the terminal and the page."""

from device_runtime.profile.record import Soak, SoakMinute


def soak_sentence(soak: Soak) -> str:
    """What a soak showed: its first minute against its last, how warm it got, and what happened when."""
    rates = f"{_rate(soak.minutes[0])} steps/s in the first minute, {_rate(soak.minutes[-1])}"
    change = "" if soak.slowdown.value is None else f" ({100 * soak.slowdown.value:+.1f} %)"
    known = [m.temperature.value for m in soak.minutes if m.temperature.value is not None]
    warmth = f"; {known[0]:.0f} °C to {max(known):.0f} °C" if known else ""
    eventful = [f"minute {i}: {', '.join(m.events)}" for i, m in enumerate(soak.minutes, start=1) if m.events]
    events = f"; {'; '.join(eventful)}" if eventful else ""
    minutes = sum(m.seconds for m in soak.minutes) / 60
    return f"a soak of {minutes:.3g} min: {rates} in the last{change}{warmth}{events}"


def _rate(minute: SoakMinute) -> str:
    rate = minute.step_count / minute.seconds
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"

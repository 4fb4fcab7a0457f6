"""What a profile found, in words for the terminal and the page."""

from device_runtime.profile.record import Soak


def soak_sentence(soak: Soak) -> str:
    """What a soak showed: its first minute against its last, how warm it got, and what happened when."""
    first, last = soak.minutes[0], soak.minutes[-1]
    rates = f"{first.step_count / first.seconds:.4g} steps/s in the first minute, {last.step_count / last.seconds:.4g}"
    change = "" if soak.slowdown.value is None else f" ({100 * soak.slowdown.value:+.1f} %)"
    known = [m.temperature.value for m in soak.minutes if m.temperature.value is not None]
    warmth = f"; {known[0]:.0f} °C to {max(known):.0f} °C" if known else ""
    told = [f"minute {i}: {', '.join(m.events)}" for i, m in enumerate(soak.minutes, start=1) if m.events]
    events = f"; {'; '.join(told)}" if told else ""
    return f"a soak of {len(soak.minutes)} min: {rates} in the last{change}{warmth}{events}"

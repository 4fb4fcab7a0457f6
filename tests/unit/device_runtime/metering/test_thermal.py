"""Heat: throttle and voltage events as differences, governor and temperature, from captured trees and answers."""

import pytest

from device_runtime.metering.thermal import Thermometer, Throttling, events_between, latched, now, vcgencmd


def firmware(bits):
    return lambda question: f"throttled={bits}\n" if question == "get_throttled" else None


def silent(_question):
    return None


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def test_the_firmware_tells_its_bits(tmp_path):
    assert Thermometer(tmp_path, firmware("0x50005")).throttling() == Throttling(bits=0x50005)
    assert Thermometer(tmp_path, firmware("0x0")).throttling() == Throttling(bits=0)


def test_the_kernel_is_asked_before_the_firmware(tmp_path):
    tree = write(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": "80008"})
    assert Thermometer(tree, silent).throttling().bits == 0x80008


def test_without_firmware_nothing_is_known_and_it_is_asked_once(tmp_path):
    asked = []

    def refuse(question):
        asked.append(question)

    thermometer = Thermometer(tmp_path, refuse)
    assert thermometer.throttling() == Throttling(None, None)
    thermometer.throttling()
    assert asked == ["get_throttled"]
    assert Thermometer(tmp_path, lambda _: "VCHI initialization failed").throttling() == Throttling(None, None)


def test_a_program_that_is_not_there_answers_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert vcgencmd("get_throttled") is None


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (0x0, 0x0, ()),
        (0x50000, 0x50000, ()),  # of before the run
        (0x0, 0x10000, ("under-voltage",)),  # came and went in between
        (0x0, 0xE0008, ("frequency capped", "throttled", "soft temperature limit")),
        (0x50005, 0x50000, ("under-voltage", "throttled")),  # held when the run began
        (0x10000, 0x50000, ("throttled",)),
    ],
)
def test_a_run_is_charged_with_what_happened_in_it(before, after, expected):
    assert events_between([Throttling(bits=before), Throttling(bits=after)]) == expected


def test_what_holds_and_what_was_latched_are_told_apart():
    state = Throttling(bits=0x50008)
    assert now(state) == ("soft temperature limit",)
    assert latched(state) == ("under-voltage", "throttled")
    assert now(Throttling()) == latched(Throttling()) == ()


def test_an_x86_core_that_counted_throttling_was_throttled(tmp_path):
    name = "sys/devices/system/cpu/cpu{}/thermal_throttle/core_throttle_count"
    thermometer = Thermometer(write(tmp_path, {name.format(0): 3, name.format(1): 4}), silent)
    before = thermometer.throttling()
    assert before == Throttling(None, 7)
    write(tmp_path, {name.format(1): 5})
    assert events_between([before, thermometer.throttling()]) == ("throttled",)


def test_no_source_is_no_event():
    assert events_between([Throttling(), Throttling()]) == ()
    assert events_between([]) == ()


def test_temperature_clock_and_governor(tmp_path):
    cpu = "sys/devices/system/cpu/cpu{}/cpufreq/{}"
    files = {"sys/class/thermal/thermal_zone0/temp": 48_312, "sys/class/thermal/thermal_zone1/temp": 51_000}
    files |= {cpu.format(0, "scaling_governor"): "ondemand", cpu.format(4, "scaling_governor"): "performance"}
    files |= {cpu.format(0, "scaling_cur_freq"): 1_500_000, cpu.format(4, "scaling_cur_freq"): 2_400_000}
    thermometer = Thermometer(write(tmp_path, files), silent)
    assert thermometer.temperature_c() == 51.0
    assert thermometer.frequency_hz() == 2_400_000_000
    assert thermometer.governor() == "ondemand, performance"


def test_a_bare_tree_has_neither(tmp_path):
    thermometer = Thermometer(tmp_path, silent)
    assert thermometer.temperature_c() is None
    assert thermometer.frequency_hz() is None
    assert thermometer.governor() == ""

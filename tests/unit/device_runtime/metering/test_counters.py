"""Hardware counters: which events a processor is asked for, how a reading is decoded, and how a refusal is told."""

import errno
import os
import struct
import threading

import pytest

from device_runtime.metering.counters import Count, Counters, Event, attribute, decode, difference, events_of

PARANOID = "proc/sys/kernel/perf_event_paranoid"


@pytest.fixture
def tree(tmp_path):
    def make(**files):
        for name, text in files.items():
            path = tmp_path / "sys/bus/event_source/devices" / name / "type"
            path.parent.mkdir(parents=True)
            path.write_text(f"{text}\n")
        return tmp_path

    return make


def by_name(events):
    found = {}
    for event in events:
        found.setdefault(event.name, []).append((event.kind, event.config))
    return found


def test_a_pi_5_is_asked_for_the_raw_events_of_its_pmu(tree):
    found = by_name(events_of(tree(armv8_cortex_a76=9), "aarch64"))
    assert found["instructions"] == [(9, 0x08)]
    assert found["cycles"] == [(9, 0x11)]
    assert found["l1d_refills"] == [(9, 0x03)]
    assert found["ase_spec"] == [(9, 0x74)]
    assert found["vfp_spec"] == [(9, 0x75)]


def test_a_cortex_a53_has_no_speculated_events(tree):
    found = by_name(events_of(tree(armv8_cortex_a53=8), "aarch64"))
    assert found["instructions"] == [(8, 0x08)]
    assert "ase_spec" not in found


def test_cores_of_two_kinds_have_two_pmus(tree):
    found = by_name(events_of(tree(armv8_cortex_a55=10, armv8_cortex_a76=11), "aarch64"))
    assert found["cycles"] == [(10, 0x11), (11, 0x11)]
    assert found["ase_spec"] == [(11, 0x74)]


def test_an_arm_kernel_without_a_pmu_says_so_for_every_counter(tmp_path):
    with Counters(tmp_path, "aarch64", lambda _: -errno.ENOENT) as counters:
        assert counters.read() == {}
        assert counters.absent["instructions"] == "the kernel lists no PMU of the cores"
        assert counters.absent["ase_spec"] == "the kernel lists no PMU of the cores"


def test_x86_is_asked_for_generic_events(tmp_path):
    found = by_name(events_of(tmp_path, "x86_64"))
    assert found["instructions"] == [(0, 1)]
    assert found["cycles"] == [(0, 0)]
    assert "ase_spec" not in found


def test_a_hybrid_x86_puts_the_pmu_into_the_upper_half(tree):
    found = by_name(events_of(tree(cpu_atom=10, cpu_core=4), "x86_64"))
    assert found["instructions"] == [(0, 1 | 10 << 32), (0, 1 | 4 << 32)]


def test_an_attribute_counts_user_space_of_all_threads():
    data = attribute(Event("x", 9, 0x74))
    kind, size, config, period, sample, form, flags = struct.unpack("=IIQQQQQ", data[:48])
    assert (kind, size, config, period, sample) == (9, len(data), 0x74, 0, 0)
    assert form == 3  # value, enabled, running
    assert flags & 0b10  # inherited by threads
    assert not flags & 0b1  # enabled at once
    assert flags & 1 << 5  # not the kernel


def test_a_shared_counter_is_scaled_and_says_so():
    assert decode(struct.pack("=QQQ", 100, 50, 50)) == Count(100)
    assert decode(struct.pack("=QQQ", 100, 80, 20)) == Count(400, is_scaled=True)
    assert decode(struct.pack("=QQQ", 0, 80, 0)) == Count(0)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "perf_event_paranoid is 3"),
        (errno.EPERM, "perf_event_paranoid is 3"),
        (errno.ENOENT, "has no such counter"),
        (errno.ENOSYS, "no perf_event_open"),
        (errno.EBUSY, "the kernel refused"),
    ],
)
def test_a_refusal_is_told_with_its_reason(tmp_path, number, words):
    (tmp_path / PARANOID).parent.mkdir(parents=True)
    (tmp_path / PARANOID).write_text("3\n")
    with Counters(tmp_path, "x86_64", lambda _: -number) as counters:
        assert counters.read() == {}
        assert words in counters.absent["instructions"]


def test_counts_of_two_pmus_are_added(tree):
    readers = []

    def open_pipe(_attribute):
        reader, writer = os.pipe()
        os.write(writer, struct.pack("=QQQ", 7, 1, 1))
        os.close(writer)
        readers.append(reader)
        return reader

    with Counters(tree(armv8_cortex_a55=10, armv8_cortex_a76=11), "aarch64", open_pipe) as counters:
        found = counters.read()
    assert found["instructions"] == Count(14)
    assert found["ase_spec"] == Count(7)
    with pytest.raises(OSError, match="descriptor"):
        os.read(readers[0], 1)


def test_a_counter_that_one_of_two_pmus_has_is_there(tree):
    def only_a76(data):
        if struct.unpack("=I", data[:4])[0] != 11:
            return -errno.ENOENT
        reader, writer = os.pipe()
        os.write(writer, struct.pack("=QQQ", 7, 1, 1))
        os.close(writer)
        return reader

    with Counters(tree(armv8_cortex_a55=10, armv8_cortex_a76=11), "aarch64", only_a76) as counters:
        assert counters.read()["cycles"] == Count(7)
        assert "cycles" not in counters.absent


def test_difference_keeps_what_both_readings_have():
    before = {"a": Count(5), "gone": Count(1)}
    assert difference(before, {"a": Count(9, is_scaled=True), "new": Count(3)}) == {"a": Count(4, is_scaled=True)}


def test_here_every_event_is_counted_or_has_a_reason():
    with Counters() as counters:
        before = counters.read()
        thread = threading.Thread(target=lambda: sum(i * i for i in range(200_000)))
        thread.start()
        thread.join()
        counted = difference(before, counters.read())
        assert {e.name for e in events_of()} == set(counted) | set(counters.absent)
        assert all(counters.absent.values())
        if "task_clock_ns" in counted:  # threads that start later are counted
            assert counted["task_clock_ns"].value > 0

"""Memory: proportional share, swap and peak from a captured proc tree, and their absence."""

from device_runtime.metering.memory import MemoryUse, memory_use

ROLLUP = """5555a000-7ffe9000 ---p 00000000 00:00 0                          [rollup]
Rss:              120000 kB
Pss:               98765 kB
Pss_Dirty:         60000 kB
Pss_Anon:          61000 kB
Swap:                128 kB
SwapPss:              64 kB
"""


def test_a_pi_tells_all(tmp_path):
    (tmp_path / "self").mkdir()
    (tmp_path / "self/smaps_rollup").write_text(ROLLUP)
    (tmp_path / "self/status").write_text("Name:\tpython\nVmHWM:\t  130000 kB\nThreads:\t4\n")
    (tmp_path / "meminfo").write_text("MemAvailable: 900000 kB\nSwapTotal:  524288 kB\nSwapFree:   520192 kB\n")
    assert memory_use(tmp_path) == MemoryUse(
        pss=98765 * 1024,
        pss_anonymous=61000 * 1024,
        swap_pss=64 * 1024,
        rss_peak=130000 * 1024,
        swap_used=4096 * 1024,
        available=900000 * 1024,
    )


def test_nothing_is_guessed(tmp_path):
    assert memory_use(tmp_path) == MemoryUse(None, None, None, None, None, None)


def test_half_of_swap_is_no_swap(tmp_path):
    (tmp_path / "meminfo").write_text("SwapTotal: 524288 kB\nHugePages_Total: 0\nMemAvailable: many kB\n")
    assert memory_use(tmp_path).swap_used is None


def test_here_it_reads_this_process():
    use = memory_use()
    assert use.rss_peak is None or use.rss_peak > 1_000_000

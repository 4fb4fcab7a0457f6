"""Energy: RAPL, INA2xx and PMIC from captured trees and answers, and their absence."""

import pytest

from device_runtime.metering.energy import Fit, SampledMeter, find_meter, integral, pmic_watts

# An excerpt of `vcgencmd pmic_read_adc` on a Raspberry Pi 5.
PMIC = """ 3V7_WL_SW_A current(0)=0.09759150A
 3V3_SYS_A current(1)=0.07319363A
  VDD_CORE_A current(7)=1.20000000A
 3V7_WL_SW_V volt(8)=3.72267000V
 3V3_SYS_V volt(9)=3.31257600V
  VDD_CORE_V volt(15)=0.85000000V
  EXT5V_V volt(24)=5.15270000V
    BATT_V volt(25)=0.00000000V
"""
SUM_W = 0.09759150 * 3.72267 + 0.07319363 * 3.312576 + 1.2 * 0.85


def silent(_question):
    return None


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


RAPL = {
    "sys/class/powercap/intel-rapl:0/name": "package-0",
    "sys/class/powercap/intel-rapl:0/energy_uj": 1_000_000,
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": 262_143_328_850,
    "sys/class/powercap/intel-rapl:0:0/name": "core",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": 700_000,
    "sys/class/powercap/intel-rapl:1/name": "psys",
    "sys/class/powercap/intel-rapl:1/energy_uj": 9_000_000,
}


def test_rapl_counts_packages_and_nothing_twice(tmp_path):
    meter, name = find_meter(write(tmp_path, RAPL), ask=silent)
    assert name == "RAPL"
    assert meter.kind == "measured"
    meter.start()
    write(tmp_path, {"sys/class/powercap/intel-rapl:0/energy_uj": 3_500_000})
    assert meter.stop() == 2.5


def test_rapl_wraps(tmp_path):
    meter, _ = find_meter(write(tmp_path, RAPL | {"sys/class/powercap/intel-rapl:0/max_energy_range_uj": 1_500_000}))
    meter.start()
    write(tmp_path, {"sys/class/powercap/intel-rapl:0/energy_uj": 250_000})
    assert meter.stop() == 0.75


def test_rapl_that_may_not_be_read_is_absent_with_the_reason(tmp_path):
    tree = write(tmp_path, RAPL)
    (tree / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    meter, reason = find_meter(tree, ask=silent)
    assert meter is None
    assert "root only" in reason


def test_rapl_that_vanishes_gives_no_number(tmp_path):
    meter, _ = find_meter(write(tmp_path, RAPL))
    meter.start()
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    assert meter.stop() is None


def test_an_ina226_gives_its_power(tmp_path):
    files = {"sys/class/hwmon/hwmon0/name": "cpu_thermal", "sys/class/hwmon/hwmon2/name": "ina226"}
    files |= {"sys/class/hwmon/hwmon2/power1_input": 5_250_000}
    meter, name = find_meter(write(tmp_path, files), ask=silent)
    assert (name, meter.kind) == ("ina226", "measured")
    assert meter._watts() == 5.25


def test_an_ina3221_gives_the_channel_of_the_whole_board(tmp_path):
    at = "sys/class/hwmon/hwmon1"
    files = {f"{at}/name": "ina3221", f"{at}/in1_label": "VDD_CPU_GPU_CV", f"{at}/in2_label": "VDD_IN"}
    files |= {f"{at}/in1_input": 5000, f"{at}/curr1_input": 100, f"{at}/in2_input": 5000, f"{at}/curr2_input": 1500}
    meter, name = find_meter(write(tmp_path, files), ask=silent)
    assert name == "ina3221"
    assert meter._watts() == pytest.approx(7.5)


def test_a_pi_5_estimates_by_its_pmic_and_the_fit(tmp_path):
    asked = []

    def firmware(question):
        asked.append(question)
        return PMIC

    meter, name = find_meter(tmp_path, Fit(1.1451, 0.5879), firmware)
    assert meter.kind == "estimated"
    assert "1.1451" in name
    assert set(asked) == {"pmic_read_adc"}
    assert meter._watts() == pytest.approx(1.1451 * SUM_W + 0.5879)


def test_a_pmic_without_a_fit_is_rails_only(tmp_path):
    meter, name = find_meter(tmp_path, None, lambda _: PMIC)
    assert name == "PMIC, rails only"
    assert meter._watts() == pytest.approx(SUM_W)


def test_supplies_without_a_current_count_nothing():
    assert pmic_watts(" EXT5V_V volt(24)=5.15V\n", Fit()) is None
    assert pmic_watts('error=1 error_msg="Command not registered"', Fit()) is None
    assert pmic_watts(None, Fit()) is None


def test_no_sensor_names_all_that_is_missing(tmp_path):
    meter, reason = find_meter(tmp_path, ask=silent)
    assert meter is None
    assert all(word in reason for word in ("RAPL", "INA2xx", "PMIC"))


def test_power_is_integrated_over_time():
    assert integral([]) is None
    assert integral([(0.0, 5.0)]) is None
    assert integral([(0.0, 2.0), (1.0, 4.0), (3.0, 4.0)]) == 11.0


def test_a_sampled_meter_integrates_what_it_reads():
    meter = SampledMeter("test", "measured", lambda: 2.0, 0.001)
    meter.start()
    joules = meter.stop()
    assert joules is not None
    assert joules >= 0.0


def test_a_sampled_meter_whose_sensor_fails_gives_no_number():
    meter = SampledMeter("test", "measured", lambda: None, 0.001)
    meter.start()
    assert meter.stop() is None

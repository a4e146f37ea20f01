"""Energy and power state, read from a made-up /sys and /proc: what the machine tells, and that it may not."""

import pytest

from polyfold.benchmark.energy import Domain, counters, measure_energy
from polyfold.benchmark.power import read_power, stolen_seconds


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n", encoding="utf8")
    return root


def rapl(root, name, number, energy=1_000_000):
    folder = f"sys/class/powercap/intel-rapl:{number}"
    return write(
        root,
        {
            f"{folder}/name": name,
            f"{folder}/energy_uj": energy,
            f"{folder}/max_energy_range_uj": 2_000_000,
        },
    )


def test_packages_are_counted_once_and_the_platform_not_at_all(tmp_path):
    for number, name in (("0", "package-0"), ("0:0", "core"), ("1", "package-1"), ("2", "psys")):
        rapl(tmp_path, name, number)
    found = counters(tmp_path)
    assert [domain.name for domain in found.domains] == ["package-0", "package-1"]
    assert found.state == "readable"


def test_a_machine_without_counters_says_so(tmp_path):
    found = counters(tmp_path)
    assert (found.domains, found.state) == ((), "none on this machine")
    assert measure_energy(found, lambda: None, 1, 0.0) is None


def test_unreadable_counters_are_said_to_be_there(tmp_path):
    rapl(tmp_path, "package-0", "0")
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    found = counters(tmp_path)
    assert found.domains == ()
    assert found.state.startswith("there, but unreadable")


def test_a_counter_that_starts_again_from_nought_loses_nothing(tmp_path):
    domain = Domain("package-0", tmp_path, 2_000_000)
    assert domain.joules(500_000, 1_500_000) == 1.0
    assert domain.joules(1_500_000, 500_000) == 1.0


def test_energy_is_what_the_counter_gained_a_thousand_documents(tmp_path):
    rapl(tmp_path, "package-0", "0", energy=0)
    counter = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"

    def call():
        counter.write_text(f"{int(counter.read_text()) + 1000}\n")

    found = measure_energy(counters(tmp_path), call, 4, 0.02, idle=0.01)
    # A thousandth of a joule for four documents is a quarter of one for a thousand.
    assert found.joules_per_1000_documents == pytest.approx(0.25)
    assert found.idle_watts == 0.0
    assert found.watts > 0
    assert found.seconds >= 0.02


def test_the_power_state_is_what_the_machine_tells(tmp_path):
    cpu = "sys/devices/system/cpu"
    write(
        tmp_path,
        {
            f"{cpu}/cpu0/cpufreq/scaling_governor": "performance",
            f"{cpu}/cpu0/cpufreq/scaling_cur_freq": 3_000_000,
            f"{cpu}/cpu1/cpufreq/scaling_governor": "powersave",
            f"{cpu}/cpu1/cpufreq/scaling_cur_freq": 1_000_000,
            f"{cpu}/cpu0/cpufreq/cpuinfo_max_freq": 4_000_000,
            f"{cpu}/cpu0/cpufreq/cpuinfo_min_freq": 800_000,
            f"{cpu}/intel_pstate/no_turbo": 1,
            "sys/class/power_supply/AC/online": 1,
            "sys/fs/cgroup/cpu.max": "150000 100000",
            "proc/cpuinfo": "flags\t: fpu hypervisor avx2",
        },
    )
    found = read_power(tmp_path)
    assert found.governors == ("performance", "powersave")
    assert (found.mhz_least, found.mhz_now, found.mhz_most) == (800.0, 2000.0, 4000.0)
    assert (found.boost, found.mains, found.virtual, found.cpu_quota) == (False, True, True, 1.5)
    said = found.sentence()
    for words in ("governor performance, powersave", "boost off", "2,000 MHz", "virtual machine", "1.5 cores"):
        assert words in said


def test_what_is_not_told_is_none_and_said_to_be_unknown(tmp_path):
    found = read_power(tmp_path)
    assert found.governors == ()
    assert {found.boost, found.mhz_now, found.mains, found.cpu_quota} == {None}
    assert "governor not told" in found.sentence()
    assert 0.0 <= found.others_percent <= 100.0


def test_stolen_time_only_grows():
    first = stolen_seconds()
    assert first is None or stolen_seconds() >= first

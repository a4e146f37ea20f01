"""The machine's state around a run: what sets the clock, and who else is using the processor."""

import os
from pathlib import Path

import psutil

from polyfold.benchmark.energy import counters
from polyfold.benchmark.results import Power

CPUS = Path("sys/devices/system/cpu")
WATCHED_SECONDS = 0.5


def read_power(root: Path = Path("/")) -> Power:
    """What the machine tells; half a second is spent on watching what others do while we do nothing."""
    cpus = root / CPUS
    clocks = sorted(cpus.glob("cpu[0-9]*/cpufreq"))
    now = [_number(one / "scaling_cur_freq") for one in clocks]
    limits = [(_number(one / "cpuinfo_min_freq"), _number(one / "cpuinfo_max_freq")) for one in clocks]
    known = [one for one in now if one is not None]
    lowest = [low for low, _ in limits if low is not None]
    highest = [high for _, high in limits if high is not None]
    preferences = {words for one in clocks if (words := _words(one / "energy_performance_preference"))}
    mhz = sum(known) / len(known) / 1000 if known else _cpuinfo_mhz(root)
    return Power(
        governors=tuple(sorted({words for one in clocks if (words := _words(one / "scaling_governor"))})),
        boost=_boost(cpus),
        energy_preference=", ".join(sorted(preferences)) or None,
        mhz_least=min(lowest) / 1000 if lowest else None,
        mhz_most=max(highest) / 1000 if highest else None,
        mhz_now=mhz,
        mains=_mains(root),
        virtual=_virtual(root),
        cpu_quota=_quota(root),
        load_average=os.getloadavg(),
        others_percent=_others_percent(),
        energy_counters=counters(root).state,
    )


def stolen_seconds() -> float | None:
    """Seconds that the hypervisor gave to others, over all cores; None where it is not told."""
    times = psutil.cpu_times()
    return float(times.steal) if "steal" in times._fields else None


def _others_percent() -> float:
    """The processor's use by anybody else, in percent of all cores."""
    mine = psutil.Process()
    before = mine.cpu_times()
    every = psutil.cpu_percent(interval=WATCHED_SECONDS)
    after = mine.cpu_times()
    own = (after.user + after.system - before.user - before.system) / WATCHED_SECONDS
    return min(100.0, max(0.0, every - 100.0 * own / (os.cpu_count() or 1)))


def _boost(cpus: Path) -> bool | None:
    no_turbo = _number(cpus / "intel_pstate" / "no_turbo")
    if no_turbo is not None:
        return no_turbo == 0
    boost = _number(cpus / "cpufreq" / "boost")
    return None if boost is None else boost == 1


def _mains(root: Path) -> bool | None:
    states = [_number(path / "online") for path in sorted((root / "sys/class/power_supply").glob("*"))]
    known = [one for one in states if one is not None]
    return any(one == 1 for one in known) if known else None


def _virtual(root: Path) -> bool | None:
    info = _words(root / "proc/cpuinfo")
    return None if info is None else " hypervisor" in info


def _cpuinfo_mhz(root: Path) -> float | None:
    lines = (_words(root / "proc/cpuinfo") or "").splitlines()
    found = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return sum(found) / len(found) if found else None


def _quota(root: Path) -> float | None:
    """Cores that a container may use, by either generation of control groups."""
    words = (_words(root / "sys/fs/cgroup/cpu.max") or "").split()
    if len(words) == 2 and words[0].isdigit():
        return int(words[0]) / int(words[1])
    quota = _number(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = _number(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    return quota / period if quota is not None and period and quota > 0 else None


def _words(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf8").strip()
    except (OSError, UnicodeDecodeError):
        return None  # not told, or not to us


def _number(path: Path) -> float | None:
    words = _words(path)
    return float(words) if words is not None and words.lstrip("-").isdigit() else None

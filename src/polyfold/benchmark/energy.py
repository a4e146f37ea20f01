"""Energy from the processor's own counters (RAPL, which Linux shows for Intel and AMD alike), where it tells."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

from polyfold.benchmark.results import Energy

POWERCAP = Path("sys/class/powercap")
IDLE_SECONDS = 1.0


@dataclass(frozen=True)
class Domain:
    """One counter of microjoules, which starts again at `range_uj`."""

    name: str
    folder: Path
    range_uj: int

    def read(self) -> int:
        """Microjoules now."""
        return int((self.folder / "energy_uj").read_text())

    def joules(self, before: int, after: int) -> float:
        """Between two readings, with at most one start from nought in between."""
        return ((after - before) if after >= before else (after - before + self.range_uj)) / 1e6


@dataclass(frozen=True)
class Counters:
    """The packages' counters, and in words whether there are any."""

    domains: tuple[Domain, ...]
    state: str


def counters(root: Path = Path("/")) -> Counters:
    """Every package that can be read; cores and memory inside a package are part of it, and not counted again."""
    folders = sorted((root / POWERCAP).glob("intel-rapl:*")) if (root / POWERCAP).is_dir() else []
    packages = [folder for folder in folders if folder.name.count(":") == 1]
    if not packages:
        return Counters((), "none on this machine")
    try:
        return Counters(tuple(_domains(packages)), "readable")
    except PermissionError:
        return Counters((), "there, but only an administrator may read them")
    except (OSError, ValueError) as error:
        return Counters((), f"there, but unreadable: {error}")


def _domains(packages: list[Path]) -> Iterator[Domain]:
    for folder in packages:
        name = (folder / "name").read_text(encoding="utf8").strip()
        domain = Domain(name, folder, int((folder / "max_energy_range_uj").read_text()))
        domain.read()
        # `psys` is the whole platform and has the packages in it.
        if name != "psys":
            yield domain


def measure_energy(
    found: Counters, call: Callable[[], object], documents: int, seconds: float, idle: float = IDLE_SECONDS
) -> Energy | None:
    """Joules while `call` (of so many documents) is repeated for at least `seconds`; None without counters."""
    if not found.domains:
        return None
    idle_joules, idle_seconds, _ = _metered(found, lambda: sleep(idle), 0.0)
    joules, spent, calls = _metered(found, call, seconds)
    return Energy(
        joules_per_1000_documents=1000.0 * joules / (calls * documents),
        watts=joules / spent,
        idle_watts=idle_joules / idle_seconds,
        seconds=spent,
        domains=tuple(domain.name for domain in found.domains),
    )


def _metered(found: Counters, call: Callable[[], object], seconds: float) -> tuple[float, float, int]:
    """Joules, seconds and calls."""
    before = [domain.read() for domain in found.domains]
    started = perf_counter()
    calls = 0
    while True:
        call()
        calls += 1
        spent = perf_counter() - started
        if spent >= seconds:
            break
    after = [domain.read() for domain in found.domains]
    joules = sum(
        one.joules(*pair) for one, pair in zip(found.domains, zip(before, after, strict=True), strict=True)
    )
    return joules, spent, calls

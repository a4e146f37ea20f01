"""The machine and the process: hardware and versions, seeds, memory, telemetry off."""

import ctypes
import logging
import os
import platform
import random
import resource
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import psutil
from pydantic import BaseModel, ConfigDict

LIBRARIES = (
    "torch", "transformers", "accelerate", "nncf", "onnx", "onnxruntime", "openvino", "tokenizers",
    "sentencepiece", "numpy",
)  # fmt: skip

# Every library that reports home reads one of these; set before any of them is imported.
TELEMETRY_OFF = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "NNCF_TELEMETRY": "0",
    "OPENVINO_TELEMETRY_DISABLE": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class Hardware(BaseModel):
    """Where a figure was measured: it means nothing without."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processor: str
    instructions: tuple[str, ...]
    cores: int
    memory_gb: float
    accelerator: str | None
    system: str
    versions: dict[str, str]


def telemetry_off() -> None:
    """Switch off the telemetry of every library we use, unless the environment already says something."""
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
    # OpenVINO sends an event as soon as it is imported and reads no variable of its own. It and NNCF do without
    # the sender where that cannot be imported, and None is how Python's import system says so.
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


def quiet_imports() -> None:
    """Keep libraries from talking while they are imported.

    transformers imports torchao where that is installed (NNCF needs it), which warns of each kernel file that this
    Python cannot load, and torch of what it does to torchao's types. Nothing here uses either.
    """
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


def cores() -> int:
    """Processor cores this process may use."""
    return len(psutil.Process().cpu_affinity()) if platform.system() == "Linux" else (os.cpu_count() or 1)


def physical_cores() -> int:
    """Of the cores this process may use, those that are no twins of simultaneous multithreading."""
    logical, physical = psutil.cpu_count() or 1, psutil.cpu_count(logical=False) or 1
    return max(1, cores() * min(physical, logical) // logical)


def cache_folder(name: str) -> Path | None:
    """A folder of this user for what is worth keeping between starts; None where the machine has no place for it.

    `POLYFOLD_CACHE` names the root, else it is `polyfold` in `XDG_CACHE_HOME` or `~/.cache`. What lies there may
    be deleted at any time: it is made again.
    """
    given, shared = os.environ.get("POLYFOLD_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        root = Path(given) if given else Path(shared or Path.home() / ".cache") / "polyfold"
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        # A home that cannot be written, or none at all (Path.home() raises RuntimeError): common in containers.
        return None
    return folder if os.access(folder, os.W_OK) else None


def seed_numpy(seed: int) -> None:
    """Seed Python's and numpy's global generators; torch is seeded where it is used."""
    random.seed(seed)
    np.random.seed(seed % 2**32)


def hardware(accelerator: str | None = None) -> Hardware:
    """Describe this machine and the versions of the libraries that decide its speed."""
    return Hardware(
        processor=_processor(),
        instructions=_instructions(),
        cores=cores(),
        memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        accelerator=accelerator,
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        versions={name: version for name in LIBRARIES if (version := _version(name)) is not None},
    )


def peak_memory_mb() -> float:
    """The largest resident size this process has had, in MB (1e6 bytes).

    Linux hands the peak of `getrusage` on to a started program, so a small child of a large parent would report
    its parent's size; VmHWM belongs to this program alone.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def give_memory_back() -> None:
    """Return to the system what was freed and is still held for later: after loading, some tens of megabytes.

    glibc's own; elsewhere nothing is done.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpuinfo(field: str) -> str:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _instructions() -> tuple[str, ...]:
    """The vector instruction sets that decide the speed of int8 and bf16."""
    flags = set(_cpuinfo("flags").split())
    wanted = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    return tuple(name for name in wanted if name in flags)

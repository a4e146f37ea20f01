"""The machine described, seeds, peak memory, and telemetry switched off before anything could send it."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import psutil
import pytest

from polyfold.system import (
    TELEMETRY_OFF,
    cache_folder,
    cores,
    hardware,
    peak_memory_mb,
    physical_cores,
    seed_numpy,
    telemetry_off,
)


def run(code, **environment):
    clean = {name: value for name, value in os.environ.items() if name not in TELEMETRY_OFF}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_telemetry_is_off_unless_the_environment_already_says_something():
    code = (
        "import json, os; from polyfold.system import telemetry_off; telemetry_off(); "
        "print(json.dumps(dict(os.environ)))"
    )
    found = run(code, DO_NOT_TRACK="0")
    assert {name: found[name] for name in TELEMETRY_OFF} == {**TELEMETRY_OFF, "DO_NOT_TRACK": "0"}


def test_openvinos_telemetry_package_cannot_be_imported_afterwards():
    code = (
        "import json; from polyfold.system import telemetry_off; telemetry_off()\n"
        "try:\n    import openvino_telemetry; print(json.dumps(True))\n"
        "except ModuleNotFoundError:\n    print(json.dumps(False))"
    )
    assert run(code) is False


def test_switching_it_off_twice_is_no_mistake(monkeypatch):
    for name in TELEMETRY_OFF:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "openvino_telemetry", sys.modules.get("openvino_telemetry"))
    telemetry_off()
    telemetry_off()
    assert os.environ["NNCF_TELEMETRY"] == "0"


def test_the_hardware_is_this_machines():
    found = hardware("a toy accelerator")
    assert found.accelerator == "a toy accelerator"
    assert found.cores == cores() == len(os.sched_getaffinity(0))
    assert found.memory_gb == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.1)
    assert found.versions["numpy"] == np.__version__
    assert found.processor
    assert type(found).model_validate_json(found.model_dump_json()) == found


def test_peak_memory_is_this_processs_own_and_does_not_fall():
    code = (
        "import json; from polyfold.system import peak_memory_mb; before = peak_memory_mb()\n"
        "block = bytearray(b'x' * 80_000_000); during = peak_memory_mb(); del block\n"
        "print(json.dumps([before, during, peak_memory_mb()]))"
    )
    ballast = bytearray(b"x" * 200_000_000)
    before, during, after = run(code)
    assert len(ballast) / 1e6 < peak_memory_mb()
    assert before < 150
    assert during >= before + 75
    assert after >= during


def test_there_are_no_more_physical_cores_than_cores():
    assert 1 <= physical_cores() <= cores()


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("POLYFOLD_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder("a") == tmp_path / "home" / ".cache" / "polyfold" / "a"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert cache_folder("a") == tmp_path / "shared" / "polyfold" / "a"
    monkeypatch.setenv("POLYFOLD_CACHE", str(tmp_path / "own"))
    assert cache_folder("a") == tmp_path / "own" / "a"
    assert (tmp_path / "own" / "a").is_dir()
    assert cache_folder("a") == tmp_path / "own" / "a"


def test_a_machine_without_a_place_for_a_cache_has_none(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("POLYFOLD_CACHE", str(tmp_path / "file"))
    assert cache_folder("a") is None


def test_a_seed_decides_pythons_and_numpys_numbers():
    drawn = []
    for seed in (3, 3, 2**40 + 3):
        seed_numpy(seed)
        drawn.append((random.random(), float(np.random.random())))
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[2][0]


def test_importing_the_training_stack_says_nothing_once_it_was_told_to_be_quiet():
    code = "from polyfold.system import quiet_imports; quiet_imports(); import polyfold.recipe"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")

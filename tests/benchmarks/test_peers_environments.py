"""Environments: used again while their requirements stay, made anew when they change, honest when pip fails."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from peers import environments  # noqa: E402
from peers.environments import ENVIRONMENTS, Environment, PeerFailed, complaint, digest, python_of  # noqa: E402


def test_an_environment_is_made_once_and_again_when_its_requirements_change(tmp_path, monkeypatch):
    commands = []

    def pretend(command, log_file, log, name):
        commands.append(list(command))
        if "venv" in command:
            (Path(command[-1]) / "bin").mkdir(parents=True, exist_ok=True)
            (Path(command[-1]) / "bin" / "python").write_text("")

    monkeypatch.setattr(environments, "_run", pretend)
    first = Environment("toy", ("left-pad>=1",), ())
    python = python_of(first, tmp_path)
    assert python_of(first, tmp_path) == python == tmp_path / "environments" / "toy" / "bin" / "python"
    assert [command[2] for command in commands] == ["venv", "pip"] and commands[1][-1] == "left-pad>=1"
    python_of(Environment("toy", ("left-pad>=2",), ()), tmp_path)
    assert len(commands) == 4 and commands[3][-1] == "left-pad>=2"


@pytest.mark.slow
def test_an_environment_that_pip_gave_up_on_is_not_taken_for_a_finished_one_and_sees_nothing_of_ours(tmp_path):
    broken = Environment("toy", ("--no-index", "no-such-distribution-anywhere==1"), ())
    with pytest.raises(PeerFailed, match=r"environment 'toy': .*no-such-distribution-anywhere"):
        python_of(broken, tmp_path)
    assert not (tmp_path / "environments" / "toy" / "built.json").exists()
    python = tmp_path / "environments" / "toy" / "bin" / "python"
    code = "import importlib.util; print(importlib.util.find_spec('polyfold'), importlib.util.find_spec('numpy'))"
    found = subprocess.run([str(python), "-c", code], capture_output=True, check=True, text=True)
    assert found.stdout.split() == ["None", "None"]
    assert environments.size_mb(python) > 1


def test_the_digest_hangs_on_every_requirement():
    names = [digest(("a", "b")), digest(("a",)), digest(("ab",)), digest(("b", "a"))]
    assert len(set(names)) == 4 and digest(("a", "b")) == names[0]


def test_complaints_are_pips_errors_and_otherwise_its_last_words():
    assert complaint("Looking\nERROR: one\nhm\nERROR: two\nERROR: three\nbye\n") == "ERROR: two ERROR: three"
    assert complaint("Looking\nkilled\n\n") == "killed"
    assert complaint("") == "pip failed and said nothing"


def test_every_environment_states_ranges_and_torch_is_the_one_the_project_states():
    project = (ROOT / "pyproject.toml").read_text()
    assert f'"{environments.TORCH}"' in project
    assert len(ENVIRONMENTS) >= 6
    for one in ENVIRONMENTS.values():
        if one.name != "polyfold":
            assert all(any(mark in need for mark in "<>=") for need in one.requirements), one.name

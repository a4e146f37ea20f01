"""Finished folders: the manifest comes last, keys say everything, damage is found, writes are all or nothing."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfold.artifact import CHECKPOINTS, MANIFEST, Artifact, Stage, read_config, write_atomically
from polyfold.errors import InputError

STAGE = Stage("student", "small", 1, {"layers": 2, "fit": {"epochs": 3}}, ("teacher-key",), {"data": "0" * 64})


def build(folder):
    (folder / "weights").mkdir(exist_ok=True)
    (folder / "weights" / "model.bin").write_bytes(bytes(range(256)))
    (folder / "config.json").write_text("{}")
    (folder / CHECKPOINTS).mkdir(exist_ok=True)
    (folder / CHECKPOINTS / "half.bin").write_bytes(b"half")
    return {"score": 0.5}


def test_a_finished_stage_is_reused_and_not_built_again(tmp_path):
    first = STAGE.run(tmp_path, build)

    def never(folder):
        raise AssertionError("a finished stage was built again")

    again = STAGE.run(tmp_path, never)
    assert again == first == Artifact.open(first.path)
    assert first.path == tmp_path / f"small-{STAGE.key}"
    assert set(first.manifest.files) == {"config.json", "weights/model.bin"}
    assert first.manifest.info == {"score": 0.5}
    assert not (first.path / CHECKPOINTS).exists()
    assert first.size_mb == pytest.approx(258 / 1e6)
    first.verify()


def test_a_stage_that_failed_has_no_manifest_and_is_built_again_over_its_remains(tmp_path):
    def fails(folder):
        build(folder)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        STAGE.run(tmp_path, fails)
    assert STAGE.finished(tmp_path) is None
    with pytest.raises(InputError, match="not a finished artifact"):
        Artifact.open(STAGE.folder(tmp_path))
    seen = []

    def resumes(folder):
        seen.append((folder / CHECKPOINTS / "half.bin").exists())
        return build(folder)

    STAGE.run(tmp_path, resumes).verify()
    assert seen == [True]


KILLED = """
import os, signal, sys
from pathlib import Path
from polyfold.artifact import Stage, write_atomically

def build(folder):
    (folder / "big.bin").write_bytes(b"x" * 1000)
    if sys.argv[2] == "build":
        os.kill(os.getpid(), signal.SIGKILL)
    return {}

if sys.argv[2] == "manifest":
    os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
Stage("toy", "toy", 1, {}).run(Path(sys.argv[1]), build)
"""


@pytest.mark.parametrize("moment", ["build", "manifest"])
def test_a_killed_process_leaves_no_manifest_and_the_next_one_finishes(tmp_path, moment):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), moment], check=False)
    assert done.returncode == -signal.SIGKILL
    stage = Stage("toy", "toy", 1, {})
    assert (stage.folder(tmp_path) / "big.bin").exists()
    assert not (stage.folder(tmp_path) / MANIFEST).exists()
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "never"], check=True)
    artifact = stage.finished(tmp_path)
    assert artifact is not None
    artifact.verify()
    # What a killed write left behind is no part of the result.
    assert set(artifact.manifest.files) == {"big.bin"}


@settings(deadline=None, max_examples=30)
@given(place=st.integers(0, 255), bit=st.integers(0, 7))
def test_one_flipped_bit_is_found(tmp_path_factory, place, bit):
    artifact = STAGE.run(tmp_path_factory.mktemp("flip"), build)
    path = artifact.path / "weights" / "model.bin"
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.bin.*checksum"):
        artifact.verify()


def test_a_missing_file_and_a_damaged_manifest_are_named(tmp_path):
    artifact = STAGE.run(tmp_path, build)
    (artifact.path / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json.*missing"):
        artifact.verify()
    manifest = artifact.path / MANIFEST
    manifest.write_bytes(manifest.read_bytes()[:-30])
    with pytest.raises(InputError, match="damaged manifest"):
        Artifact.open(artifact.path)


def test_the_key_changes_with_everything_that_decides_the_result_and_with_nothing_else():
    base = {
        "kind": "student", "name": "small", "version": 1, "spec": {"layers": 2, "fit": {"epochs": 3}},
        "parents": ("a", "b"), "inputs": {"data": "0" * 64},
    }  # fmt: skip
    changes = [
        {"kind": "teacher"}, {"version": 2}, {"spec": {"layers": 3, "fit": {"epochs": 3}}},
        {"spec": {"layers": 2, "fit": {"epochs": 4}}}, {"spec": {"layers": 2}}, {"parents": ("b", "a")},
        {"parents": ("a",)}, {"inputs": {"data": "1" * 64}}, {"inputs": {"other": "0" * 64}}, {"inputs": None},
    ]  # fmt: skip
    keys = [Stage(**{**base, **change}).key for change in ({}, *changes)]
    assert len(set(keys)) == len(changes) + 1
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys)
    # A name is for people; the order of a mapping means nothing.
    for same in ({"name": "other"}, {"spec": {"fit": {"epochs": 3}, "layers": 2}}):
        assert Stage(**{**base, **same}).key == keys[0]


def test_the_key_is_the_same_in_another_process():
    code = (
        "from polyfold.artifact import Stage; "
        "print(Stage('student', 'small', 1, {'layers': 2, 'fit': {'epochs': 3}}, ('teacher-key',), "
        "{'data': '0' * 64}).key)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == STAGE.key


def test_an_interrupted_write_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "report.json"
    write_atomically(path, b"old")

    def full(handle):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [one.name for one in path.parent.iterdir()] == ["report.json"]


def test_a_writer_killed_at_the_last_moment_leaves_the_old_file(tmp_path):
    path = tmp_path / "report.json"
    write_atomically(path, b"old")
    code = (
        "import os, signal, sys; from pathlib import Path; from polyfold.artifact import write_atomically; "
        "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL); "
        "write_atomically(Path(sys.argv[1]), b'new' * 100)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("content", [b"{}", b"[]", b"not json", b"\xff", json.dumps({"polyfold": {}}).encode()])
def test_a_configuration_that_is_none_of_ours_is_refused(tmp_path, content):
    with pytest.raises(InputError, match=r"no config\.json here"):
        read_config(tmp_path)
    (Path(tmp_path) / "config.json").write_bytes(content)
    with pytest.raises(InputError, match="not a Polyfold model's configuration"):
        read_config(tmp_path)

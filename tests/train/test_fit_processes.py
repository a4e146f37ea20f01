"""Real processes: killed ones end as if never killed, and two of them train as one."""

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fit_worker import train_together
from safetensors.torch import load_file
from toy_fit import close, same

WORKER = Path(__file__).parent / "fit_worker.py"
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
    "PYTHONPATH": os.pathsep.join([str(WORKER.parent), str(WORKER.parents[1])]),
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def start(*arguments, **more):
    command = [sys.executable, str(WORKER), *arguments]
    return subprocess.Popen(
        command, env={**ENVIRONMENT, **more}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    try:
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return out


def train_with_deaths(folder, deaths):
    """Train in a folder, dying as planned and living at last; how each life ended."""
    folder.mkdir()
    return json.loads(finish(start("kills", str(folder), json.dumps([*deaths, {}]))))


def results(folder):
    return [(folder / name).read_bytes() for name in ("metrics.jsonl", "result.json", "final.safetensors")]


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory):
    """The results of a run that was never killed."""
    folder = tmp_path_factory.mktemp("fit") / "unharmed"
    assert train_with_deaths(folder, []) == ["finished with 0"]
    assert len(results(folder)[0].splitlines()) == 5
    return results(folder)


def test_a_run_killed_at_random_moments_ends_as_if_it_had_never_been_killed(unharmed, tmp_path):
    lives = random.Random()
    # The first is early enough for any machine, the others are anywhere.
    deaths = [{"seconds": round(lives.uniform(0.02, latest), 3)} for latest in (0.15, 0.7, 0.7)]
    ends = train_with_deaths(tmp_path / "killed", deaths)
    assert ends[-1] == "finished with 0"
    assert "killed" in ends
    assert results(tmp_path / "killed") == unharmed, f"after deaths at {deaths}"


# Each life goes on from the last one's checkpoint; eight steps and the end of an epoch make nine checkpoints.
MOMENTS = [
    {"call": "save_file", "count": 2},  # in the middle of the first checkpoint
    {"call": "rename", "count": 1},  # when it was complete, but not yet in its place
    {"call": "_write_log", "count": 1},  # after the epoch's last step, before its dev scores are logged
    {"call": "_save", "count": 1},  # after they were logged, before the checkpoint that knows of them
    {"call": "save_file", "count": 3},  # the same moment once more, in the middle of that checkpoint
    {"call": "rmtree", "count": 3},  # when a new checkpoint is in its place beside the old one
    {"call": "_save", "count": 10},  # anywhere in the next epoch
]


def test_a_run_killed_in_the_middle_of_a_checkpoint_or_at_an_epochs_end_loses_and_repeats_nothing(
    unharmed, tmp_path
):
    ends = train_with_deaths(tmp_path / "killed", MOMENTS)
    assert ends == ["killed"] * len(MOMENTS) + ["finished with 0"]
    assert results(tmp_path / "killed") == unharmed


def test_two_processes_train_the_weights_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    folders = [tmp_path / name for name in ("alone", "rank0", "rank1")]
    processes = [
        start("train", str(folder), RANK=rank, LOCAL_RANK=rank, **world)
        for rank, folder in zip("01", folders[1:], strict=True)
    ]
    train_together(folders[0])
    try:
        for process in processes:
            finish(process)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    alone, first, second = (load_file(folder / "final.safetensors") for folder in folders)
    assert same(first, second)
    assert close(first, alone, atol=1e-4)
    assert not (folders[2] / "metrics.jsonl").exists()
    logs = [(folder / "metrics.jsonl").read_text().splitlines() for folder in folders[:2]]
    losses = [[json.loads(line).get("losses", {}).get("labels", 0.0) for line in lines] for lines in logs]
    assert sum(value > 0 for value in losses[0]) == 1
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)

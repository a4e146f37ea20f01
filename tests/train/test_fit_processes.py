"""Real processes: killed ones end as if never killed, and two of them train as one."""

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from toy_fit import close

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
        out, err = process.communicate(timeout=120)
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
    deaths = [{"seconds": round(lives.uniform(0.05, 0.7), 3)} for _ in range(4)]
    ends = train_with_deaths(tmp_path / "killed", deaths)
    assert ends[-1] == "finished with 0"
    assert "killed" in ends
    assert results(tmp_path / "killed") == unharmed, f"after deaths at {deaths}"


# Eight steps and one end of an epoch make nine checkpoints of four files: these moments are in the first and at
# the end of an epoch, between the checkpoint of its last step, its dev scores, and the checkpoint that has them.
MOMENTS = [
    *({"call": "save_file", "count": count} for count in (1, 2, 7, 33, 35)),
    *({"call": "rename", "count": count} for count in (1, 9, 10)),
    *({"call": "_write_log", "count": count} for count in (1, 2)),
    *({"call": "_save", "count": count} for count in (3, 9)),
    *({"call": "rmtree", "count": count} for count in (1, 3, 6)),
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
    processes = {"alone": start("train", str(tmp_path / "alone"))}
    for rank in "01":
        folder = tmp_path / f"rank{rank}"
        processes[rank] = start("train", str(folder), RANK=rank, LOCAL_RANK=rank, **world)
    for process in processes.values():
        finish(process)
    assert not (tmp_path / "rank1" / "metrics.jsonl").exists()
    alone = load_file(tmp_path / "alone" / "final.safetensors")
    together = load_file(tmp_path / "rank0" / "final.safetensors")
    assert close(alone, together)

"""A process of its own: `kills FOLDER PLAN` trains a toy and is killed as planned, `train FOLDER` trains one.

A plan is a JSON list of deaths: {"seconds": s} is SIGKILL from outside after so long, {"call": name, "count": n}
is SIGKILL from inside right before the n-th call of a function that the loop or its checkpoints use. Each death is
a forked child, so that torch is imported once; the last child lives.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from toy_fit import fit_spec, state, train_toy

from polyfold.train import checkpoint
from polyfold.train import fit as loop
from toys_torch import toy_model

SPEC = fit_spec(
    epochs=3, head_dropout=0.2, token_dropout=0.2, checkpoint_minutes=0.0, batch={"documents_per_step": 5}
)

# The first step is one batch, so that one of two processes has nothing to do; others have two and three.
SHARED = fit_spec(epochs=2, batch={"documents_per_step": 5, "token_budget": 40, "length_grouping": "none"})
SHARED_SEED = 28


def run(folder):
    """The training itself; its final weights and result go to the folder."""
    model, result = train_toy(folder, SPEC)
    save_file(state(model), folder / "final.safetensors")
    (folder / "result.json").write_text(json.dumps([result.best_score, result.best_epoch, result.history]))


def die_before(name, count):
    """Kill this process right before the count-th call of the named function."""
    owners = {
        "save_file": checkpoint,
        "rmtree": shutil,
        "rename": Path,
        "_write_log": loop._Run,
        "_save": loop._Run,
    }
    owner = owners[name]
    original = getattr(owner, name)
    calls = 0

    def counted(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, counted)


def child(folder, death):
    """Fork, train and die; returns how it ended: "killed" or "finished"."""
    pid = os.fork()
    if pid == 0:
        if "call" in death:
            die_before(death["call"], death["count"])
        run(folder)
        os._exit(0)
    if "seconds" in death:
        time.sleep(death["seconds"])
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return "killed" if os.WIFSIGNALED(status) else f"finished with {os.WEXITSTATUS(status)}"


def train_together(folder):
    """Some steps alone or as one of several processes, by the environment; a buffer is what wrappers broadcast."""
    model = toy_model(folder / "source")
    model.classifier.register_buffer("unused", torch.zeros(1), persistent=False)
    model, _ = train_toy(folder, SHARED, model=model, seed=SHARED_SEED)
    save_file(state(model), folder / "final.safetensors")


if __name__ == "__main__":
    target = Path(sys.argv[2])
    if sys.argv[1] == "train":
        train_together(target)
    else:
        print(json.dumps([child(target, death) for death in json.loads(sys.argv[3])]))

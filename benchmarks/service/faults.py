"""All faults, one after the other, each against servers of its own; the file is written after every one."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic

from polyfold.artifact import write_atomically
from polyfold.errors import InputError
from polyfold.system import hardware

from ..results_page import read_content
from . import faults_clients as clients
from . import faults_models as models
from . import faults_processes as processes
from .contestants import Subject
from .results import FAULTS, FaultRow, FaultsFile, Tally
from .shared import code_digest, expect, sample_texts, versions
from .stage import Stage

Fault = Callable[[Stage], FaultRow]
ALL: Mapping[str, Fault] = {
    "sigterm": processes.sigterm,
    "sigkill": processes.sigkill,
    "runtime_raises": models.runtime_raises,
    "runtime_refuses": models.runtime_refuses,
    "corrupt_model": models.corrupt_model,
    "log_full": processes.log_full,
    "slow_headers": clients.slow_headers,
    "slow_bodies": clients.slow_bodies,
    "deaf": clients.deaf,
    "half_open": clients.half_open,
    "resets": clients.resets,
    "many_connections": clients.many_connections,
    "clock_jumps": processes.clock_jumps,
    "poison_text": models.poison_text,
    "overflow": clients.overflow,
    "cancelled": clients.cancelled,
}


def stage_of(options: argparse.Namespace, command: str) -> Stage:
    """The model, its texts and its answers."""
    work = options.work / "faults"
    work.mkdir(parents=True, exist_ok=True)
    folders = tuple(Path(one) for one in options.model.split(","))
    texts, file = sample_texts(options.data, options.texts, work)
    predictor, expected = expect(Subject("model", folders[0]), texts, options.tolerance)
    return Stage(
        folders=folders,
        predictor=predictor,
        expected=expected,
        texts=texts,
        file=file,
        work=work.resolve(),
        rate=options.rate,
        before_s=options.before,
        after_s=options.after,
        connections=options.connections,
        command=command,
        code=code_digest(),
        faketime=processes.find_faketime(options.faketime, options.work / "faketime"),
        options=tuple(options.serve_options),
    )


def failed(name: str, stage: Stage, reason: str) -> FaultRow:
    """A fault that could not be brought about, or whose scene fell apart."""
    return FaultRow(
        name=name, fault=name, injected="not brought about", command=stage.command, code=stage.code,
        tally=Tally(sent=0, acknowledged=0),
        excused=0, lost=0, recovered_s=None, survived=False, limit_ms=0.0, p99_before_ms=None, p99_fault_ms=None,
        facts={}, problem=reason[:2000],
    )  # fmt: skip


def main(options: argparse.Namespace, command: str) -> int:
    """Every fault that was asked for, kept beside those of an earlier call with the same model and rate."""
    target = options.out / FAULTS
    chosen = options.only or list(ALL)
    stage = stage_of(options, command)
    found = FaultsFile(
        hardware=hardware(), versions=versions(), model=stage.folders[0].name, rate=stage.rate, rows=()
    )
    earlier = None if options.again else read_content(target, FaultsFile)
    kept: dict[str, FaultRow] = {}
    if earlier is not None and (earlier.model, earlier.rate) == (found.model, found.rate):
        # Asked for all, only what this very code has survived is not done again.
        done = [row for row in earlier.rows if options.only or (row.survived and row.code == stage.code)]
        kept = {row.name: row for row in done}
    started = monotonic()
    missing = [name for name in chosen if name not in kept or options.only]
    for number, name in enumerate(missing):
        begun = monotonic()
        try:
            row = ALL[name](stage)
        except (InputError, OSError, AssertionError, KeyError) as reason:
            row = failed(name, stage, f"{type(reason).__name__}: {reason}")
        kept[name] = row
        rows = tuple(kept[one] for one in ALL if one in kept)
        content = found.model_copy(update={"rows": rows})
        write_atomically(target, (content.model_dump_json(indent=1) + "\n").encode())
        each = (monotonic() - started) / (number + 1)
        verdict = "survived" if row.survived else f"NOT SURVIVED: {row.problem or f'{row.lost} lost'}"
        print(
            f"{monotonic() - started:6.0f} s  {name} ({monotonic() - begun:.0f} s): {row.tally.acknowledged:,} of "
            f"{row.tally.sent:,} acknowledged, {row.lost} lost, {verdict}; about "
            f"{each * (len(missing) - number - 1):.0f} s left",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    print(f"{target}: {sum(row.survived for row in kept.values())} of {len(kept)} survived")
    return 0

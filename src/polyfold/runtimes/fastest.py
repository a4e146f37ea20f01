"""`runtime: auto`: the choice made once a machine, kept in the user's cache, and opened again from there."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Protocol

from pydantic import ValidationError

from polyfold import __version__
from polyfold.artifact import Artifact, ModelConfig, digest_file, digest_json, write_atomically
from polyfold.errors import InputError
from polyfold.runtimes.choice import Candidate, Choice, candidates, choose, documents_within
from polyfold.runtimes.probes import WHOLE, probe_batches
from polyfold.runtimes.session import Session, SessionSpec, model_file
from polyfold.system import Hardware, cache_folder, cores, hardware, physical_cores
from polyfold.tasks import Task
from polyfold.text import Tokenizer, open_tokenizer

CHOICE_VERSION = 1
"""Raised when what is measured changes, or how: the choices of before are then made anew."""

CACHE = "runtimes"

# Their versions decide speed and answers; "numpy" and the like do not.
DECIDING = ("onnxruntime", "openvino")
DECIDING_ON_CUDA = (*DECIDING, "torch", "tensorrt")


@dataclass(frozen=True)
class Opened:
    """A session, and how its runtime came to be chosen."""

    session: Session
    choice: Choice


class Opener(Protocol):
    """Opens one model folder on a named runtime."""

    def __call__(self, spec: SessionSpec, runtime: str) -> Session: ...


def choose_and_open(
    folder: Path,
    config: ModelConfig,
    tasks: Sequence[Task],
    spec: SessionSpec,
    runtimes: Sequence[str],
    opener: Opener,
) -> Opened:
    """The fastest correct of `runtimes`, opened: from the cache's record, or measured now and recorded.

    Without a place for records (a home that cannot be written) every start measures.
    """
    everyone = candidates(runtimes, spec, cores(), physical_cores())
    if len(everyone) == 1:
        return Opened(_open(everyone[0], spec, opener), Choice(chosen=everyone[0], trials=()))
    record = record_file(folder, config, tasks, spec)
    known = _read(record) if record is not None else None
    if known is not None and known.chosen in everyone:
        # What could be opened when it was chosen, and now cannot, is chosen anew.
        with suppress(InputError):
            return Opened(_open(known.chosen, spec, opener), known)
    opened = _measured(everyone, spec, tasks, opener, open_tokenizer(folder, config.tokenizer), config.max_length)
    if record is not None:
        with suppress(OSError):
            write_atomically(record, opened.choice.model_dump_json(indent=2).encode())
    return opened


def record_file(folder: Path, config: ModelConfig, tasks: Sequence[Task], spec: SessionSpec) -> Path | None:
    """Where the choice for this model, machine and these options is kept; None where nothing can be."""
    root = cache_folder(CACHE)
    if root is None:
        return None
    machine = hardware()
    key = {
        "version": [CHOICE_VERSION, __version__],
        "model": _digest(folder, config),
        "tasks": [task.model_dump(mode="json") for task in tasks],
        "machine": _machine(machine, spec.device),
        # Where compiled models are kept changes how soon it starts and nothing else.
        "options": spec.model_dump(mode="json", exclude={"cache_dir"}),
    }
    return root / f"{digest_json(key)[:16]}.json"


def _machine(machine: Hardware, device: str) -> dict[str, object]:
    libraries = DECIDING_ON_CUDA if device == "cuda" else DECIDING
    return {
        "processor": machine.processor,
        "instructions": machine.instructions,
        "cores": [machine.cores, physical_cores()],
        "versions": {name: machine.versions.get(name) for name in libraries},
    }


def _digest(folder: Path, config: ModelConfig) -> str:
    """The model file's SHA-256: the manifest's where there is one, since reading a large file takes a while."""
    with suppress(InputError):
        recorded = Artifact.open(folder).manifest.files.get(config.file)
        if recorded is not None:
            return recorded
    return digest_file(model_file(folder, config))


def _read(record: Path) -> Choice | None:
    """The recorded choice; None where there is none, or it is damaged."""
    try:
        found = Choice.model_validate_json(record.read_bytes())
    except (OSError, ValidationError):
        return None
    return found.model_copy(update={"measured_here": False})


def _measured(
    everyone: Sequence[Candidate],
    spec: SessionSpec,
    tasks: Sequence[Task],
    opener: Opener,
    tokenizer: Tokenizer,
    max_length: int,
) -> Opened:
    """Open all, the reference first, and let them race; those of another device than asked for only referee."""
    reference = everyone[0]
    sessions = {reference: _open(reference, spec, opener)}
    (one_text, *_) = probe_batches(tokenizer, max_length, 1)
    sessions[reference].run(one_text.input_ids, one_text.attention_mask)
    started = perf_counter()
    sessions[reference].run(one_text.input_ids, one_text.attention_mask)
    documents = documents_within(perf_counter() - started, WHOLE)
    unopened = {}
    for candidate in everyone[1:]:
        try:
            sessions[candidate] = _open(candidate, spec, opener)
        except InputError as error:
            unopened[candidate] = error.problem
    rivals = [candidate for candidate in everyone if candidate.device == spec.device]
    choice = choose(sessions, tasks, probe_batches(tokenizer, max_length, documents), unopened, rivals)
    return Opened(sessions[choice.chosen], choice)


def _open(candidate: Candidate, spec: SessionSpec, opener: Opener) -> Session:
    return opener(spec=candidate.spec(spec), runtime=candidate.runtime)

"""What lies in a folder of speed results, validated; and which of the artifacts measured carry the goals."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from cold_start import ColdStartFile
from fresh import Spread
from growth_report import GrowthFile
from peers.results import PeersFile
from polyfold.benchmark.results import JSON, Agreement, Benchmark, Entry
from polyfold.errors import InputError
from polyfold.measure.compare import Comparison
from polyfold.measure.speed import REAL_TEXT
from polyfold.system import Hardware
from results_page import read_content
from tokenizing import TokenizingFile

if TYPE_CHECKING:
    # It imports torch, which a page is made without where no GPU was measured.
    from gpu import GpuFile

TOKENIZING, COLD_START, GROWTH = "tokenizing.json", "cold_start.json", "growth.json"
TRAINING, PEERS, STUDENT, GPU = "training.json", "peers.json", "student.json", "gpu.json"
BENCHMARK = JSON
MINILM = "minilm"
"""How the names of MiniLM-L6's artifacts begin; every other one is a student's."""


class TrainingFile(BaseModel):
    """training.json, as far as the page needs it; ratios are medians of those within a round.

    `documents_per_second` is by way, `cached_over_plain` the seconds of an epoch of distillation with cached
    logits over those of a plain one, `over_trainer` documents a second over the Hugging Face Trainer's.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    command: str
    hardware: Hardware
    documents: int
    documents_per_second: dict[str, Spread]
    cached_over_plain: Spread
    over_trainer: Spread


@dataclass(frozen=True)
class Inputs:
    """Everything that the folder holds; None for what is not there (yet)."""

    folder: Path
    benchmark: Benchmark | None
    tokenizing: TokenizingFile | None
    cold_start: ColdStartFile | None
    growth: GrowthFile | None
    training: TrainingFile | None
    peers: PeersFile | None
    student: Comparison | None
    gpu: "GpuFile | None"


def read_inputs(folder: Path) -> Inputs:
    """Read what there is; InputError where there is nothing, or where a file is not what it should be."""
    found = Inputs(
        folder=folder,
        benchmark=read_content(folder / BENCHMARK, Benchmark),
        tokenizing=read_content(folder / TOKENIZING, TokenizingFile),
        cold_start=read_content(folder / COLD_START, ColdStartFile),
        growth=read_content(folder / GROWTH, GrowthFile),
        training=read_content(folder / TRAINING, TrainingFile),
        peers=read_content(folder / PEERS, PeersFile),
        student=read_content(folder / STUDENT, Comparison),
        gpu=_gpu(folder / GPU),
    )
    if not any(part for name, part in vars(found).items() if name != "folder"):
        raise InputError("there are no results of speed here", file=folder, hint="give the folder they lie in")
    return found


def _gpu(path: Path) -> "GpuFile | None":
    if not path.is_file():
        return None
    from gpu import GpuFile

    return read_content(path, GpuFile)


@dataclass(frozen=True)
class Carrier:
    """The artifact that a row of the goals is read from, and how many forms of the same it was chosen among."""

    entry: Entry
    forms: int

    def why(self) -> str:
        """How it was chosen, in words."""
        return f"the fastest on real texts of {self.forms} forms measured" if self.forms > 1 else "the only form"


def carriers(inputs: Inputs) -> dict[str, Carrier]:
    """`minilm` and `student`, as far as they were measured.

    One artifact carries every goal of its row, throughput and latency alike: of the forms of one model (runtimes,
    with bf16 or without) the fastest on real texts. The student is the one that student.json scored, where that
    is there; InputError where the benchmark has not measured that one.
    """
    if inputs.benchmark is None:
        return {}
    entries = inputs.benchmark.entries
    forms = {MINILM: [one for one in entries if is_minilm(one) and one.precision.startswith("int8")]}
    forms["student"] = [one for one in entries if not is_minilm(one)]
    if inputs.student is not None and forms["student"]:
        scored = Path(inputs.student.second.folder).name
        forms["student"] = [one for one in forms["student"] if one.folder == scored]
        if not forms["student"]:
            raise InputError(
                f"it scores '{scored}', which {BENCHMARK} has not measured",
                file=inputs.folder / STUDENT,
                hint="compare the teacher with the very folder that was benchmarked",
            )
    return {role: Carrier(_fastest(some), len(some)) for role, some in forms.items() if some}


def is_minilm(entry: Entry) -> bool:
    """Whether an artifact has MiniLM-L6's shape, by its name."""
    return entry.name.lower().startswith(MINILM)


def _fastest(entries: Iterable[Entry]) -> Entry:
    def rate(entry: Entry) -> float:
        return entry.speed[REAL_TEXT].timing.documents_per_second if REAL_TEXT in entry.speed else 0.0

    return max(entries, key=rate)


def fp32_agreement(entry: Entry) -> Agreement | None:
    """With the fp32 model of the same weights before quantization; None where that was not compared.

    The model exported from has the quantizers in it already: it counts only where nothing was quantized.
    """
    for relation in ("given", "before quantization"):
        for one in entry.agreement:
            if one.relation == relation:
                return one
    return next((one for one in entry.agreement if one.precision == "fp32"), None)

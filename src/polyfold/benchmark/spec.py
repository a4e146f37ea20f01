"""What a benchmark measures, on which texts, and for how long."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from polyfold.measure.rounds import Turns
from polyfold.measure.speed import SpeedSpec
from polyfold.runtimes.opening import Device, RuntimeChoice

Part = Literal["speed", "sweeps", "threads", "arrivals", "energy", "memory", "agreement"]
XLMR = "FacebookAI/xlm-roberta-base"

PARTS: tuple[Part, ...] = ("speed", "sweeps", "threads", "arrivals", "energy", "memory", "agreement")

Count = Annotated[int, Field(ge=1)]
Load = Annotated[float, Field(gt=0.0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SweepSpec(_Part):
    """Ladders of batch size, length, token budget and threads; a point has `rounds` turns of `seconds`.

    Batch sizes are tried at `width` tokens, lengths with as many documents as `tokens` hold, token budgets and
    threads on real text. `lengths` and `threads` are by default what the model and the machine allow.
    """

    batch_sizes: tuple[Count, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    width: Count = 128
    lengths: tuple[Count, ...] | None = None
    tokens: Count = 4096
    token_budgets: tuple[Count, ...] = (1024, 2048, 4096, 8192, 16384)
    threads: tuple[Count, ...] | None = None
    rounds: Count = 3
    seconds: float = Field(default=0.5, ge=0.0)

    @property
    def turns(self) -> Turns:
        """A point's."""
        return Turns(self.rounds, self.seconds)


class ArrivalSpec(_Part):
    """Texts that arrive one by one at random, at `loads` times what the worker can do one at a time.

    The worker takes at most `together` of the texts that wait (1: one by one). A load has `requests` arrivals, or
    as many as come in `seconds`.
    """

    loads: tuple[Load, ...] = (0.2, 0.5, 0.8, 2.0)
    together: tuple[Count, ...] = (1, 32)
    requests: Count = 2000
    seconds: float = Field(default=10.0, gt=0.0)

    @model_validator(mode="after")
    def _something_arrives(self) -> "ArrivalSpec":
        if not self.loads or not self.together:
            raise ValueError("give at least one load and one number of texts that are taken together")
        return self


class BenchmarkSpec(_Part):
    """A whole benchmark.

    Every artifact is measured on each of `runtimes` (its own where none is named), and with `bf16` once more with
    OpenVINO computing in bfloat16 what is not int8. `reference` is a folder with the fp32 model of the artifacts'
    weights; without it, it is looked for beside each artifact. `agreement_documents` bounds the texts that both
    have to answer, `shapes` (documents, tokens) are 1 x 128 and 32 x 128 where the model reads so much.
    """

    texts: Path | None = None
    text: str = "text"
    parts: tuple[Part, ...] = Field(default=PARTS, min_length=1)
    runtimes: tuple[RuntimeChoice, ...] = ()
    threads: Count | None = None
    streams: Count | None = None
    bf16: bool = False
    device: Device = "cpu"
    reference: Path | None = None
    agreement_documents: Count = 512
    baseline: str | None = XLMR
    baseline_tokenizer: str | None = None
    shapes: tuple[tuple[Count, Count], ...] | None = None
    speed: SpeedSpec = SpeedSpec()
    sweep: SweepSpec = SweepSpec()
    arrivals: ArrivalSpec = ArrivalSpec()
    energy_seconds: float = Field(default=5.0, gt=0.0)
    peak_seconds: float = Field(default=0.1, ge=0.0)
    seed: int = 0


def quick(spec: BenchmarkSpec) -> BenchmarkSpec:
    """The same benchmark in seconds, to see that it works; its figures are no figures."""
    speed = spec.speed.model_copy(
        update={
            "rounds": 2, "round_seconds": 0.02, "baseline_rounds": 1, "baseline_seconds": 5.0,
            "documents": min(spec.speed.documents, 48), "padded_documents": 4, "single_texts": 10,
            "batch_sizes": (4,),
        }
    )  # fmt: skip
    sweep = spec.sweep.model_copy(
        update={
            "batch_sizes": spec.sweep.batch_sizes[:2], "width": min(spec.sweep.width, 32), "tokens": 256,
            "token_budgets": spec.sweep.token_budgets[:2], "rounds": 1, "seconds": 0.02,
        }
    )  # fmt: skip
    arrivals = spec.arrivals.model_copy(update={"requests": 50, "seconds": 0.3})
    changes = {"speed": speed, "sweep": sweep, "arrivals": arrivals, "energy_seconds": 0.2, "peak_seconds": 0.0}
    return spec.model_copy(update={**changes, "agreement_documents": 32})

"""What requests hold and what answers look like: for our checks, and as JSON Schema for clients."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from polyfold.serve.refusals import Code
from polyfold.tasks import Kind

NAME = r"^[A-Za-z0-9._-]{1,64}$"
MOST_NAMES = 1024

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
# Anything at all, so that one text that is none does not fail the others; clients are told that strings go there.
AnyText = Annotated[Any, WithJsonSchema({"type": "string"})]


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True)


class PredictRequest(_Asked):
    """One text or many, and what is wanted of them. Without more, every task answers with its labels.

    `version` asks for one version of `model`; without it the service decides. `thresholds` replace a multi-label
    task's own: one number for all its labels, or one by label. `deadline_ms` is how long an answer is of use.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["text"]}, {"required": ["texts"]}],
            "examples": [{"text": "Where is my parcel?"}],
        }
    )

    text: str | None = Field(default=None, description="One text, in any language; the empty one too.")
    texts: list[AnyText] | None = Field(default=None, description="Many texts; answers come in their order.")
    model: str | None = Field(default=None, pattern=NAME, description="Needed where several models are served.")
    version: str | None = Field(default=None, pattern=NAME)
    tasks: list[str] | None = Field(
        default=None, min_length=1, max_length=MOST_NAMES, description="Only these tasks."
    )
    thresholds: dict[str, Probability | dict[str, Probability]] | None = Field(default=None, max_length=MOST_NAMES)
    probabilities: bool = Field(default=False, description="Also every label's calibrated probability.")
    deadline_ms: int | None = Field(default=None, ge=1, le=2**31)

    @model_validator(mode="after")
    def _one_of_both(self) -> "PredictRequest":
        if (self.text is None) == (self.texts is None):
            raise ValueError("give either 'text' or 'texts'")
        return self


class ItemError(_Said):
    """Why one text has no answer, while the others have theirs."""

    code: Literal["not_a_text", "text_too_long", "inference_failed", "model_failed", "deadline_exceeded"]
    message: str


class FailedItem(_Said):
    """Stands where a text's answer would."""

    error: ItemError


class LabelledItem(_Said):
    """One text's labels: a single-label task has one, a multi-label task any number.

    `truncated`: the text was longer than the model reads, and its end was not looked at.
    """

    labels: dict[str, str | list[str]]
    probabilities: dict[str, dict[str, float]] | None = Field(
        default=None, description="Only where asked for; rounded to 6 places."
    )
    truncated: bool


class PredictResponse(_Said):
    """Always a list, in the order of the texts."""

    model: str
    version: str
    request_id: str
    predictions: list[LabelledItem | FailedItem]


class ErrorBody(_Said):
    """`code` is for programs and stays the same; `message` and `hint` are for people."""

    code: Code
    message: str
    hint: str | None
    request_id: str


class ErrorResponse(_Said):
    """What every answer with a status of 400 or more holds."""

    error: ErrorBody


class ModelHealth(_Said):
    """One loaded version. `runtimes` are in order of preference; where one does not work, the next stands in."""

    name: str
    version: str
    state: Literal["ready", "draining", "stopped", "failed"]
    runtime: str
    runtimes: list[str]
    failovers: int
    queue_tokens: int = Field(description="Tokens that wait now.")
    tokens_per_second: float = Field(description="Measured over the last batches.")


class Health(_Said):
    """`degraded` answers all requests, though not every version works, or not on its preferred runtime."""

    status: Literal["ready", "degraded", "starting", "stopping", "failed"]
    models: list[ModelHealth]


class Live(_Said):
    """The process runs and answers; whether its models do is another question."""

    status: Literal["live"]


class TaskInfo(_Said):
    """One question that a model answers about every text."""

    name: str
    kind: Kind
    labels: list[str]
    languages: list[str] | None
    thresholds: dict[str, float] | None = Field(description="A multi-label task's own, by label.")


class ModelInfo(_Said):
    """One loaded version. `share` is the percentage of the requests that name no version which it answers."""

    name: str
    version: str
    runtime: str
    precision: str
    languages: list[str] | None
    tasks: list[TaskInfo]
    max_length: int = Field(description="Tokens of a text that the model reads.")
    share: float
    shadow: bool = Field(description="It only gets copies, and its answers are compared and thrown away.")
    card: str | None = Field(description="The model card, Markdown.")


class StatsInfo(_Said):
    """Rates of the last ten seconds, latencies of the last thousand requests, and drift: how the texts and answers
    of late differ from those of the training report's test.
    """

    requests_per_second: float
    documents_per_second: float
    latency_ms_p50: float | None
    latency_ms_p99: float | None
    queue_tokens: int
    uptime_s: float
    drift: dict[str, Any]

"""A finished run's report beside a model folder, and answers drawn from the documents that it was made of."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from polyfold.artifact import ModelConfig, read_config
from polyfold.data.dataset import Documents
from polyfold.measure.profile import profile
from polyfold.measure.report import DataSummary, Report, Row, write_report
from polyfold.serve.engine.answers import Answers, Timing
from polyfold.serve.watch.languages import Detector, LanguageSampler
from polyfold.system import Hardware
from polyfold.tasks import Task
from toys import TOY_TASKS, write_toy_folder

LANGUAGES = ("de", "en", "ja")
ROW = "student.int8.onnxruntime"


@dataclass(frozen=True)
class ToyVersion:
    """What metrics and drift ask of a served version."""

    folder: Path
    config: ModelConfig
    tasks: tuple[Task, ...] = TOY_TASKS
    name: str = "feedback"
    version: str = "1"
    state: str = "ready"
    runtime: str = "onnxruntime"
    queue_tokens: int = 7
    tokens_per_second: float = 1000.0


@dataclass(frozen=True)
class ToyRun:
    """Test documents: a language, a length and logits each; the text begins with its language."""

    root: Path
    count: int = 3000

    @cached_property
    def languages(self):
        return np.random.default_rng(1).choice(LANGUAGES, self.count, p=(0.5, 0.4, 0.1))

    @cached_property
    def texts(self):
        return [f"{language} text {place}" for place, language in enumerate(self.languages.tolist())]

    @cached_property
    def lengths(self):
        return np.random.default_rng(2).integers(3, 16, self.count)

    @cached_property
    def logits(self):
        random = np.random.default_rng(3)
        return {task.name: random.normal(0, 2, (self.count, len(task.labels))) for task in TOY_TASKS}

    def report(self, **row):
        """The run's report, as `polyfold run` writes it, with one served row and one baseline."""
        documents = Documents(
            ids=[str(place) for place in range(self.count)],
            texts=self.texts,
            languages=self.languages.tolist(),
            groups=[str(place) for place in range(self.count)],
            labels={},
        )
        shared = {"parameters_million": 1.0, "trunk_parameters_million": 1.0}
        served = {
            "name": ROW, "stage": "export", "runtime": "onnxruntime", "precision": "fp32", "weights": "trained",
            "profile": profile(TOY_TASKS, documents, self.lengths, self.logits),
        }  # fmt: skip
        baseline = {
            "name": "baseline", "stage": "baseline", "runtime": "torch", "precision": "fp32", "weights": "random",
        }  # fmt: skip
        hardware = Hardware(
            processor="toy", instructions=(), cores=2, memory_gb=8.0, accelerator=None, system="Linux", versions={}
        )
        counts = dict(zip(*np.unique(self.languages, return_counts=True), strict=True))
        return Report(
            name="toy",
            polyfold_version="0",
            recipe_hash="0" * 16,
            seed=0,
            hardware=hardware,
            rows=(Row(**shared, **baseline), Row(**shared, **(served | row))),
            data=DataSummary(documents={"test": self.count}, documents_by_language={"test": counts}, tasks=()),
        )

    def served(self):
        """Its model folder, with the report where a run leaves it."""
        folder = self.root / f"{ROW}-0123456789abcdef"
        if not folder.exists():
            write_toy_folder(folder, "onnxruntime")
            write_report(self.report(), self.root)
        return ToyVersion(folder, read_config(folder)[0])

    def draw(self, seed, count, rows=None):
        """Documents drawn again, from `rows` or all: their places."""
        rows = np.arange(self.count) if rows is None else rows
        return np.random.default_rng(seed).choice(rows, count)

    def answers(self, rows, tasks=TOY_TASKS, shift=None, longer=0):
        """What the model answers to these documents; `shift` is added to its logits, by task."""
        parts = [
            task.probabilities(self.logits[task.name][rows] + (shift or {}).get(task.name, 0.0)) for task in tasks
        ]
        probabilities = np.concatenate(parts, axis=1).astype(np.float32)
        return answers_of(probabilities, self.lengths[rows] + longer)


def answers_of(probabilities, tokens, failures=None, truncated=None):
    """Answers as a batcher gives them."""
    count = len(tokens)
    return Answers(
        probabilities,
        probabilities,
        np.zeros(count, bool) if truncated is None else truncated,
        np.asarray(tokens, np.int64),
        Timing(0.001, 0.0002, 0.02),
        failures or {},
    )


def reading_detector():
    """Knows four languages, and reads a text's from its first letters."""
    languages = (*LANGUAGES, "fi")

    def rank(text):
        return sorted(((one, 0.97 if text.startswith(one) else 0.01) for one in languages), key=lambda it: -it[1])

    return Detector(frozenset(languages), rank)


class Clock:
    """Tells the time it is told."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def sampler_of(detector, clock, keep, per_second=1_000_000):
    """Makes samplers that look at every text, and puts them into `keep` for their tests to wait for."""

    def make():
        keep.append(LanguageSampler(detector, per_second=per_second, clock=clock))
        return keep[-1]

    return make

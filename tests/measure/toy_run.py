"""A toy run: a teacher, its int8 form, a student and its int8 form, and a random baseline, all scored for real."""

import numpy as np

from polyfold.data.dataset import Dataset, Documents
from polyfold.measure.accuracy import label_agreement, score
from polyfold.measure.cost import CostSpec, cost_of
from polyfold.measure.gates import GateSpec, check_gates
from polyfold.measure.profile import profile
from polyfold.measure.report import Report, Row, Speed
from polyfold.measure.summary import summarize
from polyfold.measure.verdicts import judge
from polyfold.system import Hardware
from polyfold.tasks import Task

LANGUAGES = ("ar", "de", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "zh")
TASKS = (
    Task(name="domain", labels=("billing", "delivery", "product <b>", "service", "website", "other")),
    Task(name="sentiment", labels=("negative", "neutral", "positive", "mixed")),
    Task(
        name="topics",
        kind="multi_label",
        labels=("price", "speed", "quality", "staff", "returns", "app", "packaging", "warranty", "a|b"),
    ),
)
SECRET = "the customer wrote this and nobody else may read it"


def make_documents(count, seed, labelled_share=0.8):
    """Documents with random labels, some of them missing, each with a text that must never be reported."""
    random = np.random.default_rng(seed)
    labels = {}
    for task in TASKS:
        if task.multi_label:
            values = (random.random((count, len(task.labels))) < 0.2).astype(np.int8)
        else:
            values = random.integers(0, len(task.labels), count)
        values[random.random(count) > labelled_share] = -1
        labels[task.name] = values
    return Documents(
        ids=[f"secret-id-{i}" for i in range(count)],
        texts=[f"{SECRET} {i}" for i in range(count)],
        languages=[LANGUAGES[i % len(LANGUAGES)] for i in range(count)],
        groups=[f"secret-group-{i}" for i in range(count)],
        labels=labels,
    )


def make_logits(documents, noise, seed):
    """Logits that point at the truth, the more faintly the larger the noise."""
    random = np.random.default_rng(seed)
    logits = {}
    for task in TASKS:
        truth = documents.labels[task.name]
        wanted = (truth == 1) if task.multi_label else np.eye(len(task.labels))[truth]
        signal = 2.0 * wanted - 1.0 if task.multi_label else 2.0 * wanted
        logits[task.name] = signal + noise * random.standard_normal((len(documents), len(task.labels)))
    return logits


def make_lengths(documents):
    """Tokens of each document, 1 to 600."""
    return np.random.default_rng(9).integers(1, 601, len(documents))


def _speeds(per_second):
    keys = {"32x128": 0.2, "1x128": 0.15, "real_text": 1.0, "real_text_vs_padded_128": 1.0}
    return {
        key: Speed(
            documents_per_second=per_second * share,
            latency_ms_p50=32_000 / (per_second * share),
            latency_ms_p99=40_000 / (per_second * share),
        )
        for key, share in keys.items()
    }


def make_report(documents):
    """The whole toy run, judged and gated."""
    machine = Hardware(
        processor="Toy 9000", instructions=("avx2",), cores=2, memory_gb=8.0, accelerator=None,
        system="Linux", versions={"numpy": "2"},
    )  # fmt: skip
    cost = CostSpec(instance="c7i.large").resolve()
    plan = [
        # name, stage, parent, runtime, precision, noise, documents a second, size
        ("teacher", "teacher", None, "torch", "fp32", 0.6, 150.0, 480.0),
        ("teacher, trimmed and int8", "int8_qat", "teacher", "openvino", "int8", 0.63, 2100.0, 42.0),
        ("student", "student", "teacher", "torch", "fp32", 0.68, 700.0, 90.0),
        ("student, int8, onnxruntime", "int8_qat", "student", "onnxruntime", "int8", 0.72, 1500.0, 24.0),
        ("student, int8, openvino", "int8_qat", "student", "openvino", "int8 + bf16", 0.72, 3900.0, 24.0),
    ]
    exact = make_logits(documents, 0.6, seed=1)
    rows = [
        Row(
            name="XLM-R base fp32", stage="baseline", runtime="torch", precision="fp32", weights="random",
            parameters_million=278.0, trunk_parameters_million=86.0, mflops_per_document=22350.0,
            size_mb=1112.0, peak_memory_mb=2100.0,
            speed=_speeds(30.0), speedup=dict.fromkeys(_speeds(30.0), 1.0),
            cost_usd_per_million_documents=cost_of(_speeds(30.0), cost),
            notes=("It was given the student's token ids.",),
        )
    ]  # fmt: skip
    for name, stage, parent, runtime, precision, noise, per_second, size in plan:
        logits = make_logits(documents, noise, seed=1)
        agreement = label_agreement(TASKS, logits, exact).model_dump() if stage == "int8_qat" else {}
        speed = _speeds(per_second)
        rows.append(
            Row(
                name=name, stage=stage, parent=parent, runtime=runtime, precision=precision, weights="trained",
                parameters_million=40.0, trunk_parameters_million=10.0, mflops_per_document=size * 10,
                size_mb=size, peak_memory_mb=3 * size,
                speed=speed, speedup={key: one.documents_per_second / 30.0 for key, one in speed.items()},
                cost_usd_per_million_documents=cost_of(speed, cost),
                **score(TASKS, documents, logits, seed=0).row_fields(), **agreement,
                profile=profile(TASKS, documents, make_lengths(documents), logits),
            )
        )  # fmt: skip
    judged = judge(rows, "teacher")
    teacher = next(row for row in judged if row.name == "teacher")
    dataset = Dataset(
        TASKS, make_documents(600, 2), make_documents(100, 3), documents, make_documents(0, 4), "f" * 64
    )
    return Report(
        name="toy & run", polyfold_version="0.1.0", recipe_hash="0123456789abcdef", seed=0, hardware=machine,
        quality_baseline="teacher", speed_baseline="XLM-R base fp32", rows=judged, data=summarize(dataset),
        cost=cost, gates=check_gates(GateSpec(greatest_drop=1.0, languages={"ja": 50.0}), teacher, judged),
        warnings=("2 documents were cut at 128 tokens",),
    )  # fmt: skip

"""Made-up files of every benchmark of speed, built through the classes that write the real ones."""

import sys
from pathlib import Path

from polyfold.benchmark import results
from polyfold.measure.compare import Comparison, Flips, Gain, Side, TaskChange
from polyfold.measure.rounds import Timing
from polyfold.system import Hardware

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import speed_inputs as inputs
from cold_start import ColdStartFile, Memory, Start
from cold_start import Goal as ColdGoal
from fresh import Spread
from gpu import GpuFile, Row, Timed
from growth_report import (
    Documents,
    DocumentsPoint,
    GrowthFile,
    Tasks,
    TasksPoint,
    Tokens,
    TokensPoint,
    memory_verdict,
)
from peers.results import Latency, PeerResult, PeersFile, Protocol, Quality, Speed
from tokenizing import FLOOR, OURS, SHORT, TOGETHER, OnTexts, Subject, TokenizingFile
from tokenizing import Goal as TokenizingGoal
from tokenizing import Timed as TimedRoads

MACHINE = Hardware(
    processor="Toy 9000", instructions=(), cores=2, memory_gb=8.0, accelerator=None, system="Linux", versions={}
)
KEYS = {"32x128": 1.0, "real_text": 4.0, "real_text_vs_padded_128": 4.0}
"""Speed keys, and how much faster than the first an artifact is there."""

BASELINE = {"32x128": 5.0, "real_text": 30.0, "real_text_vs_padded_128": 5.0}
MINILM, STUDENT = "minilm.trim_vocabulary.int8_ptq.openvino", "medium.int8_qat.openvino"


def spread(value):
    return Spread(median=value, least=value * 0.9, most=value * 1.1, rounds=3)


def measured(per_second, p50, key):
    """A figure with a floor four times as fast, and a speed-up over the baseline."""
    timing = Timing(
        documents_per_second=per_second, documents_per_second_least=per_second * 0.9,
        documents_per_second_most=per_second * 1.1, latency_ms_p50=p50, latency_ms_p99=2 * p50, documents=100,
        rounds=5, calls=100,
    )  # fmt: skip
    return results.Figure(
        timing=timing, floor_documents_per_second=4 * per_second, share=0.25, floor_latency_ms=p50 / 5,
        latency_share=0.2, speedup=per_second / BASELINE[key],
    )  # fmt: skip


def agreement(relation, precision, percent):
    return results.Agreement(
        reference="reference", relation=relation, runtime="torch", precision=precision, documents=64,
        label_agreement_percent={"domain": percent, "topics": percent - 0.5}, positives_percent={"topics": 12.0},
    )  # fmt: skip


def entry(name, per_second, p50, precision="int8", **more):
    """An artifact with everything that can be measured of one."""
    speed = {key: measured(per_second * factor, p50, key) for key, factor in KEYS.items()}
    settings = {
        "folder": name.split(",")[0], "speed": speed,
        "agreement": (agreement("exported from", "int8", 99.9), agreement("before quantization", "fp32", 98.5)),
        "breakdown": results.Breakdown(
            tokenizing=speed["real_text"].timing, model=speed["32x128"].timing, whole_documents_per_second=50.0,
            tokenizing_percent=20.0, model_percent=70.0, rest_percent=10.0, model_share=0.5,
        ),
        "sweeps": tuple(
            results.Point(ladder=ladder, value=value, key=key, figure=measured(per_second * value, p50, "32x128"))
            for ladder, key in (("batch size", "8x128"), ("threads", "8x128"), ("threads", "real_text"))
            for value in (1, 2)
        ),
        "arrivals": (
            results.Arrivals(
                load=0.5, together=1, requests=2000, arrivals_per_second=10.0, answers_per_second=10.0,
                latency_ms_p50=p50, latency_ms_p99=7 * p50, latency_ms_most=9 * p50, floor_latency_ms=p50 / 5,
                latency_share=0.2,
            ),
        ),
    }  # fmt: skip
    return results.Entry(
        name=name, runtime="openvino", precision=precision, weights="trained", family="bert", parameters=10,
        trunk_parameters=5, size_mb=30.0, memory_mb=200.0, **(settings | more),
    )  # fmt: skip


def benchmark(*entries):
    """A run with a baseline, peaks and a power state."""
    power = results.Power(load_average=(0.25, 0.0, 0.0), others_percent=1.0, energy_counters="none")
    speed = {key: measured(value, 1000.0, key) for key, value in BASELINE.items()}
    return results.Benchmark(
        polyfold_version="0", command="polyfold benchmark runs/a runs/b --bf16", started="2030-01-01",
        seconds=60.0, hardware=MACHINE, power_before=power, power_after=power, stolen_percent=0.1,
        texts=results.TextsUsed(
            source="sample.csv", given=12, distinct=11, used=10, mean_tokens=30.0, median_tokens=25.0,
            most_tokens=90,
        ),
        peaks=(
            results.Peaks(
                threads=2, gigaoperations_per_second={"fp32": 100.0, "bf16": 200.0, "int8": 400.0},
                bandwidths=(results.Bandwidth(megabytes=0.5, gigabytes_per_second=50.0),),
            ),
        ),
        baseline=results.BaselineFigures(
            name="xlm-r", weights="random", own_tokenizer=False, padded_batch_size=8, speed=speed
        ),
        entries=entries,
    )  # fmt: skip


ENTRIES = (
    entry(MINILM, 160.0, 2.0),
    entry(f"{MINILM}, bf16", 170.0, 2.6, "int8+bf16"),
    entry("minilm.trim_vocabulary.openvino", 900.0, 1.0, "fp32"),
    entry(STUDENT, 1000.0, 0.4),
    entry(f"{STUDENT}, bf16", 1100.0, 0.45, "int8+bf16"),
    entry("narrow.openvino", 2000.0, 0.1),
)


def comparison(second=STUDENT):
    """The teacher and a student on two tasks: 10 and 20 percent lost."""
    flips = Flips(documents=100, flipped=5, percent=5.0, percent_ci95=(2.0, 9.0))

    def change(task, first, ours):
        gain = Gain(
            documents=100, first=first, second=ours, difference=ours - first, ci95=(-0.2, 0.0), verdict="worse"
        )
        return TaskChange(
            task=task, kind="single_label", flips=flips, flips_by_language={}, gained={}, lost={}, quality=gain
        )

    def side(folder, precision):
        return Side(folder=folder, runtime="torch", precision=precision, weights="trained", parameters_million=1.0)

    return Comparison(
        polyfold_version="0", first=side("runs/teacher", "fp32"), second=side(f"runs/{second}", "int8"),
        texts="test documents of feedback", documents={"en": 100},
        tasks=(change("domain", 0.8, 0.72), change("topics", 0.5, 0.4)),
    )  # fmt: skip


def on_texts(per_second, with_floor=True):
    speeds = {OURS: spread(2 * per_second), TOGETHER: spread(per_second)}
    speeds |= {FLOOR: spread(4 * per_second)} if with_floor else {}
    timed = [
        TimedRoads(threads=count, documents_per_second=speeds, share_of_floor=0.5 if with_floor else None)
        for count in (1, 2)
    ]
    return OnTexts(
        documents=10, mean_tokens=20.0, mean_bytes=90.0, compared_with="tokenizers", differences=0,
        floor_differences=1 if with_floor else None, timed=timed,
    )  # fmt: skip


def tokenizing(**per_second):
    return TokenizingFile(
        command="python benchmarks/tokenizing.py runs/a", hardware=MACHINE,
        subjects={
            name: Subject(road="Unigram", pieces=40_000, texts={SHORT: on_texts(value)})
            for name, value in per_second.items()
        } | {"bert.json": Subject(road="Json", pieces=9, texts={SHORT: on_texts(9.0, with_floor=False)})},
        goals={
            name: TokenizingGoal(value=value, at_least=150_000, met=True) for name, value in per_second.items()
        },
    )  # fmt: skip


def cold_start(seconds, resident):
    start = Start(
        total_s=spread(seconds), processor_s=spread(1.0), parts_s={"python": spread(0.1)},
        steps_s={"read model": spread(0.2)},
    )  # fmt: skip
    stages = {"600 texts one by one": {"resident_mb": resident, "anonymous_mb": 100.0}}
    return ColdStartFile(
        command="python benchmarks/cold_start.py runs/a", model="a", runtime="openvino", precision="int8",
        vocabulary=9, size_mb=3.0, hardware=MACHINE, texts=600, starts={"with cache": start},
        memory={"with cache": Memory(stages=stages, largest_mb={}, peak_memory_mb=500.0)},
        cold_start=ColdGoal(value=seconds, at_most=1.5, met=seconds <= 1.5),
        resident=ColdGoal(value=resident, at_most=300, met=resident <= 300),
    )  # fmt: skip


def growth(most):
    """Ten megabytes more at the last point; tokens and tasks beside."""
    points = [
        DocumentsPoint(
            documents=count, documents_per_second=spread(1000.0), peak_memory_mb=spread(peak),
            mean_text_bytes=90.0, labels_changed=0,
        )
        for count, peak in ((100_000, 300.0), (most, 310.0))
    ]  # fmt: skip
    return GrowthFile(
        command="python benchmarks/growth.py runs/a", hardware=MACHINE,
        documents=Documents(
            format="parquet", points=points, further_documents_per_second={most: 1000.0},
            further_bytes_per_document={most: 11.1}, memory=memory_verdict(points),
        ),
        tokens=Tokens(token_budget=4096, positions=512, model_reads=128, points=[
            TokensPoint(
                tokens=32, documents_a_batch=128, documents_per_second=spread(700.0),
                tokens_per_second=spread(22_400.0), one_document_ms=spread(2.0), peak_memory_mb=spread(300.0),
            )
        ]),
        tasks=Tasks(documents=10, speed_kept=0.9, points=[
            TasksPoint(
                tasks=32, asked=asked, documents_per_second=spread(700.0), objects_per_second=spread(300.0),
                peak_memory_mb=spread(300.0),
            )
            for asked in (1, 32)
        ]),
    )  # fmt: skip


def training(cached):
    return inputs.TrainingFile(
        command="python benchmarks/training_speed.py", hardware=MACHINE, documents=9,
        documents_per_second={"plain": spread(90.0), "cached logits": spread(88.0), "Trainer": spread(40.0)},
        cached_over_plain=spread(cached), over_trainer=spread(2.2),
    )  # fmt: skip


def peers():
    def one(name, group, rate):
        return PeerResult(
            name=name, title=name, group=group, weights="shared",
            speed=Speed(
                documents_per_second=rate, least=rate, most=rate, rounds=(rate,), batch_size=8,
                batch_sizes_tried={},
            ),
            speedup=rate / 10, latency=Latency(p50_ms=3.0, p99_ms=4.0, texts=9),
            quality=Quality(macro_f1={"domain": rate / 1000}, mean_macro_f1=rate / 1000,
                            label_agreement_percent={"domain": 99.0}),
        )  # fmt: skip

    broken = PeerResult(name="broken", title="broken", group="peer", weights="own", failed="no wheel | for this")
    return PeersFile(
        command="python -m benchmarks.peers", hardware=MACHINE, reference="pipeline",
        protocol=Protocol(
            documents_a_slice=9, slices=2, rounds=3, seconds=1.0, train_documents=9, dev_documents=9,
            test_documents=9, languages=("en",), scored=True,
        ),
        peers=(one("pipeline", "peer", 10.0), one("ours", "polyfold", 700.0), broken),
    )  # fmt: skip


def gpu():
    timed = Timed(
        documents_per_second=9000.0, least=8000.0, most=9500.0, speedup=70.0, speedup_least=69.0,
        speedup_most=71.0, share=0.3, at=32, rounds=7,
    )  # fmt: skip
    row = Row(
        shape="minilm-l6", precision="bf16", unpadded=True, compiled=False, weights="random",
        parameters_million=10.0, label_agreement_percent=99.0, sweep={}, speed={"dense_32x128": timed},
    )  # fmt: skip
    return GpuFile(
        command="python benchmarks/gpu.py runs/gpu", hardware=MACHINE, cuda=None, power=None, lengths="drawn",
        documents=9, mean_tokens=20.0, peak_tflops={"bf16": 800.0}, baseline="xlm-r fp32",
        rows={"minilm-l6 bf16": row}, failures={}, goal_speedup=60.0, best_speedup_of_l6=70.0,
    )  # fmt: skip


FILES = {
    inputs.BENCHMARK: benchmark(*ENTRIES), inputs.STUDENT: comparison(),
    inputs.TOKENIZING: tokenizing(a=2e5, b=1.6e5), inputs.COLD_START: cold_start(1.2, 310.0),
    inputs.GROWTH: growth(1_000_000), inputs.TRAINING: training(1.02), inputs.PEERS: peers(), inputs.GPU: gpu(),
}  # fmt: skip


def put(folder, **changed):
    """Every file, those named by their stem changed, or left out where None."""
    folder.mkdir(exist_ok=True)
    for name, usual in FILES.items():
        content = changed.get(name.removesuffix(".json"), usual)
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_text(content.model_dump_json(), encoding="utf8")
    return folder

"""peers.md: the figures of peers.json as a table for people."""

from collections.abc import Iterator, Sequence

from .results import PeerResult, PeersFile

DASH = "–"


def markdown(content: PeersFile) -> str:
    """One table, what it was measured on, and who failed."""
    protocol = content.protocol
    tasks = list(dict.fromkeys(task for one in content.peers if one.quality for task in one.quality.macro_f1))
    machine = content.hardware
    lines = [
        "# Polyfold and its peers, side by side",
        "",
        f"All speeds are of one run on {machine.processor} with {machine.cores} cores, peers taking turns: "
        f"{protocol.rounds} rounds of {protocol.seconds:g} s or more a turn, {protocol.documents_a_slice:,} "
        f"distinct texts or more in {len(protocol.languages)} languages, from text to labels of every task. "
        "Medians, least and most in brackets; x is the median of the ratios to "
        f"`{content.reference}` in the same round. Load time is from a bare process; disk is what the loaded "
        "model reads, environment all that pip put there.",
        "",
        *_rows(content.peers, tasks),
        "",
        f"Macro-F1 × 100 on {protocol.test_documents:,} random test documents; thresholds of multi-label "
        f"tasks are tuned on {protocol.dev_documents:,} dev documents for every row alike. Weights: *shared* are "
        "those of the fp32 models in the first row, *fitted* were trained here on "
        f"{protocol.train_documents:,} documents, *own* are another model's. Agreement counts labels that are "
        "those of the fp32 models, over all tasks.",
        "",
        *([] if not tasks else ["![Quality against speed](peers.svg)", ""]),
        f"`{content.command}`",
        "",
    ]
    failures = [one for one in content.peers if one.failed]
    if failures:
        lines += ["## Not measured", "", *(f"- {one.title}: {one.failed}" for one in failures), ""]
    return "\n".join(lines)


def _rows(peers: Sequence[PeerResult], tasks: Sequence[str]) -> Iterator[str]:
    names = [
        "peer", "weights", "documents/s", "x", "p50 ms", "p99 ms", "load s", "resident MB", "disk MB",
        "environment MB", *tasks, "mean", "agreement %",
    ]  # fmt: skip
    yield "| " + " | ".join(names) + " |"
    yield "|---|---|" + "---:|" * (len(names) - 2)
    for one in peers:
        yield "| " + " | ".join(_cells(one, tasks)) + " |"


def _cells(one: PeerResult, tasks: Sequence[str]) -> Iterator[str]:
    yield one.title.replace("|", "/") + (" (failed)" if one.failed else "")
    yield one.weights
    speed, latency, size, quality = one.speed, one.latency, one.footprint, one.quality
    spread = (
        f"{_number(speed.documents_per_second)} ({_number(speed.least)} to {_number(speed.most)})"
        if speed
        else DASH
    )
    yield spread
    yield DASH if one.speedup is None else _number(one.speedup)
    yield DASH if latency is None else _number(latency.p50_ms)
    yield DASH if latency is None else _number(latency.p99_ms)
    values = (size.load_seconds, size.resident_mb, size.disk_mb, size.environment_mb) if size else (None,) * 4
    yield from (DASH if value is None else _number(value) for value in values)
    for task in tasks:
        yield DASH if quality is None else f"{100 * quality.macro_f1[task]:.1f}"
    yield DASH if quality is None else f"{100 * quality.mean_macro_f1:.1f}"
    alike = quality.label_agreement_percent if quality else None
    yield DASH if not alike else f"{sum(alike.values()) / len(alike):.2f}"


def _number(value: float) -> str:
    """Three figures, and thousands in full."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"

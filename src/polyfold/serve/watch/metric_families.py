"""Every metric that is told to the service while it works: name, unit, labels, bounds."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Closest around the goal of 50 ms, and up to the longest deadline by default."""

TOKENS = (32, 64, 128, 256, 512, 1024, 1536, 2048, 3072, 4096, 8192)
DOCUMENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)

MODEL = ("model", "version")


class Families:
    """All of them, registered in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(f"polyfold_{name}", help_text, labels, registry=registry)

        def histogram(name: str, help_text: str, labels: Sequence[str], bounds: Sequence[float]) -> Histogram:
            return Histogram(f"polyfold_{name}", help_text, labels, registry=registry, buckets=bounds)

        # Requests, by whatever protocol.
        self.requests = counter("requests", "Requests ended.", ("route", "status", "code"))
        self.refusals = counter("refusals", "Requests refused, by the code of the error.", ("code",))
        self.request_seconds = histogram(
            "request_seconds", "From a request's arrival to the end of its answer.", ("route",), SECONDS
        )
        # Work, by version.
        self.queue_seconds = histogram("queue_seconds", "A request's wait for its last batch.", MODEL, SECONDS)
        self.tokenize_seconds = histogram("tokenize_seconds", "Tokenizing one request's texts.", MODEL, SECONDS)
        self.infer_seconds = histogram("inference_seconds", "One batch.", (*MODEL, "runtime"), SECONDS)
        self.batch_tokens = histogram("batch_tokens", "Tokens of a batch, without padding.", MODEL, TOKENS)
        self.batch_documents = histogram("batch_documents", "Documents of a batch.", MODEL, DOCUMENTS)
        self.padding_share = histogram(
            "batch_padding_share", "Share of a batch's tokens that is padding, 0 to 1.", MODEL, SHARES
        )
        # What goes wrong.
        self.failed_texts = counter("failed_texts", "Texts without an answer.", (*MODEL, "code"))
        self.poison_texts = counter("poison_texts", "Texts that no runtime can compute.", MODEL)
        self.dropped_texts = counter("dropped_texts", "Texts whose request ended first.", (*MODEL, "reason"))
        self.failovers = counter("failovers", "Changes of runtime after a failure.", (*MODEL, "away_from", "to"))
        # Two versions side by side.
        self.shadow_answers = counter(
            "shadow_answers", "Answers of a shadow version, compared.", (*MODEL, "task", "agreed")
        )

"""The same model behind LitServe, with its batching on.

    python litserve_api.py FOLDER PORT BATCH WAIT_S

Runs in LitServe's own environment. A batch is of requests; the texts of all of them go to the predictor at once.
"""

import sys
from itertools import pairwise
from typing import Any

import litserve

from polyfold.predictor import Predictor


class Classifier(litserve.LitAPI):
    """Requests to texts, texts to predictions, predictions to answers."""

    def __init__(self, folder: str, batch: int, wait_s: float) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=wait_s, api_path="/predict")
        self.folder = folder

    def setup(self, device: str) -> None:
        """Load the model, in the process that will run it."""
        self.predictor = Predictor.open(self.folder)
        self.predictor.predict(["warm-up"])

    def decode_request(self, request: dict[str, Any]) -> tuple[list[str], bool]:
        """The texts, and whether probabilities are wanted."""
        text = request.get("text")
        return (request["texts"] if text is None else [text]), bool(request.get("probabilities"))

    def batch(self, inputs: list[Any]) -> list[Any]:
        """As they are: requests ask for different numbers of texts."""
        return inputs

    def predict(self, inputs: Any) -> Any:
        """All texts of a batch at once."""
        questions = inputs if isinstance(inputs, list) else [inputs]
        found = list(self.predictor.predict([text for texts, _ in questions for text in texts]))
        ends = [0]
        for texts, _ in questions:
            ends.append(ends[-1] + len(texts))
        answers = [
            [_answer(one, wanted) for one in found[start:end]]
            for (start, end), (_, wanted) in zip(pairwise(ends), questions, strict=True)
        ]
        return answers if isinstance(inputs, list) else answers[0]

    def unbatch(self, output: list[Any]) -> list[Any]:
        """As they are."""
        return output

    def encode_response(self, output: list[Any]) -> dict[str, Any]:
        """In the form of Polyfold's own service."""
        return {"predictions": output}


def _answer(one: Any, probabilities: bool) -> dict[str, Any]:
    answer = {"labels": one.labels, "truncated": one.truncated}
    return {**answer, "probabilities": one.probabilities} if probabilities else answer


if __name__ == "__main__":
    api = Classifier(sys.argv[1], int(sys.argv[3]), float(sys.argv[4]))
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning",
        num_api_servers=1, timeout_keep_alive=75,
    )  # fmt: skip

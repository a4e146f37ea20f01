"""The route that a team writes first: FastAPI, one function, no batching.

    python plain_route.py FOLDER PORT

The function is a plain `def`, so FastAPI runs it in its thread pool and goes on accepting. A predictor is for one
thread at a time, hence the lock.
"""

import sys
import threading
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from polyfold.predictor import Predictor


class Question(BaseModel):
    """What Polyfold's own service is asked, too."""

    text: str | None = None
    texts: list[str] | None = None
    probabilities: bool = False


def build(folder: str) -> FastAPI:
    """An application around one model."""
    app = FastAPI()
    predictor = Predictor.open(folder)
    lock = threading.Lock()
    predictor.predict(["warm-up"])

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/predict")
    def predict(question: Question) -> dict[str, Any]:
        texts = question.texts if question.text is None else [question.text]
        with lock:
            found = predictor.predict(texts or [])
        return {"predictions": [_answer(one, question.probabilities) for one in found]}

    return app


def _answer(one: Any, probabilities: bool) -> dict[str, Any]:
    answer = {"labels": one.labels, "truncated": one.truncated}
    return {**answer, "probabilities": one.probabilities} if probabilities else answer


if __name__ == "__main__":
    # Connections may be idle for longer than any pause of the measurement.
    uvicorn.run(
        build(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", timeout_keep_alive=75
    )

"""What the service says when it does not answer: one exception, one shape, stable codes."""

from typing import Any, Literal

Code = Literal[
    "bad_json",
    "bad_request",
    "bad_threshold",
    "body_timeout",
    "body_too_large",
    "deadline_exceeded",
    "forbidden",
    "internal",
    "method_not_allowed",
    "model_failed",
    "not_found",
    "not_ready",
    "queue_full",
    "quota_exhausted",
    "rate_limited",
    "stopping",
    "too_many_texts",
    "unauthorized",
    "unknown_model",
    "unknown_task",
    "unknown_version",
]
"""Codes are part of the interface: clients branch on them, so none is renamed."""


class Refusal(Exception):
    """A request that is not answered, on purpose: the HTTP status, what was wrong and what to do next.

    `retry_after_s` becomes the header Retry-After, in whole seconds, rounded up.
    """

    def __init__(
        self, status: int, code: Code, message: str, *, hint: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s

    def body(self, request_id: str) -> dict[str, Any]:
        """The JSON that every error answer has."""
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint, "request_id": request_id}}

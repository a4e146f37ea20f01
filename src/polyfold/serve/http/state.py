"""What the service says of itself: whether it lives, whether it is ready, its models, its rates, its metrics."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from polyfold.serve.engine.fleet import Fleet
from polyfold.serve.engine.served import ServedModel
from polyfold.serve.http.schemas import Health, Live, ModelHealth, ModelInfo, StatsInfo, TaskInfo
from polyfold.serve.service import PROMETHEUS, Service
from polyfold.tasks import Task

CARD = "README.md"
MOST_CARD_BYTES = 262_144

Status = Literal["ready", "degraded", "starting", "stopping", "failed"]


def state_routes(service: Service) -> list[Route]:
    """All of them answer GET and HEAD."""

    async def live(request: Request) -> Response:
        return _json(Live(status="live"))

    async def health(request: Request) -> Response:
        found = health_of(service)
        return _json(found, 200 if found.status in ("ready", "degraded") else 503)

    async def models(request: Request) -> Response:
        infos = [info_of(service.fleet, model).model_dump() for model in service.fleet.models]
        return Response(orjson.dumps(infos), media_type="application/json")

    async def stats(request: Request) -> Response:
        return _json(stats_of(service))

    async def metrics(request: Request) -> Response:
        return Response(service.metrics(), headers={"content-type": PROMETHEUS})

    endpoints: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/live": live,
        "/health": health,
        "/models": models,
        "/stats": stats,
        "/metrics": metrics,
    }
    return [Route(path, endpoint, methods=["GET"]) for path, endpoint in endpoints.items()]


def stats_of(service: Service) -> StatsInfo:
    """The service's pace, for whoever looks at the page."""
    requests, documents = service.stats.rates()
    return StatsInfo(
        requests_per_second=round(requests, 2),
        documents_per_second=round(documents, 2),
        latency_ms_p50=_rounded(service.stats.latency_ms(0.50)),
        latency_ms_p99=_rounded(service.stats.latency_ms(0.99)),
        queue_tokens=sum(model.queue_tokens for model in service.fleet.models),
        uptime_s=round(service.stats.uptime_s, 1),
        drift=dict(service.drift()),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def health_of(service: Service) -> Health:
    """The service's state in one word, and each model's."""
    models = service.fleet.models
    return Health(status=_status(service, models), models=[_health(model) for model in models])


def _status(service: Service, models: list[ServedModel]) -> Status:
    fleet = service.fleet
    if service.stopping or fleet.stopping:
        return "stopping"
    if not fleet.started or not models:
        return "starting"
    if not fleet.ready:
        return "failed"
    well = all(model.state != "failed" and model.runtime == model.runtimes[0] for model in models)
    return "ready" if well else "degraded"


def _health(model: ServedModel) -> ModelHealth:
    return ModelHealth(
        name=model.name,
        version=model.version,
        state=model.state,
        runtime=model.runtime,
        runtimes=list(dict.fromkeys(model.runtimes)),
        failovers=model.failovers,
        queue_tokens=model.queue_tokens,
        tokens_per_second=round(model.tokens_per_second, 1),
    )


def info_of(fleet: Fleet, model: ServedModel) -> ModelInfo:
    """All that a client may want to know of a model before it asks it."""
    routing = fleet.routing.get(model.name)
    languages = sorted({one for task in model.tasks for one in task.languages or ()})
    return ModelInfo(
        name=model.name,
        version=model.version,
        runtime=model.runtime,
        precision=model.config.precision,
        languages=languages or None,
        tasks=[_task(task) for task in model.tasks],
        max_length=model.config.max_length,
        share=0.0 if routing is None else routing.shares.get(model.version, 0.0),
        shadow=routing is not None and routing.shadow == model.version,
        card=_card(model.folder),
    )


def _task(task: Task) -> TaskInfo:
    own = task.thresholds or (0.5,) * len(task.labels)
    return TaskInfo(
        name=task.name,
        kind=task.kind,
        labels=list(task.labels),
        languages=None if task.languages is None else list(task.languages),
        thresholds=dict(zip(task.labels, own, strict=True)) if task.multi_label else None,
    )


def _card(folder: Path) -> str | None:
    try:
        with (folder / CARD).open("rb") as file:
            return file.read(MOST_CARD_BYTES).decode("utf-8", "replace")
    except OSError:
        return None


def _json(content: BaseModel, status: int = 200) -> Response:
    return Response(orjson.dumps(content.model_dump()), status, media_type="application/json")

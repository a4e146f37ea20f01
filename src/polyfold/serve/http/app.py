"""The application: every route, what they share, and the gate around them."""

from collections.abc import Mapping

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from polyfold import __version__
from polyfold.serve.exchange import exchange_of
from polyfold.serve.http.bodies import ClientGone, refusal_headers
from polyfold.serve.http.docs_page import docs_routes
from polyfold.serve.http.gate import INTERNAL, Gate, error_content
from polyfold.serve.http.page import add_page
from polyfold.serve.http.predict import Predict
from polyfold.serve.http.state import state_routes
from polyfold.serve.refusals import Refusal
from polyfold.serve.service import Service
from polyfold.serve.v2.routes import add_v2


def build_app(service: Service) -> Gate:
    """The whole of it for one service: an ASGI application, with FastAPI's behind it."""
    # No document and no docs page of FastAPI's own: its page loads scripts from another site. Its traces, which
    # newer releases start by themselves where OpenTelemetry is installed, would be a second set beside ours.
    app = FastAPI(
        title="Polyfold",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    predict = Predict(service)
    app.router.routes.append(Route("/predict", predict, methods=["POST"]))
    app.router.routes.extend(state_routes(service))
    add_page(app, service)
    add_v2(app, service)
    app.router.routes.extend(docs_routes(app))
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _invalid)
    # The gate knows these as well, but FastAPI's own outermost layer would answer before it.
    app.add_exception_handler(Refusal, _refusal)
    app.add_exception_handler(ClientGone, _gone)
    app.add_exception_handler(Exception, _unforeseen)
    return Gate(app, service, direct={("POST", "/predict"): predict})


async def _http_exception(request: Request, error: Exception) -> Response:
    """What the router says of an unknown path or method, in our shape."""
    assert isinstance(error, HTTPException)
    match error.status_code:
        case 404:
            refusal = Refusal(
                404, "not_found", "there is nothing at this path", hint="see /docs for what there is"
            )
        case 405:
            allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
            refusal = Refusal(
                405, "method_not_allowed", "this path takes other methods", hint=f"allowed: {allowed}"
            )
        case status:
            refusal = Refusal(status, "bad_request", str(error.detail))
    return _refused(request, refusal, error.headers or {})


async def _invalid(request: Request, error: Exception) -> Response:
    """What FastAPI's own checks of a path or query say."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return _refused(request, Refusal(422, "bad_request", f"{where}: {first['msg']}"), {})


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _refused(request, error, {})


async def _gone(request: Request, error: Exception) -> Response:
    return _Nothing()


async def _unforeseen(request: Request, error: Exception) -> Response:
    """The error goes on to the gate after this, which tells of it."""
    return _refused(request, INTERNAL, {})


class _Nothing(Response):
    """Sent to nobody."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        return


def _refused(request: Request, refusal: Refusal, headers: Mapping[str, str]) -> Response:
    exchange = exchange_of(request.scope)
    exchange.code = refusal.code
    own = {**headers, **refusal_headers(refusal)}
    return Response(error_content(exchange, refusal), refusal.status, headers=own, media_type="application/json")

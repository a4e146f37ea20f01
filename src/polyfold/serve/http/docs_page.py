"""`/openapi.json`, and `/docs`: the same for people, as one page without scripts or anything from elsewhere.

FastAPI's own page loads its scripts and styles from another site: it would need the internet, and trust in it.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from polyfold.serve.http.openapi import Document, document

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --accent: #2563eb; }
@media (prefers-color-scheme: dark) { :root { --accent: #93b4ff; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
code, pre { font: 0.875rem/1.5 ui-monospace, monospace; }
pre { background: var(--soft); padding: 0.75rem; border-radius: 0.4rem; overflow-x: auto; }
a { color: var(--accent); } nav ul { list-style: none; padding: 0; columns: 16rem; }
.verb { display: inline-block; min-width: 3.2rem; font-weight: 600; color: var(--accent); }
details { border: 1px solid var(--line); border-radius: 0.4rem; margin: 0.4rem 0; padding: 0.3rem 0.75rem; }
summary { cursor: pointer; } dt { font-weight: 600; }
"""

_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Only this very style; no script at all."""


def docs_routes(app: FastAPI) -> list[Route]:
    """Routes for the document of `app` as it is now: everything else is added before."""
    content = document(app)
    app.openapi_schema = content
    written, page = orjson.dumps(content), html(content).encode()

    async def openapi(request: Request) -> Response:
        return Response(written, media_type="application/json")

    async def docs(request: Request) -> Response:
        headers = {"content-security-policy": POLICY, "content-type": "text/html; charset=utf-8"}
        return Response(page, headers=headers)

    return [Route("/openapi.json", openapi, methods=["GET"]), Route("/docs", docs, methods=["GET"])]


def html(content: Document) -> str:
    """The page."""
    operations = [
        (verb, path, operation) for path, item in content["paths"].items() for verb, operation in item.items()
    ]
    links = "".join(
        f'<li><a href="#{_anchor(verb, path)}"><span class="verb">{verb.upper()}</span> {escape(path)}</a></li>'
        for verb, path, _ in operations
    )
    about = "".join(f"<p>{_prose(part)}</p>" for part in content["info"]["description"].strip().split("\n\n"))
    sections = "".join(_section(verb, path, operation) for verb, path, operation in operations)
    shapes = "".join(
        _folded(f"<code id='shape-{escape(name)}'>{escape(name)}</code>", _code(shape))
        for name, shape in sorted(content["components"]["schemas"].items())
    )
    title = f"{escape(content['info']['title'])} {escape(content['info']['version'])}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
        f'<h1>{title}</h1>{about}<p><a href="openapi.json">openapi.json</a> &middot; <a href="./">the page</a></p>'
        f"<nav><ul>{links}</ul></nav><main>{sections}<h2>Shapes</h2>{shapes}</main></body></html>"
    )


def _section(verb: str, path: str, operation: Mapping[str, Any]) -> str:
    about, summary = _prose(operation.get("description", "")), escape(operation.get("summary", ""))
    heading = f'<span class="verb">{verb.upper()}</span> <code>{escape(path)}</code>'
    parts = [f'<h2 id="{_anchor(verb, path)}">{heading}</h2><p><strong>{summary}</strong> {about}</p>']
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        parts += [_folded(f"Request: {escape(name)}", _code(one)) for name, one in _examples(kind, body)]
    for status, response in operation.get("responses", {}).items():
        shown = [
            _code(one) for kind, body in response.get("content", {}).items() for _, one in _examples(kind, body)
        ]
        parts.append(_folded(f"<code>{status}</code> {escape(response['description'])}", "".join(shown)))
    return "".join(parts)


def _examples(kind: str, body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a body may look like, by name: its examples, or where it has none its schema."""
    if "examples" in body:
        yield from ((name, example.get("value")) for name, example in body["examples"].items())
    elif "example" in body:
        yield kind, body["example"]
    else:
        yield kind, body.get("schema", {})


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"


def _code(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return f"<pre>{escape(text)}</pre>"


def _prose(text: str) -> str:
    """Text with `code` in it."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))


def _anchor(verb: str, path: str) -> str:
    return "".join(one if one.isalnum() else "-" for one in f"{verb}{path}")

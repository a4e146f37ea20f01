"""The page at `/`: files that are read once, served from memory, and load nothing from anywhere else."""

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Protocol

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from polyfold.serve.spec import Limits

FOLDER = Path(__file__).with_name("static")
INDEX = "index.html"
ICON = "icon.svg"
NO_MODULE = "theme.js"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Nothing inline, nothing from elsewhere; with trusted types the browser itself lets no string become markup."""

HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

FOREVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"

_SHOWN = ("max_body_bytes", "max_texts", "max_characters")


class HasLimits(Protocol):
    """What the page needs of a service: how much it takes at a time."""

    @property
    def limits(self) -> Limits: ...


@dataclass(frozen=True)
class PageFiles:
    """The page's files by name, and the digest of all of them, which is part of their address."""

    contents: Mapping[str, bytes]
    digest: str

    @staticmethod
    def read(folder: Path = FOLDER) -> "PageFiles":
        """All files of the folder, whose names therefore are all that can be asked for."""
        contents = {
            path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in MEDIA_TYPES
        }
        whole = hashlib.sha256()
        for name, content in contents.items():
            whole.update(f"{name} {len(content)}\n".encode() + content)
        return PageFiles(contents, whole.hexdigest()[:16])

    def index(self, limits: Limits) -> bytes:
        """The page itself; its addresses are relative, so that it works behind a proxy's path, too."""
        shown = json.dumps(limits.model_dump(include=set(_SHOWN)))
        modules = [name for name in self.contents if name.endswith(".js") and name != NO_MODULE]
        # Without these, a browser learns of a module only when it has read the one that imports it.
        ahead = "\n".join(f'<link rel="modulepreload" href="__STATIC__/{name}">' for name in modules)
        filled = self.contents[INDEX].decode().replace("__PRELOAD__", ahead).replace("__LIMITS__", escape(shown))
        return filled.replace("__STATIC__", f"static/{self.digest}").encode()


def add_page(app: FastAPI, service: HasLimits) -> None:
    """Serve `/`, `/favicon.ico` and `/static/...`.

    The page names its files under their digest, so that browsers keep them for good and never mix two versions.
    """
    files = PageFiles.read()
    index = files.index(service.limits)

    async def page(request: Request) -> Response:
        return _answer(request, INDEX, index, ASK_AGAIN)

    async def icon(request: Request) -> Response:
        return _answer(request, ICON, files.contents[ICON], ASK_AGAIN)

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in files.contents or name == INDEX:
            raise HTTPException(404)
        # Another digest is another version's page, while servers are replaced: better these files than none.
        known = request.path_params.get("digest") == files.digest
        return _answer(request, name, files.contents[name], FOREVER if known else ASK_AGAIN)

    routes: Mapping[str, Callable[[Request], Awaitable[Response]]] = {
        "/": page,
        "/favicon.ico": icon,
        "/static/{name}": static,
        "/static/{digest}/{name}": static,
    }
    # Starlette's own routes: they answer HEAD, and stay out of the OpenAPI.
    app.router.routes.extend(Route(path, endpoint, methods=["GET"]) for path, endpoint in routes.items())


def _answer(request: Request, name: str, content: bytes, caching: str) -> Response:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {**HEADERS, "cache-control": caching, "etag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=MEDIA_TYPES[Path(name).suffix])

"""What another website, open in the operator's browser, may do to the service: nothing.

A page of any site can make the browser send requests to this machine's loopback, where no firewall stands before
us. What keeps it out: its scripts cannot read our answers, since we never say that they may (no CORS header is
ever sent). It cannot post: browsers say of each request whether it comes from another site (`Sec-Fetch-Site`, W3C
Fetch Metadata; `Origin`, RFC 6454), and those that would not cannot send `application/json` without asking first
(Fetch standard, 2.2.2). And it cannot pass for our own page by pointing its name at 127.0.0.1 (DNS rebinding),
since the header Host then has that name.
"""

from collections.abc import Collection

from polyfold.serve.refusals import Refusal

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
BODY_TYPES = ("application/json", "application/octet-stream")
_SAFE_METHODS = ("GET", "HEAD")


def is_loopback(bound_to: str) -> bool:
    """Whether only this machine reaches a service bound to this address."""
    return bound_to in ("localhost", "::1") or bound_to.startswith("127.")


def allowed_hosts(bound_to: str, more: Collection[str] = ()) -> frozenset[str] | None:
    """The names under which the service may be asked; None for any.

    On loopback they are known. Elsewhere they are not, unless the operator names them in `more`.
    """
    named = frozenset(name.lower() for name in more)
    if is_loopback(bound_to):
        return LOOPBACK_NAMES | {bound_to.lower()} | named
    return named or None


def check_host(host: str | None, allowed: frozenset[str] | None) -> None:
    """Refusal where the header Host names another machine. A client that sends none is no browser."""
    if allowed is None or host is None or host in allowed:
        return
    name, _, port = host.lower().rpartition(":")
    if not (name in allowed and port.isdecimal()) and host.lower() not in allowed:
        hint = "ask for localhost or 127.0.0.1, or name this host when you start the service"
        raise Refusal(403, "forbidden", "the header Host does not name this service", hint=hint)


def check_source(method: str, site: str | None, origin: str | None, host: str | None) -> None:
    """Refusal where another website asks for more than to look.

    `site` is the header Sec-Fetch-Site, which is right behind any proxy; where a browser does not send it,
    `origin` must name the host that was asked. Clients that are no browsers send neither.
    """
    if method in _SAFE_METHODS:
        return
    foreign = origin is not None and (host is None or origin.lower().partition("://")[2] != host.lower())
    if site not in ("same-origin", "none") if site is not None else foreign:
        raise Refusal(
            403, "forbidden", "this request comes from another website", hint="call the service directly"
        )


def check_body_type(content_type: str | None) -> None:
    """Refusal where a body is of a type that a form, or a script without asking, could send."""
    if (content_type or "").partition(";")[0].strip().lower() not in BODY_TYPES:
        hint = f"set the header Content-Type to {' or '.join(BODY_TYPES)}"
        raise Refusal(415, "bad_request", "the body is of a type that is not read here", hint=hint)

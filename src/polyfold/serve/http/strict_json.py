"""A request's body as a checked value: whatever is wrong with it is the client's mistake, and said so.

Stricter than parsers are by themselves: keys that come twice and NaN are refused, as two parsers would read them
differently. A lone surrogate inside a string is let through, so that one bad text among many can be told by
itself. Python's parser and pydantic together take 4 us for one text and 13 us for 32 of 200 characters; pydantic's
own parser alone takes 2 and 6 us, but keeps the last of two equal keys and refuses the whole body for a surrogate.
"""

import json
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from polyfold.serve.refusals import Code, Refusal

Model = TypeVar("Model", bound=BaseModel)

_SHOWN = 64
_NO_CODES: Mapping[str, Code] = {}


class _NotJson(ValueError):
    """What our own hooks refuse; the message is for the client."""


def parse(shape: type[Model], body: bytes, codes: Mapping[str, Code] = _NO_CODES) -> Model:
    """The body as `shape`; Refusal 400 where it is no JSON, 422 where it is other JSON than that.

    A mistake below one of the fields in `codes` gets that code of its own.
    """
    given = decode(body)
    try:
        return shape.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(shown(str(part)) for part in first["loc"])
        code = codes.get(str(first["loc"][0]), "bad_request") if first["loc"] else "bad_request"
        message = f"{where}: {first['msg']}" if where else first["msg"]
        raise Refusal(422, code, message, hint="see /docs for what a request may hold") from None


def decode(body: bytes) -> Any:
    """The value that the body writes in JSON; Refusal 400."""
    try:
        return _DECODER.decode(body.decode())
    except UnicodeDecodeError:
        problem = "the body is not valid UTF-8"
    except RecursionError:
        problem = "the body is nested too deeply"
    except json.JSONDecodeError as error:
        problem = f"the body is not valid JSON: {error}" if body.strip() else "the body is empty"
    except _NotJson as error:
        problem = str(error)
    except ValueError:
        # Python refuses integers of more than 4300 digits, which would take it seconds.
        problem = "a number in the body is too long"
    raise Refusal(400, "bad_json", problem, hint='send JSON, such as {"text": "Where is my parcel?"}')


def shown(given: str) -> str:
    """What a client wrote, short and printable, so that a message can quote it."""
    cut = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}..."
    return cut.encode("utf-8", "replace").decode()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise _NotJson(f"the key '{shown(twice)}' stands twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise _NotJson(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)

"""The messages of `proto/inference.proto` as classes, made from that file when the server starts.

protoc's own Python output is bound to the protobuf release that made it and the one after, and registers its names
for the whole process, where a client library with the same messages clashes. Read here, the file is the one
source, and the classes live in a pool of their own. What is understood of the language is what that file uses.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PROTO = Path(__file__).with_name("proto") / "inference.proto"

_TOKEN = re.compile(r'//[^\n]*|"[^"]*"|[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[{}()<>=;,]')
_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = ("bool", "bytes", "double", "float", "int32", "int64", "string", "uint32", "uint64")


@dataclass(frozen=True)
class Method:
    """One call of the service: what comes and what goes, as message classes."""

    request: Any
    response: Any


@dataclass(frozen=True)
class Protocol:
    """The service's full name and its calls by name."""

    service: str
    methods: dict[str, Method]


def read_protocol(path: Path = PROTO) -> Protocol:
    """Message classes for every call of the service in a .proto file."""
    content = _Reader(path.read_text(encoding="utf8")).file(path.name)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(content.SerializeToString())

    def class_of(name: str) -> Any:
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{content.package}.{name}"))

    (service,) = content.service
    methods = {one.name: Method(class_of(one.input_type), class_of(one.output_type)) for one in service.method}
    return Protocol(f"{content.package}.{service.name}", methods)


class _Reader:
    """Reads declarations one after the other; an assertion fails where the file says what is not understood."""

    def __init__(self, text: str) -> None:
        self._tokens: Iterator[str] = (one for one in _TOKEN.findall(text) if not one.startswith("//"))

    def file(self, name: str) -> Any:
        """The whole file as its descriptor."""
        found = descriptor_pb2.FileDescriptorProto(name=name)
        for word in self._tokens:
            match word:
                case "syntax":
                    self._expect("=")
                    found.syntax = next(self._tokens).strip('"')
                    self._expect(";")
                case "package":
                    found.package = next(self._tokens)
                    self._expect(";")
                case "message":
                    self._message(found.message_type.add())
                case "service":
                    self._service(found.service.add())
                case _:
                    raise AssertionError(f"not understood: {word}")
        return found

    def _service(self, found: Any) -> None:
        found.name = next(self._tokens)
        self._expect("{")
        while (word := next(self._tokens)) != "}":
            assert word == "rpc", word
            method = found.method.add(name=next(self._tokens))
            self._expect("(")
            method.input_type = next(self._tokens)
            self._expect(") returns (")
            method.output_type = next(self._tokens)
            self._expect(") { }")

    def _message(self, found: Any) -> None:
        found.name = next(self._tokens)
        self._expect("{")
        while (word := next(self._tokens)) != "}":
            match word:
                case "message":
                    self._message(found.nested_type.add())
                case "oneof":
                    found.oneof_decl.add(name=next(self._tokens))
                    self._expect("{")
                    while (kind := next(self._tokens)) != "}":
                        self._field(found, kind).oneof_index = len(found.oneof_decl) - 1
                case "map":
                    self._map(found)
                case "repeated":
                    self._field(found, next(self._tokens)).label = _FIELD.LABEL_REPEATED
                case _:
                    self._field(found, word)

    def _map(self, found: Any) -> None:
        """A map is a repeated message of key and value (the language guide, "Maps", backwards compatibility)."""
        self._expect("<")
        key = next(self._tokens)
        self._expect(",")
        value = next(self._tokens)
        self._expect(">")
        field = self._field(found, "map")
        entry = found.nested_type.add(name="".join(map(str.title, field.name.split("_"))) + "Entry")
        entry.options.map_entry = True
        for number, (name, kind) in enumerate((("key", key), ("value", value)), 1):
            _typed(entry.field.add(name=name, number=number, label=_FIELD.LABEL_OPTIONAL), kind)
        field.label = _FIELD.LABEL_REPEATED
        _typed(field, entry.name)

    def _field(self, found: Any, kind: str) -> Any:
        field = found.field.add(name=next(self._tokens), label=_FIELD.LABEL_OPTIONAL)
        self._expect("=")
        field.number = int(next(self._tokens))
        self._expect(";")
        _typed(field, kind)
        return field

    def _expect(self, tokens: str) -> None:
        for token in tokens.split():
            found = next(self._tokens)
            assert found == token, f"{found} in place of {token}"


def _typed(field: Any, kind: str) -> None:
    """A scalar, or else a message, whose name the pool resolves from where it stands."""
    if kind in _SCALARS:
        field.type = _FIELD.Type.Value(f"TYPE_{kind.upper()}")
    else:
        field.type = _FIELD.TYPE_MESSAGE
        field.type_name = kind

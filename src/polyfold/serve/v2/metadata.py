"""What the service and its models say of themselves in the Open Inference Protocol, over HTTP and gRPC."""

from polyfold import __version__
from polyfold.serve.engine.fleet import Fleet
from polyfold.serve.engine.served import ServedModel
from polyfold.serve.refusals import Refusal
from polyfold.serve.v2.inputs import IDS, MASK, TEXT
from polyfold.serve.v2.outputs import DEFAULT, outputs_of
from polyfold.serve.v2.schemas import ModelMetadata, ServerMetadata, TensorMetadata

NAME = "polyfold"
EXTENSIONS = ("binary_tensor_data", "model_repository")
PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "torch": "pytorch"}
ANY = -1

GRPC_SERVICE = "inference.GRPCInferenceService"
GRPC_CALLS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
GRPC_ROUTES = tuple(f"/{GRPC_SERVICE}/{call}" for call in GRPC_CALLS)
"""As exchanges, and so logs and metrics, name the calls of gRPC."""


def describe_server() -> ServerMetadata:
    """The service."""
    return ServerMetadata(name=NAME, version=__version__, extensions=list(EXTENSIONS))


def describe_model(fleet: Fleet, model: ServedModel) -> ModelMetadata:
    """One version of a model; `versions` are all that may be asked for by name.

    Generic clients send every input that stands in `inputs`, so only the text does; the other pair, for clients
    that tokenize themselves, is told in `parameters`.
    """
    outputs = outputs_of(model)
    tokens = [TensorMetadata(name=name, datatype="INT64", shape=[ANY, ANY]) for name in (IDS, MASK)]
    return ModelMetadata(
        name=model.name,
        versions=[one.version for one in fleet.models if one.name == model.name],
        platform=PLATFORMS.get(model.runtime, model.runtime),
        inputs=[TensorMetadata(name=TEXT, datatype="BYTES", shape=[ANY])],
        outputs=[TensorMetadata(name=one.name, datatype=one.datatype, shape=one.shape(ANY)) for one in outputs],
        parameters={
            "version": model.version,
            "tasks": {task.name: {"kind": task.kind, "labels": list(task.labels)} for task in model.tasks},
            "inputs_instead_of_text": [one.model_dump() for one in tokens],
            "max_length": model.config.max_length,
            "vocabulary_size": model.vocabulary_size,
            "default_outputs": [one.name for one in outputs if one.part in DEFAULT],
        },
    )


def find(fleet: Fleet, name: str, version: str | None) -> ServedModel:
    """A version, or the one that answers most requests without one; Refusal 404. Works while the service stops."""
    named = [one for one in fleet.models if one.name == name]
    if not named:
        known = ", ".join(dict.fromkeys(one.name for one in fleet.models))
        hint = f"models: {known or 'none is loaded'}"
        raise Refusal(404, "unknown_model", f"there is no model '{name[:64]}'", hint=hint)
    shares = fleet.routing[name].shares
    for model in sorted(named, key=lambda one: shares.get(one.version, 0.0), reverse=True):
        if version in (None, model.version):
            return model
    hint = f"versions: {', '.join(one.version for one in named)}"
    raise Refusal(404, "unknown_version", f"there is no version '{(version or '')[:64]}'", hint=hint)


def model_is_ready(fleet: Fleet, name: str, version: str | None) -> bool:
    """Whether a version, or what answers without one, may be asked; Refusal 404."""
    return fleet.started and not fleet.stopping and find(fleet, name, version).state == "ready"

"""Which layer of a student learns from which layer of its teacher."""

from typing import Annotated, Literal

from pydantic import Field

LayerMap = Literal["uniform", "last"] | Annotated[dict[int, int], Field(min_length=1)]
"""`last`: last from last. `uniform`: evenly spaced, the last from the last. Or {student layer: teacher layer},
counted from 0 above the embedding layer."""


def layer_pairs(layers: LayerMap, student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """(student layer, teacher layer) pairs for encoders of so many layers; given ones are not checked here.

    Uniform is TinyBERT's g(m) = m N / M (Jiao et al., 2020, section 3.1), counted from 1, rounded up where M
    layers do not divide N.
    """
    match layers:
        case "last":
            return ((student - 1, teacher - 1),)
        case "uniform":
            return tuple((own, -(-(own + 1) * teacher // student) - 1) for own in range(student))
        case _:
            return tuple(sorted(layers.items()))

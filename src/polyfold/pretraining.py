"""The encoders that a recipe distils for itself, before teachers and students start from them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyfold.artifact import Stage
from polyfold.model.backbone import Backbone, backbone_files, family_of
from polyfold.model.outline import outline, outline_small, with_layers
from polyfold.model.source import check_trainable
from polyfold.model.student import BackboneInit, ConvolutionalInit, TransformerInit
from polyfold.model.use_multilingual import FAMILY
from polyfold.recipe import Recipe
from polyfold.train import backbones as distilling
from polyfold.train.backbones import BackboneSpec, distill_backbone
from polyfold.workshop import Workshop, perform


@dataclass(frozen=True)
class BackbonePlan:
    """The recipe's own backbones and their stages, in the order they run."""

    specs: Mapping[str, BackboneSpec]
    stages: Mapping[str, Stage]
    base: Path

    def parents(self, name: str) -> tuple[str, ...]:
        """The key of the stage that makes a backbone, where this recipe does."""
        return (self.stages[name].key,) if name in self.stages else ()

    def files(self, name: str) -> dict[str, str]:
        """The digests of a local backbone's files; none for what this recipe makes, or the hub holds."""
        return {} if name in self.stages else backbone_files(name, self.base)

    def origin(self, name: str) -> str:
        """The published encoder whose tokenizer a backbone has."""
        spec = self.specs.get(name)
        if spec is None:
            return name
        return self.origin(spec.init.name if isinstance(spec.init, BackboneInit) else spec.teacher)

    def outline(self, init: BackboneInit | TransformerInit | ConvolutionalInit) -> Backbone:
        """The shape of an encoder that is there, is made by this recipe, or is built small."""
        if not isinstance(init, BackboneInit):
            return outline_small(init)
        made = self.specs.get(init.name)
        if made is None:
            check_trainable(init.name, self.base)
        whole = outline(init.name, self.base) if made is None else self.outline(made.init)
        return whole if init.layers is None else with_layers(whole, init.layers)

    def family(self, name: str) -> str:
        """The family of a backbone, before it is made."""
        spec = self.specs.get(name)
        match spec.init if spec is not None else BackboneInit(name=name):
            case BackboneInit(name=started):
                return self.family(started) if started in self.specs else family_of(started, self.base)
            case ConvolutionalInit():
                return FAMILY
            case _:
                return "bert"


def plan_backbones(recipe: Recipe, base: Path, seen: str) -> BackbonePlan:
    """A stage for each; one may learn from another further up the list, or start from it."""
    stages: dict[str, Stage] = {}
    plan = BackbonePlan({}, {}, base)
    for spec in recipe.backbones:
        names = tuple(_names(spec))
        settings = {**spec.model_dump(mode="json"), "seed": recipe.seed}
        parents = (seen, *(key for name in names for key in plan.parents(name)))
        files = {f"{name}/{file}": digest for name in names for file, digest in plan.files(name).items()}
        stages[spec.name] = Stage("backbone", spec.name, distilling.STAGE_VERSION, settings, parents, files)
        plan = BackbonePlan({**plan.specs, spec.name: spec}, dict(stages), base)
    return plan


def build_backbones(plan: BackbonePlan, shop: Workshop) -> dict[str, Path]:
    """Distil them in turn; the folder of each by its name."""
    made: dict[str, Path] = {}
    for name, stage in plan.stages.items():
        spec = grounded(plan.specs[name], made)

        def build(folder: Path, spec: BackboneSpec = spec) -> Mapping[str, Any]:
            result = distill_backbone(spec, shop.data, shop.base, folder, shop.recipe.seed)
            return {"steps": result.steps}

        made[name] = perform(stage, shop.root, build).path.resolve()
    return made


def grounded(spec: BackboneSpec, made: Mapping[str, Path]) -> BackboneSpec:
    """The spec with folders in place of the names of backbones made here."""
    init = spec.init
    if isinstance(init, BackboneInit) and init.name in made:
        init = init.model_copy(update={"name": str(made[init.name])})
    return spec.model_copy(update={"init": init, "teacher": str(made.get(spec.teacher, spec.teacher))})


def _names(spec: BackboneSpec) -> Iterator[str]:
    """The encoders that one is made from."""
    yield spec.teacher
    if isinstance(spec.init, BackboneInit):
        yield spec.init.name

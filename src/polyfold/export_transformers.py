"""Each task as a stock `...ForSequenceClassification` folder, for everything that is built on transformers.

`transformers.pipeline("text-classification", model=folder)` loads such a folder unchanged, without Polyfold, and
gives the same scores: the temperature is folded into the classifier's weights, and `problem_type` chooses between
softmax and sigmoid. Our heads are linear in the first token's state x, where the stock classes put a dense layer
and a nonlinearity between, so a linear head is written in their terms:

- BERT and RoBERTa, `classifier(tanh(dense(x)))`: dense is eps times the identity and the classifier W / eps. With
  eps a power of two no weight is rounded, and tanh(y) = y (1 - y^2 / 3 + ...) changes a state by a share of at
  most (eps x)^2 / 3: at eps = 2^-14 1.2e-9 where |x| = 1, and 1.2e-7, fp32's own rounding, where |x| = 10. (A
  LayerNorm bounds x: |x| <= |gamma| sqrt(hidden - 1) + |beta|, less than 28 gamma in a base model.) A smaller eps
  would be no better in fp32 and lose the small states in fp16, in which servers often run.
- DistilBERT, `classifier(relu(dense(x)))`: a label's logit is relu(z) - relu(-z) with z = W x + b, which rounds
  nothing. It takes two rows of the dense layer a label.

An encoder whose layers differ in size after pruning is filled up with zeros to what its family can state.
ModernBERT's head normalizes what the dense layer and GELU made of x: no linear function of x passes through it.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from safetensors.torch import save_file
from torch import Tensor, nn

from polyfold.console import warn
from polyfold.errors import InputError
from polyfold.model.backbone import FAMILIES
from polyfold.model.classifier import WEIGHTS_FILE, Model
from polyfold.model.hub import quietly
from polyfold.model.layout import base_family
from polyfold.model.padded import Stated, stated
from polyfold.model.quantized import HOOKS
from polyfold.model.tokenizer_convert import to_tokenizers_json
from polyfold.tasks import Task
from polyfold.text import TokenizerSpec, open_tokenizer, pad_rows, plan_batches

STAGE_VERSION = 1
FOLDER = "transformers"
TOLERANCE = 1e-4
"""Scores further apart than this are warned of: more than rounding, so some text was cut into other tokens."""
COMPARED = 256
_LARGEST_GAIN = 14
_HALF_PRECISION = 2.0**15

Tensors = dict[str, Tensor]


class TransformersExport(BaseModel):
    """For transformers: a stock classification folder a task, `transformers/<task>/`, in fp32.

    Where a line ends in quantization, its last model before that is written. `only` names the students (or
    `teacher`) to export; without it, all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["transformers"] = "transformers"
    only: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Stock:
    """A family's stock class: its name, what it calls the encoder, and how it holds a linear head."""

    architecture: str
    prefix: str
    head: Callable[[Float[Tensor, "labels hidden"], Float[Tensor, "labels"]], Tensors]


def _through_tanh(
    dense: str, classifier: str
) -> Callable[[Float[Tensor, "labels hidden"], Float[Tensor, "labels"]], Tensors]:
    def head(weight: Float[Tensor, "labels hidden"], bias: Float[Tensor, "labels"]) -> Tensors:
        # In fp16 the classifier's weights must stay below 65,504.
        room = math.floor(math.log2(_HALF_PRECISION / max(float(weight.abs().max()), 1e-30)))
        gain = 2.0 ** max(1, min(_LARGEST_GAIN, room))
        hidden = weight.shape[1]
        return {
            f"{dense}.weight": torch.eye(hidden) / gain,
            f"{dense}.bias": torch.zeros(hidden),
            f"{classifier}.weight": weight * gain,
            f"{classifier}.bias": bias,
        }

    return head


def _through_relu(weight: Float[Tensor, "labels hidden"], bias: Float[Tensor, "labels"]) -> Tensors:
    labels, hidden = weight.shape
    if 2 * labels > hidden:
        raise InputError(
            f"DistilBERT's stock head of width {hidden} has no room for {labels} labels",
            key="export.transformers",
            hint=f"it holds {hidden // 2}; export to another runtime",
        )
    rest = hidden - 2 * labels
    ones = torch.eye(labels)
    return {
        "pre_classifier.weight": torch.cat([weight, -weight, torch.zeros(rest, hidden)]),
        "pre_classifier.bias": torch.cat([bias, -bias, torch.zeros(rest)]),
        "classifier.weight": torch.cat([ones, -ones, torch.zeros(labels, rest)], dim=1),
        "classifier.bias": torch.zeros(labels),
    }


_ROBERTA = _through_tanh("classifier.dense", "classifier.out_proj")
STOCK: Mapping[str, Stock] = {
    "bert": Stock("BertForSequenceClassification", "bert", _through_tanh("bert.pooler.dense", "classifier")),
    "roberta": Stock("RobertaForSequenceClassification", "roberta", _ROBERTA),
    "xlm-roberta": Stock("XLMRobertaForSequenceClassification", "roberta", _ROBERTA),
    "distilbert": Stock("DistilBertForSequenceClassification", "distilbert", _through_relu),
}


def check_family(family: str, what: str) -> None:
    """InputError, with the reason, where a model of this family has no stock class that computes the same."""
    if base_family(family) in STOCK:
        return
    reasons = {
        "use-multilingual": "transformers has no class for convolutional encoders",
        "stock": "its layers above the encoder are those of the stock classifier that it started from",
        "modernbert": "ModernBERT's stock head normalizes the sentence vector, which no linear head survives",
    }
    raise InputError(
        f"{what} cannot be exported to transformers: "
        + reasons.get(base_family(family), f"no stock class holds a model of family '{family}'"),
        key="export.transformers",
        hint=f"name the students that can with `only`, or leave it out; families that can: {', '.join(STOCK)}",
    )


def export_transformers(model: Model, source: Path, folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Write `transformers/<task>/` for every task; returns how far the scores of `texts` lie apart from ours.

    `source` holds the model's tokenizer. InputError where the model is quantized or its family has no stock class.
    """
    check_family(model.backbone.family, "this model")
    if any(HOOKS in name for name in model.classifier.state_dict()):
        raise InputError(
            "a quantized model cannot be exported to transformers: its classes know no quantizers",
            key="export.transformers",
            hint="export the model that was quantized",
        )
    texts = [text for text in texts if _is_unicode(text)][:COMPARED]
    ours = _our_scores(model, source, texts)
    apart: dict[str, float] = {}
    for task in model.tasks:
        target = folder / FOLDER / task.name
        write_task(model, task, source, target)
        theirs = _their_scores(target, task, texts)
        apart[task.name] = float(np.abs(theirs - ours[task.name]).max(initial=0.0))
        if apart[task.name] > TOLERANCE:
            warn(f"transformers' scores for '{task.name}' lie up to {apart[task.name]:.1e} off ours on dev texts")
    return {"texts_compared": len(texts), "largest_score_difference": apart}


def write_task(model: Model, task: Task, source: Path, target: Path) -> None:
    """One task's folder: configuration, weights, tokenizer and card, in the hub's layout."""
    target.mkdir(parents=True, exist_ok=True)
    encoder = stated(replace(model.backbone, module=model.classifier.encoder))
    stock = STOCK[encoder.family]
    weights = {f"{stock.prefix}.{name}": value for name, value in encoder.weights.items()}
    weights |= stock.head(*_linear(model, task))
    weights = {name: value.contiguous() for name, value in weights.items()}
    save_file(weights, target / WEIGHTS_FILE, metadata={"format": "pt"})
    tokenizer = _tokenizer_json(source, model.backbone.tokenizer)
    by_id = FAMILIES[encoder.family].position_offset > 0
    pad_token = _pad_token(tokenizer, model.backbone.tokenizer.pad_id, by_id)
    _write_json(target / "tokenizer.json", tokenizer)
    _write_json(target / "tokenizer_config.json", _tokenizer_config(tokenizer, pad_token, model.max_length))
    _stock_config(encoder, task, stock).save_pretrained(target)
    (target / "README.md").write_text("\n".join(_card(model, task)) + "\n", encoding="utf8")


def _linear(model: Model, task: Task) -> tuple[Tensor, Tensor]:
    """The task's head with its temperature folded in: weight [labels, hidden] and bias [labels]."""
    head = model.classifier.heads[task.name]
    assert isinstance(head, nn.Linear)
    return head.weight.detach().cpu() / task.temperature, head.bias.detach().cpu() / task.temperature


def _stock_config(encoder: Stated, task: Task, stock: Stock) -> Any:
    from transformers import AutoConfig

    ours = ("tasks", "polyfold", "model_type", "architectures", "id2label", "label2id", "problem_type")
    settings = {name: value for name, value in encoder.config.items() if name not in ours}
    config = AutoConfig.for_model(
        encoder.family,
        **settings,
        id2label=dict(enumerate(task.labels)),
        label2id={label: index for index, label in enumerate(task.labels)},
        problem_type=f"{task.kind}_classification",
    )
    config.architectures = [stock.architecture]
    config.dtype = "float32"
    return config


def _tokenizer_json(source: Path, spec: TokenizerSpec) -> dict[str, Any]:
    """The tokenizer as a `tokenizers` JSON without truncation and padding: callers say how long and how wide."""
    match spec.kind:
        case "tokenizers":
            content = json.loads((source / spec.file).read_bytes())
        case "sentencepiece":
            content = json.loads(to_tokenizers_json(source, spec))
    return {**content, "truncation": None, "padding": None}


def _tokenizer_config(tokenizer: Mapping[str, Any], pad_token: str, max_length: int) -> dict[str, Any]:
    """A class that reads `tokenizer.json` as it is: those named for a family rebuild it from the vocabulary alone.

    Special tokens are named only where the JSON has them as such already: naming one makes it special, and texts
    that spell it out would be cut otherwise.
    """
    special = {token["content"] for token in tokenizer.get("added_tokens") or [] if token["special"]}
    names = {
        "bos_token": ("<s>", "<bos>"), "eos_token": ("</s>", "<eos>"), "unk_token": ("<unk>", "[UNK]"),
        "cls_token": ("[CLS]", "<s>"), "sep_token": ("[SEP]", "</s>"), "mask_token": ("[MASK]", "<mask>"),
    }  # fmt: skip
    found = {name: next((one for one in choices if one in special), None) for name, choices in names.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_length,
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        **{name: token for name, token in found.items() if token is not None},
        "pad_token": pad_token,
    }


def _pad_token(tokenizer: Mapping[str, Any], pad_id: int, by_id: bool) -> str:
    """The piece that pads: where positions are counted `by_id` (RoBERTa) that one, else the mask hides any."""
    added = {token["id"]: str(token["content"]) for token in tokenizer.get("added_tokens") or []}
    named = [token for token in added.values() if token in ("<pad>", "[PAD]")]
    if named and not by_id:
        return named[0]
    vocabulary = tokenizer["model"]["vocab"]
    if pad_id in added:
        return added[pad_id]
    if isinstance(vocabulary, list):
        return str(vocabulary[pad_id][0])
    return next(str(piece) for piece, index in vocabulary.items() if index == pad_id)


def _card(model: Model, task: Task) -> Iterator[str]:
    """What a person needs who has the folder only."""
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "language": list(task.languages) if task.languages else None,
        "tags": ["polyfold", "multilingual" if task.languages is None else "text-classification"],
    }
    known = {key: value for key, value in front.items() if value}
    yield "---\n" + yaml.safe_dump(known, sort_keys=False, allow_unicode=True) + "---"
    yield f"# {task.name}"
    yield ""
    answer = "any number of" if task.multi_label else "exactly one"
    yield f"A text classifier that gives a document {answer} of: {', '.join(task.labels)}. Made with Polyfold."
    yield ""
    yield "```python\nfrom transformers import pipeline\n"
    yield 'classifier = pipeline("text-classification", model=".", top_k=None)'
    yield 'classifier(["..."], truncation=True)\n```'
    yield ""
    yield f"Scores are calibrated. Texts of more than {model.max_length} tokens must be cut (`truncation=True`)."
    if task.multi_label and task.thresholds is not None:
        yield ""
        yield "A label applies from this score on, fitted on held-out texts:"
        yield ""
        yield "| label | threshold |\n|---|---|"
        for label, threshold in zip(task.labels, task.thresholds, strict=True):
            yield f"| {label} | {threshold:.4f} |"
    if model.backbone.weights == "random":
        yield "\nIts weights are random: it is for measuring speed and says nothing about any text."


# --- comparing scores ---


def _our_scores(model: Model, source: Path, texts: Sequence[str]) -> dict[str, np.ndarray]:
    tokenizer = open_tokenizer(source, model.backbone.tokenizer)
    encoding = tokenizer.encode(texts, model.max_length)
    scores = {task.name: np.zeros((len(texts), len(task.labels))) for task in model.tasks}
    classifier = model.classifier.eval().cpu()
    for rows in plan_batches(encoding.lengths, token_budget=2048):
        ids, mask = pad_rows(encoding, rows, tokenizer.spec.pad_id)
        with torch.no_grad():
            logits = classifier(torch.from_numpy(ids), torch.from_numpy(mask)).logits
        for task in model.tasks:
            scores[task.name][rows] = task.probabilities(logits[task.name].numpy())
    return scores


def _their_scores(folder: Path, task: Task, texts: Sequence[str]) -> np.ndarray:
    """Scores of the stock model, as its users load it and call it; some lengths are padded, some are not."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with quietly():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        stock, loading = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"], loading
    stock.eval()
    plain = task.model_copy(update={"temperature": 1.0})
    scores = np.zeros((len(texts), len(task.labels)))
    for rows in plan_batches(np.asarray([len(text) for text in texts]), token_budget=4096):
        encoded = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            scores[rows] = plain.probabilities(stock(**encoded).logits.numpy())
    return scores


def _is_unicode(text: str) -> bool:
    """Whether transformers takes it: its tokenizers refuse lone surrogates, ours replaces them."""
    return text.encode("utf8", "replace").decode("utf8") == text


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf8")

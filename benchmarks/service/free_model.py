"""A model that costs nothing: with it, a server's time is what serving itself takes.

It has the tasks of a real model, so that questions and answers are as long, and words for tokens. Its graph counts
a document's tokens and multiplies by a row of weights. What little it takes is measured offline and subtracted.
"""

from pathlib import Path

import numpy as np

from polyfold.artifact import CONFIG, ModelConfig, read_config, write_config
from polyfold.text import TokenizerSpec

FILE = "model.onnx"


def write_free_model(like: Path, folder: Path) -> Path:
    """A model folder with the tasks of `like`; one that is there already is kept."""
    config, tasks = read_config(like)
    if (folder / CONFIG).is_file() and read_config(folder)[1] == tasks:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes(_graph([(task.name, len(task.labels)) for task in tasks]))
    free = ModelConfig(
        family="free",
        runtime="onnxruntime",
        precision="fp32",
        weights="random",
        file=FILE,
        tokenizer=_write_tokenizer(folder),
        max_length=config.max_length,
        parameters=1,
        trunk_parameters=1,
    )
    write_config(folder, free, tasks, {})
    return folder


def _write_tokenizer(folder: Path) -> TokenizerSpec:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: number for number, word in enumerate(("<s>", "<pad>", "</s>", "<unk>", "a"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return TokenizerSpec(kind="tokenizers", file="tokenizer.json", pad_id=1)


def _graph(heads: list[tuple[str, int]]) -> bytes:
    """Logits by task: the number of tokens, squashed, times a weight a label."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["mask", "axis"], ["count"], keepdims=1),
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["ids"], ["largest"], axes=[1], keepdims=1),
        # Both inputs must be used; ids are all small here.
        helper.make_node("Add", ["count", "largest"], ["sum"]),
        helper.make_node("Sin", ["sum"], ["one"]),
    ]
    tensors = [numpy_helper.from_array(np.array([1]), "axis")]
    outputs = []
    for name, labels in heads:
        weights = random.normal(0, 2, (1, labels)).astype(np.float32)
        tensors.append(numpy_helper.from_array(weights, f"head_{name}"))
        nodes.append(helper.make_node("MatMul", ["one", f"head_{name}"], [f"logits_{name}"]))
        outputs.append(helper.make_tensor_value_info(f"logits_{name}", TensorProto.FLOAT, ["batch", labels]))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"])
        for name in ("input_ids", "attention_mask")
    ]
    graph = helper.make_graph(nodes, "free", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())

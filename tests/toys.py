"""Builders of toys for the whole suite: made in milliseconds, real enough to run the real code."""

from dataclasses import dataclass, field

import numpy as np

from polyfold.artifact import ModelConfig, write_config
from polyfold.tasks import Task
from polyfold.text import TokenizerSpec

WORDS = tuple(f"w{number}" for number in range(200))
TOY_MAX_LENGTH = 16
TOY_TASKS = (
    Task(name="domain", labels=("billing", "delivery", "other"), temperature=1.5),
    Task(
        name="topics",
        kind="multi_label",
        labels=("price", "speed", "staff", "app"),
        thresholds=(0.3, 0.5, 0.6, 0.7),
    ),
)


def write_toy_tokenizer(folder):
    """A word-level tokenizer of 200 words with XLM-R's special tokens; returns its spec."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: index for index, word in enumerate(("<s>", "<pad>", "</s>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return TokenizerSpec(kind="tokenizers", file="tokenizer.json", pad_id=1)


def toy_graph(tasks, seed=0, hidden=8):
    """An ONNX graph in Polyfold's form: embedding, masked mean, one linear head a task; both axes dynamic."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)
    weights = {"table": random.normal(0, 2, (len(WORDS) + 4, hidden))}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["embedded", "column"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "first"], ["summed"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "first"], ["count"], keepdims=1),
        helper.make_node("Div", ["summed", "count"], ["mean"]),
    ]
    outputs = []
    for task in tasks:
        weights[f"head_{task.name}"] = random.normal(0, 2, (hidden, len(task.labels)))
        nodes.append(helper.make_node("MatMul", ["mean", f"head_{task.name}"], [f"logits_{task.name}"]))
        shape = ["batch", len(task.labels)]
        outputs.append(helper.make_tensor_value_info(f"logits_{task.name}", TensorProto.FLOAT, shape))
    tensors = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()]
    tensors += [numpy_helper.from_array(np.array([axis]), name) for name, axis in (("last", 2), ("first", 1))]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"])
        for name in ("input_ids", "attention_mask")
    ]
    graph = helper.make_graph(nodes, "toy", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_toy_folder(folder, runtime, tasks=TOY_TASKS, graph=None, file="onnx/model.onnx"):
    """A model folder that `Predictor.open` takes."""
    (folder / "onnx").mkdir(parents=True)
    graph = graph or toy_graph(tasks)
    (folder / "onnx" / "model.onnx").write_bytes(graph.SerializeToString())
    config = ModelConfig(
        family="toy",
        runtime=runtime,
        precision="fp32",
        weights="trained",
        file=file,
        tokenizer=write_toy_tokenizer(folder),
        max_length=TOY_MAX_LENGTH,
        parameters=1000,
        trunk_parameters=100,
    )
    write_config(folder, config, tasks, {})
    return folder


@dataclass
class RecordingSession:
    """A session that remembers what was asked of it."""

    inner: object
    batches: list[np.ndarray] = field(default_factory=list)

    def run(self, input_ids, attention_mask):
        self.batches.append(input_ids)
        return self.inner.run(input_ids, attention_mask)

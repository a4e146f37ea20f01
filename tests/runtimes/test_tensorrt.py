"""TensorRT without a GPU: what surrounds the engine, tested here; the engine itself only where there is one."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyfold.artifact import read_config
from polyfold.errors import InputError, MissingExtra
from polyfold.runtimes.onnxruntime import open_onnxruntime
from polyfold.runtimes.session import SessionSpec
from polyfold.runtimes.tensorrt import (
    build_engine,
    cut,
    engine_name,
    kept,
    open_tensorrt,
    prepared_bytes,
    profile_of,
    profiles_for,
)
from toys import TOY_MAX_LENGTH
from toys_pipeline import toy_ids

INSTALLED = importlib.util.find_spec("tensorrt") is not None
NO_ENGINE = pytest.mark.skipif(
    not (INSTALLED and torch.cuda.is_available()), reason="TensorRT or a GPU is not on this machine"
)


@given(batch=st.integers(1, 2000), most=st.integers(1, 300))
def test_a_large_batch_is_cut_into_few_parts_of_like_size(batch, most):
    parts = cut(batch, most)
    sizes = [part.stop - part.start for part in parts]
    assert np.concatenate([np.arange(batch)[part] for part in parts]).tolist() == list(range(batch))
    assert len(parts) == -(-batch // most)
    assert min(sizes) >= 1 and max(sizes) <= most and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("max_length", [8, 64, 512])
def test_every_shape_that_comes_has_a_profile_and_small_ones_have_their_own(max_length):
    profiles = profiles_for(max_length)
    for one in profiles:
        for axis in (one.batch, one.seq):
            assert 1 <= axis.least <= axis.best <= axis.most
    assert profile_of(profiles, 1, 1) == profile_of(profiles, 4, max_length) == 0
    assert profile_of(profiles, 5, 1) == profile_of(profiles, 256, max_length) == 1
    with pytest.raises(InputError, match=f"1 x {max_length + 1} tokens"):
        profile_of(profiles, 1, max_length + 1)


def test_an_engine_on_disk_is_named_by_all_that_decides_it():
    profiles = profiles_for(64)
    names = {
        engine_name(graph, version, gpu, given)
        for graph in (b"a", b"b")
        for version in ("10.1", "10.2")
        for gpu in ("H200", "L4")
        for given in (profiles, profiles[:1])
    }
    assert len(names) == 16
    assert engine_name(b"a", "10.1", "H200", profiles) in names


def test_an_engine_is_built_once_and_again_where_the_file_is_damaged(tmp_path, capfd):
    path, built = tmp_path / "deep" / "one.engine", []

    def build():
        built.append(1)
        return b"engine"

    def read(content):
        return content.decode() if content == b"engine" else None

    assert kept(path, read, build) == kept(path, read, build) == "engine"
    assert len(built) == 1 and [one.name for one in path.parent.iterdir()] == ["one.engine"]
    path.write_bytes(b"eng")
    assert kept(path, read, build) == "engine"
    assert len(built) == 2 and path.read_bytes() == b"engine"
    assert "built again" in capfd.readouterr().err
    assert kept(None, read, build) == "engine" and len(built) == 3


def test_the_graph_of_a_folder_is_prepared_and_the_same_every_time(toy_folders):
    path = toy_folders["onnxruntime"] / "onnx" / "model.onnx"
    _, tasks = read_config(toy_folders["onnxruntime"])
    content = prepared_bytes(path, tasks, TOY_MAX_LENGTH, bf16=False)
    assert content == prepared_bytes(path, tasks, TOY_MAX_LENGTH, bf16=False)
    assert content != prepared_bytes(path, tasks, TOY_MAX_LENGTH, bf16=True)
    kinds = {one.type.tensor_type.elem_type for one in onnx.load_from_string(content).graph.input}
    assert kinds == {onnx.TensorProto.INT32}


def test_a_file_that_is_no_graph_or_is_quantized_for_processors_is_named(tmp_path, torch_toys):
    folder = torch_toys["transformer"]["folders"]["int8"]["onnxruntime"]
    config, tasks = read_config(folder)
    with pytest.raises(InputError, match="quantized for processors") as caught:
        prepared_bytes(folder / config.file, tasks, 8, bf16=False)
    assert caught.value.file == folder / config.file
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match="not an ONNX graph"):
        prepared_bytes(tmp_path / "model.onnx", tasks, 8, bf16=False)
    with pytest.raises(InputError, match="ONNX graphs only"):
        prepared_bytes(tmp_path / "openvino_model.xml", tasks, 8, bf16=False)


@pytest.mark.skipif(INSTALLED, reason="TensorRT is installed here")
def test_without_tensorrt_the_extra_is_named(toy_folders):
    folder = toy_folders["onnxruntime"]
    with pytest.raises(MissingExtra, match="tensorrt") as caught:
        open_tensorrt(folder, *read_config(folder), SessionSpec(device="cuda"))
    assert "polyfold[tensorrt]" in str(caught.value.hint)


def stand_in(reads=True, builds=True):
    """As much of TensorRT's interface as building calls, and what it was told; its answers are ours."""
    told = SimpleNamespace(shapes=[], profiles=[], cleared=[])

    class Profile:
        def set_shape(self, name, *shapes):
            told.shapes.append((name, shapes))

    class Config:
        def set_memory_pool_limit(self, pool, size):
            assert size > 0

        def clear_flag(self, flag):
            told.cleared.append(flag)

        def add_optimization_profile(self, profile):
            told.profiles.append(profile)

    network = SimpleNamespace(
        num_inputs=2, get_input=lambda number: SimpleNamespace(name=("input_ids", "attention_mask")[number])
    )
    builder = SimpleNamespace(
        create_network=lambda flags: network,
        create_builder_config=Config,
        create_optimization_profile=Profile,
        build_serialized_network=lambda network, config: b"engine" if builds else None,
    )
    parser = SimpleNamespace(parse=lambda graph: reads, num_errors=2, get_error=lambda number: f"reason {number}")
    trt = SimpleNamespace(
        Builder=lambda logger: builder,
        OnnxParser=lambda network, logger: parser,
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        MemoryPoolType=SimpleNamespace(WORKSPACE=0),
        BuilderFlag=SimpleNamespace(TF32="tf32"),
    )
    return trt, told


def test_building_states_every_profile_for_every_input_and_keeps_fp32_whole(tmp_path):
    trt, told = stand_in()
    profiles = profiles_for(64)
    assert build_engine(trt, None, b"graph", profiles, tmp_path) == b"engine"
    assert len(told.profiles) == 2 and told.cleared == ["tf32"]
    assert [name for name, _ in told.shapes] == ["input_ids", "attention_mask"] * 2
    assert told.shapes[0][1] == ((1, 1), (1, 32), (4, 64))
    assert told.shapes[3][1] == ((1, 1), (32, 64), (256, 64))


def test_what_tensorrt_says_against_a_graph_is_passed_on(tmp_path):
    with pytest.raises(InputError, match="reason 0; reason 1"):
        build_engine(stand_in(reads=False)[0], None, b"graph", profiles_for(64), tmp_path)
    with pytest.raises(InputError, match="cannot build an engine"):
        build_engine(stand_in(builds=False)[0], None, b"graph", profiles_for(64), tmp_path)


@NO_ENGINE
@pytest.mark.parametrize("bf16", [False, True])
def test_an_engine_gives_the_logits_of_onnx_runtime(tmp_path, torch_toys, bf16):
    folder = torch_toys["transformer"]["folders"]["fp32"]["onnxruntime"]
    config, tasks = read_config(folder)
    spec = SessionSpec(device="cuda", bf16=bf16, cache_dir=tmp_path)
    expected = open_onnxruntime(folder, config, tasks, SessionSpec())
    for _ in range(2):
        session = open_tensorrt(folder, config, tasks, spec)
        for shape in ((1, 5), (3, 12), (300, 7)):
            ids, mask = toy_ids(180, shape)
            found, wanted = session.run(ids, mask), expected.run(ids, mask)
            for task in tasks:
                limit = (0.1 if bf16 else 1e-3) * np.abs(wanted[task.name]).max()
                np.testing.assert_allclose(found[task.name], wanted[task.name], atol=limit)
    assert len(list(tmp_path.glob("*.engine"))) == 1

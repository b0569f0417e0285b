"""Gemma 3 270M as the installed file has it: against transformers, tokenizers and the gguf package.

Nothing here is skipped: without the file and these packages the tests fail. `make test-real` installs them.
"""

import math
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from quantsim import checkpoints, populations
from quantsim.models import gemma, gemma_likelihood, gemma_tokens
from studies import _real_rivals

pytestmark = pytest.mark.real
TOKENS = 400


@pytest.fixture(scope="module")
def path():
    return checkpoints.real_model_path()


@pytest.fixture(scope="module")
def metadata(path):
    return checkpoints.read_header(path).metadata


@pytest.fixture(scope="module")
def model(path):
    return checkpoints.real_model(path)


@pytest.fixture(scope="module")
def text():
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


# --- the file -------------------------------------------------------------------------------------------------------


def test_the_file_is_kept_once(tmp_path):
    env = {"QUANTSIM_CACHE": str(tmp_path)}
    first = checkpoints.real_model_path(env)
    made = first.stat().st_mtime_ns
    assert checkpoints.real_model_path(env).stat().st_mtime_ns == made
    with first.open("r+b") as file:
        file.seek(10**8)
        file.write(b"damage")
    assert checkpoints.real_model_path(env) == first
    assert first.stat().st_mtime_ns > made
    assert [p.name for p in tmp_path.iterdir()] == [first.name]


def test_all_tensors_are_dequantized_as_the_package_does(path):
    from gguf import GGMLQuantizationType, quants

    found = list(checkpoints.stored_tensors(path))
    assert len(found) == 236
    assert {t.type for t in found} == {"F32", "Q4_K", "Q5_0", "Q6_K", "Q8_0"}
    for tensor in found:
        theirs = quants.dequantize(tensor.data, GGMLQuantizationType[tensor.type])
        np.testing.assert_array_equal(checkpoints.dequantized(tensor), theirs, strict=True, err_msg=tensor.name)


def test_spread_weights_have_the_codes_of_the_file(path):
    """But where a draw falls within a rounding of a cell's edge: 2^-16 of its width for weights 128 steps from zero."""
    key = populations.key(0)
    for tensor in checkpoints.stored_tensors(path):
        if tensor.is_quantized and not tensor.name.startswith(("token_embd", "blk.1")):
            w, step = (np.float64(a) for a in (checkpoints.dequantized(tensor), checkpoints.steps(tensor)))
            moved = np.divide(checkpoints.spread(tensor, key) - w, step, where=step > 0, out=np.zeros_like(w))
            assert np.count_nonzero(np.rint(moved)) <= 5 + moved.size * 2.0**-16
            used = moved[step > 0]
            assert np.mean(used**2) == pytest.approx(1 / 12, abs=5 * math.sqrt(1 / 180 / used.size))


# --- tokens ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs(metadata):
    """The vocabulary as transformers converts SentencePiece's: merges are made from the scores of pieces."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers

    tokens, types, scores = (metadata[f"tokenizer.ggml.{n}"] for n in ("tokens", "token_type", "scores"))
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = []
    for token, kind, score in zip(tokens, types, scores, strict=True):
        if kind == 1:
            halves = [(token[:at], token[at:]) for at in range(1, len(token))]
            merges += [(-score, a, b) for a, b in halves if a in vocabulary and b in vocabulary]
    merges.sort(key=lambda m: (m[0], -len(m[1]), -len(m[2])))
    made = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[(a, b) for _, a, b in merges], unk_token="<unk>", byte_fallback=True)
    )
    made.normalizer = normalizers.Replace(" ", "▁")
    made.add_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, types, strict=True) if kind == 4])
    return made


HARD = [
    "",
    " ",
    "  leading, and two  inside ",
    "tabs\tand\nlines\n\n\n\n    of code:\n\treturn x[-1]\n",
    "naïve café — “quotes”, 日本語 и русский, 😀👩‍👩‍👧, \u0301 alone, \x00 \x07",
    "<b>tags</b> and <bos> as text, 1234567890, 3.14159e-10",
    "Ωμέγα ≤ ∑ ∂ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \ue000\U000e0001",
]


@pytest.mark.parametrize("hard", HARD)
def test_texts_come_back(model, hard):
    tokens = gemma_tokens.encode(model.vocabulary, hard, bos=model.bos)
    assert tokens[0] == model.bos == 2
    assert gemma_tokens.decode(model.vocabulary, tokens[1:]) == hard


@pytest.mark.parametrize("hard", HARD)
def test_hard_tokens_are_those_of_another_tokenizer(model, theirs, hard):
    assert gemma_tokens.encode(model.vocabulary, hard, bos=None).tolist() == theirs.encode(hard).ids


def test_tokens_are_those_of_another_tokenizer(model, theirs, text):
    for start in range(0, 200_000, 20_000):
        part = text[start : start + 5_000]
        assert gemma_tokens.encode(model.vocabulary, part, bos=None).tolist() == theirs.encode(part).ids


# --- the forward pass -----------------------------------------------------------------------------------------------


def test_logits_are_those_of_transformers(model, text):
    """Two float32 programs: sums of 2,048 terms end sqrt(2048) half ulps apart, 3e-6, and their angles, rounded to
    float32, are up to 400 * 2^-24 = 2e-5 off."""
    import torch

    net = _real_rivals.in_transformers(model)
    ids = gemma_tokens.encode(model.vocabulary, text[100_000:110_000], bos=model.bos)[None, :TOKENS]
    with torch.no_grad():
        expected = net(torch.from_numpy(ids).long()).logits.numpy()
    found = np.asarray(gemma.forward(model.params, jnp.asarray(ids), model.config))
    assert np.linalg.norm(found - expected) < 2e-5 * np.linalg.norm(expected)
    np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))


def test_perplexity_is_that_of_a_trained_model(model, text):
    """Of 262,144 for one that knows nothing; a wrong window, base, norm or split into tokens at least doubles it."""
    ids = gemma_tokens.encode(model.vocabulary, text[:12_000], bos=model.bos)[None, :512]
    nll = gemma_likelihood.token_nll(model.params, jnp.asarray(ids), model.config)
    assert 20 < float(jnp.exp(nll.mean())) < 32
    logits = np.float64(gemma.forward(model.params, jnp.asarray(ids[:, :65]), model.config))[0, :-1]
    largest = logits.max(-1)
    expected = largest + np.log(np.exp(logits - largest[:, None]).sum(-1)) - logits[np.arange(64), ids[0, 1:65]]
    np.testing.assert_allclose(nll[0, :64], expected, rtol=1e-5, atol=2e-5)  # a token depends on those before it only


ALONE = """
import re
from pathlib import Path
import jax.numpy as jnp
from quantsim import checkpoints
from quantsim.models import gemma_likelihood

model = checkpoints.real_model()
tokens = jnp.arange(2, 514)[None]
gemma_likelihood.token_nll(model.params, tokens, model.config).block_until_ready()
print(1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
"""


def test_512_tokens_take_less_than_four_gigabytes():
    # not ru_maxrss, which begins with that of the process that started this one
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    assert 1.07e9 < int(done.stdout) < 4e9  # the parameters are 268 M float32

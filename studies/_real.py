"""The real language model in studies: its two references, the text it reads, and how far its predictions move.

The file holds weights of four and more bits. As they are dequantized they lie on the grids of its formats, which
flatters formats that know these grids; spread within the cells of their codes they flatter none. Both are references:
what a quantized model costs is told from the predictions of the weights that were quantized. One is held at a time, as
each is 1.1 GB.

A unit of the standard errors is a block of tokens: what two models predict of it is compared token by token, so that
what makes a block easy or hard cancels. Blocks of a passage have their topic in common.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from quantsim import checkpoints, populations, tree
from quantsim.models import gemma, gemma_likelihood, gemma_tokens, text
from quantsim.models.gemma_config import Config as Sizes
from quantsim.models.gemma_likelihood import Ending
from quantsim.models.layers import Product, linear
from quantsim.tree import Policy, QuantizedTree, policy

from ._language import Damage

FILE, SPREAD = "file", "spread"
REFERENCES = (FILE, SPREAD)
TYPES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
BLOCK = 32  # tokens, a unit of the standard errors
CHUNK = 64  # tokens whose logits are held at a time
_CHARACTERS_A_TOKEN = 12  # more than any passage has on average

PerBlock = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """What is read, in passages evenly spaced over the topics of Python's documentation.

    Attributes:
        passages: how many.
        length: tokens of each, the one that begins texts included.
        shift: passages lie so far, in their distance, behind the first character: others to calibrate on.
    """

    passages: int
    length: int
    shift: float = 0.0


class Subject(NamedTuple):
    """A reference, what it reads, and what its predictions follow from: logits would take a megabyte a token."""

    reference: str
    config: Sizes
    params: dict[str, Array]
    tokens: Int[Array, "passages time"]
    ending: Ending


_held_model: dict[str, checkpoints.RealModel] = {}
_held: dict[tuple[str, Reading], Subject] = {}


def model(reference: str) -> checkpoints.RealModel:
    """The model with the weights of a reference; what is held of the other is dropped."""
    if reference not in _held_model:
        _held.clear()
        _held_model.clear()
        key = populations.key(0) if reference == SPREAD else None
        _held_model[reference] = checkpoints.real_model(key=key)
    return _held_model[reference]


def subject(reference: str, reading: Reading) -> Subject:
    """A reference and what it reads."""
    if (reference, reading) not in _held:
        real = model(reference)
        tokens = passages(real, reading)
        ending = gemma_likelihood.ending(real.params, tokens, real.config)
        _held[reference, reading] = Subject(reference, real.config, real.params, tokens, ending)
    return _held[reference, reading]


def passages(real: checkpoints.RealModel, reading: Reading) -> Int[Array, "passages time"]:
    """Tokens of the passages."""
    whole = "\n".join(topic.decode() for topic in text.topics().values())
    most = reading.length * _CHARACTERS_A_TOKEN
    distance = (len(whole) - most) // reading.passages
    starts = [int((number + reading.shift) * distance) for number in range(reading.passages)]
    found = [gemma_tokens.encode(real.vocabulary, whole[s : s + most], bos=real.bos)[: reading.length] for s in starts]
    return jnp.asarray(np.stack(found))


def token_nll(of: Subject) -> PerBlock:
    """Negative log-likelihood of the reference, in nats a token, mean of each block."""
    return in_blocks(gemma_likelihood.token_nll(of.params, of.tokens, of.config, chunk=CHUNK))


def columns_of(found: Damage) -> dict[str, Any]:
    """Means with their standard errors over the blocks, and the blocks, for differences that pair them."""
    return found.columns() | {"nll_blocks": found.nll.tolist()}


def damage(of: Subject, params: Mapping[str, Any], *, product: Product = linear) -> Damage:
    """What other parameters, quantized or not, do to the predictions; the last product is a plain one."""
    other = gemma_likelihood.ending(params, of.tokens, of.config, product=product)
    found = gemma_likelihood.compared_endings(of.ending, other, of.tokens[:, 1:], chunk=CHUNK)
    return Damage(in_blocks(found.kl), in_blocks(found.increase), in_blocks(found.flips))


def in_blocks(values: Any) -> PerBlock:
    """Means of (passages, followers) over blocks of about ``BLOCK`` tokens, one after the other."""
    a = np.asarray(values, np.float64)
    count = max(1, round(a.shape[1] / BLOCK))
    return np.concatenate([part.mean(axis=1) for part in np.array_split(a, count, axis=1)])


def of_tree(of: Subject, found: QuantizedTree) -> Damage:
    """What a quantized model costs; plain weights share the program of the reference."""
    layers = any(isinstance(w, tree.QuantizedLayer) for w in found.params.values())
    return damage(of, found.params, product=tree.product if layers else linear)


def quantized(of: Subject, rules: Any, calibration: Reading | None = None) -> QuantizedTree:
    """The model under a policy, calibrated on other passages where that is needed."""
    known: Policy = policy(rules)
    inputs = None
    if calibration is not None and any(treatment.needs_inputs for _, treatment in known.rules):
        inputs = site_inputs(of.reference, calibration)
    return tree.quantize(of.params, known, inputs=inputs)


def site_inputs(reference: str, reading: Reading) -> dict[str, Float[Array, "tokens in"]]:
    """Inputs of every linear layer, operation by operation: a layer's program keeps what it sees to itself."""
    real = model(reference)
    tokens = passages(real, reading)
    with jax.disable_jit():
        return tree.site_inputs(lambda p, product: gemma.forward(p, tokens, real.config, product=product), real.params)


def matrices(params: Mapping[str, Array]) -> dict[str, Array]:
    """The matrices of layers, by name: not the embedding."""
    return {name: w for name, w in params.items() if w.ndim == 2 and name.startswith("blk.")}


@jax.jit
def _squares(w: Array, w_hat: Array) -> tuple[Array, Array]:
    return jnp.sum((w_hat - w) ** 2), jnp.sum(w * w)


def relative_error(params: Mapping[str, Array], changed: Mapping[str, Array]) -> float:
    """||ŵ - w|| / ||w|| over the matrices that differ, all together; sums in float64 over those of matrices."""
    pairs = [(w, changed[n]) for n, w in params.items() if w.ndim == 2 and changed[n] is not w]
    errors, all_squares = np.sum([np.float64(_squares(w, w_hat)) for w, w_hat in pairs], axis=0)
    return float(np.sqrt(errors / all_squares))


def noisy(params: Mapping[str, Array], names: list[str], size: float, seed: int) -> dict[str, Array]:
    """Normal noise added to these matrices, of so large a part of the rms of each."""
    changed = dict(params)
    for number, name in enumerate(names):
        changed[name] = _with_noise(params[name], size, jax.random.fold_in(jax.random.key(seed), number))
    return changed


@jax.jit
def _with_noise(w: Array, size: Array | float, key: Array) -> Array:
    return w + size * jnp.sqrt(jnp.mean(w * w)) * jax.random.normal(key, w.shape)

"""The parameters of a model under a policy, and the product that its linear layers then compute."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from quantsim._types import Activations, PRNGKey
from quantsim.mitigations.layer import Layer, Mitigated
from quantsim.models.layers import linear
from quantsim.quantizer.blockformats.base import BlockFormat
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.parsing import parse
from quantsim.quantizer.static import Static, static
from quantsim.tree.policy import Policy, PolicyError, Rule, Treatment, policy

#: Tensors that are looked up row by row instead of multiplied: their inputs are tokens, which nothing quantizes.
LOOKED_UP = ("token_embd",)

#: What llama.cpp stores in place of a type whose blocks do not fill the rows of a tensor.
FALLBACKS = {
    "q2_k": "iq4_nl",
    "q3_k": "iq4_nl",
    "iq4_xs": "iq4_nl",
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"), "iq4_nl"),
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
    "tq1_0": "q4_0",
    "tq2_0": "q4_0",
}
_BITS_AS_IT_IS = 16

#: What a model's parameters become: arrays as before, and layers with more to do than a product.
Params: TypeAlias = dict[str, Any]


@partial(jax.tree_util.register_dataclass, data_fields=["mitigated", "frozen"], meta_fields=["activations"])
@dataclass(frozen=True)
class QuantizedLayer:
    """A linear layer whose inputs are quantized, or whose weights had a mitigation; stands in the place of its matrix.

    Attributes:
        mitigated: the weights, and what happens to the inputs before they are quantized.
        activations: quantizer of the inputs, or None.
        frozen: the same with scales that are fixed, or None.
    """

    mitigated: Mitigated | Any
    activations: AbstractQuantizer | None = None
    frozen: Static | Any | None = None

    def outputs(self, x: Activations) -> Float[Array, "tokens out"]:
        """Of inputs (tokens, in), in float32."""
        return self.mitigated.outputs(x, self.activations if self.frozen is None else self.frozen)


def product(name: str, x: Array, w: Array | QuantizedLayer) -> Array:
    """The product of a linear layer of a quantized model: ``forward(tree.params, tokens, config, product=product)``."""
    if isinstance(w, QuantizedLayer):
        return w.outputs(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)
    return linear(name, x, w)


@dataclass(frozen=True)
class QuantizedTree:
    """A model under a policy.

    Attributes:
        params: what stands in the place of the parameters; a forward pass takes them with ``product``.
        quantizers: of each tensor that was quantized, the quantizer that was used, after fallbacks.
        bits: stored for each weight of each matrix, everything included.
        weights: number of weights of each matrix.
    """

    params: Params
    quantizers: dict[str, str]
    bits: dict[str, float]
    weights: dict[str, int]

    @property
    def bits_per_weight(self) -> float:
        """Of all matrices; one that is left as it is counts 16 bits a weight."""
        return sum(self.bits[name] * n for name, n in self.weights.items()) / sum(self.weights.values())

    def bits_of(self, *names: str) -> float:
        """Bits per weight of these matrices alone."""
        return sum(self.bits[n] * self.weights[n] for n in names) / sum(self.weights[n] for n in names)


def quantize(
    params: Mapping[str, Array],
    rules: Policy | Mapping[str, Rule] | Rule,
    *,
    inputs: Mapping[str, Activations] | None = None,
    key: PRNGKey | None = None,
) -> QuantizedTree:
    """Quantize the matrices of a model by a policy; vectors, such as gains of norms, are left as they are.

    A GGUF type whose blocks do not fill the rows of a matrix falls back as in llama.cpp: q4_k to q5_0, q5_k to q5_1,
    q6_k to q8_0, q2_k, q3_k and other iq types to iq4_nl, ternary types to q4_0, and to f16 where that does not fit
    either. An embedding that is looked up has no inputs to quantize or to calibrate on: of its treatment the weights'
    part counts.

    Args:
        params: name → array; matrices are (out, in).
        rules: a policy, a table of rules, or one treatment for every matrix.
        inputs: name → calibration inputs (tokens, in), for mitigations and static scales; see ``site_inputs``.
        key: for stochastic rounding of weights, and for mitigations that draw.

    Raises:
        PolicyError: for a pattern that matches no matrix, for missing inputs, and for a matrix that its quantizer
            refuses, with the reason.

    >>> found = quantize({"blk.0.attn_q": jnp.ones((4, 32)), "blk.0.attn_norm": jnp.ones(4)}, "int8:channel")
    >>> found.bits_per_weight, sorted(found.params)
    (9.0, ['blk.0.attn_norm', 'blk.0.attn_q'])
    """
    known = policy(rules)
    matrices = {name: w for name, w in params.items() if w.ndim == 2}
    known.require_matches(matrices)
    tree = QuantizedTree(dict(params), {}, {}, {name: w.size for name, w in matrices.items()})
    for name, w in matrices.items():
        tree.bits[name] = _BITS_AS_IT_IS
        treatment = known.treatment(name)
        if treatment.of_weights is None and treatment.of_inputs is None:
            continue
        own_key = None if key is None else jax.random.fold_in(key, zlib.crc32(name.encode()))
        try:
            _quantize_one(tree, name, w, treatment, (inputs or {}).get(name), own_key)
        except PolicyError:
            raise
        except ValueError as failure:
            raise PolicyError(f"{name} {w.shape} cannot be quantized as {treatment}: {failure}") from None
    return tree


def _quantize_one(
    tree: QuantizedTree, name: str, w: Array, treatment: Treatment, x: Activations | None, key: PRNGKey | None
) -> None:
    """Put one quantized matrix, its quantizer and its bits into the tree."""
    looked_up = name in LOOKED_UP
    q = None if treatment.of_weights is None else fitting(treatment.of_weights, w.shape[1])
    if q is not None:
        tree.quantizers[name] = str(q)
        tree.bits[name] = q.bits_per_weight(w.shape)
    if looked_up or (treatment.remedy is None and treatment.of_inputs is None):
        if q is not None:
            tree.params[name] = q.roundtrip(w, key=key)
        return
    if x is None and treatment.needs_inputs:
        raise PolicyError(f"{treatment} of {name} is calibrated on inputs: pass inputs=site_inputs(forward, params)")
    if q is None or treatment.remedy is None:
        mitigated = Mitigated(w if q is None else q.roundtrip(w, key=key), jnp.float32(0))
    else:
        mitigated = treatment.remedy.apply(Layer(w, x), q, key=key)
        tree.bits[name] = mitigated.bits_per_weight(q)
    if x is not None and treatment.of_inputs is not None and treatment.static:
        layer = QuantizedLayer(mitigated, frozen=static(treatment.of_inputs, mitigated.quantized_part(x)))
    else:
        layer = QuantizedLayer(mitigated, treatment.of_inputs)
    tree.params[name] = layer


def fitting(q: AbstractQuantizer, width: int) -> AbstractQuantizer:
    """The quantizer for rows of this width: itself, or what llama.cpp falls back to where its blocks do not fill them.

    >>> fitting(parse("q4_k"), 640), fitting(parse("q4_k"), 1024), fitting(parse("q4_k"), 100)
    (BlockFormat('q5_0'), BlockFormat('q4_k'), Quantizer('f16'))

    Source: llama.cpp, ``llama_tensor_get_type``.
    """
    if not isinstance(q, BlockFormat) or width % q.size == 0 or str(q) not in FALLBACKS:
        return q
    smaller = parse(FALLBACKS[str(q)])
    assert isinstance(smaller, BlockFormat)
    return smaller if width % smaller.size == 0 else parse("f16")

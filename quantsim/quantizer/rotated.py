"""A quantizer of weights in rotated coordinates: blocks of inputs times a Hadamard matrix before it, and after it."""

import re
from dataclasses import dataclass
from math import lcm
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from quantsim._types import Number, PRNGKey, Shape, TensorScale, Weights
from quantsim.numerics import hadamard
from quantsim.numerics.hadamard import Kind
from quantsim.populations.structure import Structure
from quantsim.quantizer.face import AbstractQuantizer, QuantizedArray
from quantsim.quantizer.structure import Take
from quantsim.theory.scheme import Scheme

_SPEC = re.compile(r"(?P<kind>sylvester|regular)(?P<size>\d+)(?P<signs>:signs(?P<seed>\d*))?\((?P<inner>.*)\)")
#: Sizes of blocks that are rotated together.
SMALLEST, LARGEST = 2, 2**16


@dataclass(frozen=True, repr=False)
class Rotated(AbstractQuantizer):
    """``w_hat = q(w S H) Hᵀ Sᵀ``: blocks of ``size`` inputs times random signs S and a Hadamard matrix H.

    H is orthogonal, so the squared error is that which ``q`` makes of the rotated weights, and a spike A becomes
    A / sqrt(size) in all places. Stored are the codes of the rotated weights, and a bit for each input where there are
    signs. The error is that of a layer whose inputs are not rotated; ``mitigations`` has the remedy that rotates both.

    Attributes:
        inner: quantizer of the rotated weights.
        size: inputs rotated together.
        kind: "sylvester", a power of 2, or "regular", a power of 4, which keeps constant rows.
        signs: seed of the signs, or None for none.

    Raises:
        ValueError: if there is no Hadamard matrix of that size, or ``inner`` is rotated itself.

    Source: Ashkboos et al., arXiv:2404.00456.

    >>> from quantsim.quantizer.parsing import parse
    >>> spike, q = jnp.zeros((1, 64)).at[0, 3].set(70.0), parse("regular64(int4:block32)")
    >>> q, float(abs(q.roundtrip(spike) - spike).max())
    (Rotated('regular64(int4:block32)'), 0.0)
    """

    inner: AbstractQuantizer
    size: int
    kind: Kind = "sylvester"
    signs: int | None = None

    def __post_init__(self) -> None:
        """Reject sizes without a matrix."""
        if not SMALLEST <= self.size <= LARGEST:
            raise ValueError(f"a rotation takes blocks of {SMALLEST} to {LARGEST} inputs, not {self.size}")
        hadamard.require_size(self.kind, self.size, self.size)
        if isinstance(self.inner, Rotated):
            raise ValueError(f"{self.inner} is rotated already")

    def scheme(self, shape: Shape | None = None) -> Scheme:
        """That of the inner quantizer, of which only a normal population is left as it is by a rotation."""
        found = self.inner.scheme(shape)
        return Scheme(found.format, found.scale, found.sizes, found.rounding, rotated=True)

    def _checked(self, w: Any, nonfinite: str | None) -> Weights:
        w32 = self.inner._checked(w, nonfinite)
        self._require_shape(w32.shape)
        return w32

    def _require_shape(self, shape: Shape) -> None:
        if not shape:
            raise ValueError(f"{self} rotates the last axis, and a number has none")
        hadamard.require_size(self.kind, self.size, shape[-1])

    def _turned(self, w: Weights) -> Weights:
        return hadamard.turned(w * self._flips(w), self.kind, self.size)

    def _turned_back(self, w: Weights) -> Weights:
        return hadamard.turned(w, self.kind, self.size) * self._flips(w)

    def _flips(self, w: Weights) -> Float[Array, "... in"] | float:
        """The signs of the mitigation ``rotation`` with the key of that seed."""
        if self.signs is None:
            return 1.0
        key = jax.random.fold_in(jax.random.key(self.signs), 0)
        signs = jax.random.rademacher(key, w.shape[-1:], jnp.float32)
        return jnp.broadcast_to(signs, w.shape)

    def _encode(self, w: Weights, key: PRNGKey | None) -> QuantizedArray:
        return self.inner._encode(self._turned(w), key)

    def _decode(self, qw: QuantizedArray) -> Weights:
        return self._turned_back(self.inner._decode(qw))

    def _approximate(self, w: Weights, key: PRNGKey | None) -> Weights:
        return self._turned_back(self.inner._approximate(self._turned(w), key))

    def _outside(self, w: Weights) -> Bool[Array, "..."]:
        # no weight clips by itself: the straight-through gradient of a rotated weight reaches all of its block
        return jnp.zeros(w.shape, bool)

    def _split(self) -> tuple[Structure, tuple[Number, ...]]:
        inner, numbers = self.inner._split()
        parts = {"inner": inner, "size": self.size, "kind": self.kind, "signs": self.signs}
        return Structure(Rotated, tuple(parts.items())), numbers

    @classmethod
    def _rebuilt(cls, parts: dict[str, Any], take: Take) -> "Rotated":
        inner = parts["inner"]
        known = inner.kind if not isinstance(inner.kind, type) else inner.kind._rebuilt(dict(inner.parts), take)
        return cls(**parts | {"inner": known})

    def _code_dtype(self) -> Any:
        return self.inner._code_dtype()

    def _span(self, shape: Shape) -> int | None:
        span = self.inner._span(shape)
        return None if span is None or self.signs is not None else lcm(span, self.size)  # a sign belongs to its place

    def _has_tensor_scale(self) -> bool:
        return self.inner._has_tensor_scale()

    def _tensor_scale(self, rows: Weights) -> Float[Array, ""]:
        return self.inner._tensor_scale(self._turned(rows))

    def _encode_rows(self, rows: Weights, tensor: TensorScale | None) -> QuantizedArray:
        return self.inner._encode_rows(self._turned(rows), tensor)

    def _approximate_rows(self, rows: Weights, tensor: TensorScale | None) -> Weights:
        return self._turned_back(self.inner._approximate_rows(self._turned(rows), tensor))

    def _nbytes(self, shape: Shape) -> int:
        self._require_shape(shape)
        return self.inner._nbytes(shape) + (0 if self.signs is None else -(-shape[-1] // 8))

    def _shape(self, codes: Shape) -> Shape:
        return self.inner._shape(codes)

    def __str__(self) -> str:
        """The canonical spec string."""
        signs = "" if self.signs is None else f":signs{self.signs or ''}"
        return f"{self.kind}{self.size}{signs}({self.inner})"


def rotation_in(text: str) -> tuple[str, dict[str, Any]] | None:
    """The spec inside the rotation that a spec spells, and the rotation; None if it spells none.

    >>> rotation_in("regular64:signs7(nvfp4)")
    ('nvfp4', {'size': 64, 'kind': 'regular', 'signs': 7})
    """
    found = _SPEC.fullmatch(text)
    if found is None:
        return None
    signs = int(found["seed"] or 0) if found["signs"] else None
    return found["inner"], {"size": int(found["size"]), "kind": found["kind"], "signs": signs}

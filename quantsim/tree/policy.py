"""Policies: patterns of names, and what the tensors of these names get. Specs: static, hashable."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeAlias

from quantsim.mitigations.registry import Mitigation
from quantsim.mitigations.registry import parse as parse_mitigation
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.parsing import parse as parse_quantizer


class PolicyError(ValueError):
    """A policy that does not fit the tensors that it is applied to; the message says which pattern, and what to do."""


@dataclass(frozen=True)
class Treatment:
    """What a linear layer gets: quantizers, or their specs, of its weights and of its inputs, and a mitigation.

    Attributes:
        weights: quantizer of the weights; None leaves them as they are.
        activations: quantizer of the inputs, (tokens, in): "int8:channel" has a scale for each token, "int8:tensor" one
            for all tokens of a call.
        mitigation: how the weights become quantized ones, in place of plain rounding.
        static: the one scale of the activations is found on calibration inputs and frozen.

    Raises:
        ValueError: for an unknown spec, a mitigation of weights that are not quantized, or a static scale of nothing.

    >>> Treatment("int4:block32", "int8:channel", "smoothquant(alpha=0.5)")
    Treatment('int4:block32 + int8:channel inputs + smoothquant(alpha=0.5)')
    """

    weights: AbstractQuantizer | str | None = None
    activations: AbstractQuantizer | str | None = None
    mitigation: Mitigation | str | None = None
    static: bool = False

    def __post_init__(self) -> None:
        for name in ("weights", "activations"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, parse_quantizer(getattr(self, name)))
        if self.mitigation is not None:
            object.__setattr__(self, "mitigation", parse_mitigation(self.mitigation))
        if self.mitigation is not None and self.weights is None:
            raise ValueError(f"{self.mitigation} needs a quantizer of the weights: Treatment('int8:channel', …)")
        if self.static and self.activations is None:
            raise ValueError(
                "a static scale needs a quantizer of the activations: Treatment(activations='int8:tensor')"
            )

    @property
    def needs_inputs(self) -> bool:
        """Whether it is calibrated on inputs of the layer."""
        return self.mitigation is not None or self.static

    @property
    def of_weights(self) -> AbstractQuantizer | None:
        """The quantizer of the weights."""
        assert not isinstance(self.weights, str)
        return self.weights

    @property
    def of_inputs(self) -> AbstractQuantizer | None:
        """The quantizer of the inputs."""
        assert not isinstance(self.activations, str)
        return self.activations

    @property
    def remedy(self) -> Mitigation | None:
        """The mitigation."""
        assert not isinstance(self.mitigation, str)
        return self.mitigation

    def __str__(self) -> str:
        """All parts in words."""
        parts = [] if self.weights is None else [str(self.weights)]
        if self.activations is not None:
            parts.append(f"{'static ' if self.static else ''}{self.activations} inputs")
        if self.mitigation is not None:
            parts.append(str(self.mitigation))
        return " + ".join(parts) or "as it is"

    def __repr__(self) -> str:
        """The class with its parts in words."""
        return f"Treatment('{self}')"


#: What a rule may say: a quantizer or its spec for the weights alone, a whole treatment, or None: left as it is.
Rule: TypeAlias = AbstractQuantizer | str | Treatment | None

AS_IT_IS = Treatment()


@dataclass(frozen=True)
class Policy:
    """Patterns and treatments in order: a tensor gets the treatment of the first pattern that its name matches.

    See ``policy``, which makes one.
    """

    rules: tuple[tuple[str, Treatment], ...]

    def treatment(self, name: str) -> Treatment:
        """What the tensor of this name gets; without a pattern that matches it is left as it is."""
        return next((treatment for pattern, treatment in self.rules if fnmatchcase(name, pattern)), AS_IT_IS)

    def require_matches(self, names: Iterable[str]) -> None:
        """That each pattern is the first to match one of these names.

        Raises:
            PolicyError: for a pattern that matches no name, or only names that earlier patterns have taken.
        """
        names = list(names)
        for at, (pattern, _) in enumerate(self.rules):
            matched = [name for name in names if fnmatchcase(name, pattern)]
            if not matched:
                near = get_close_matches(pattern.strip("*"), names, 3, 0.3) or names[:3]
                raise PolicyError(f"the pattern {pattern!r} matches no matrix; there are {', '.join(near)}, …")
            earlier = [p for p, _ in self.rules[:at]]
            if all(any(fnmatchcase(name, p) for p in earlier) for name in matched):
                raise PolicyError(
                    f"all that {pattern!r} matches, such as {matched[0]!r}, is taken by patterns before it: "
                    "put the narrower pattern first"
                )

    def __str__(self) -> str:
        """Pattern and treatment of every rule."""
        return "; ".join(f"{pattern}: {treatment}" for pattern, treatment in self.rules)


def policy(rules: Mapping[str, Rule] | Policy | Rule) -> Policy:
    """The policy of a table from patterns to treatments; a policy is given back, one treatment is that of every tensor.

    Patterns are those of a shell, for whole names: ``*`` stands for anything, ``?`` for a character, ``[qk]`` for
    q or k.

    Args:
        rules: pattern → quantizer, its spec, a ``Treatment``, or None to leave the tensor as it is; the first pattern
            that matches decides.

    Raises:
        ValueError: for an unknown spec.
        PolicyError: for a table without a rule.

    >>> found = policy({"*.attn_[qk]": "int8:block32", "*_norm": None, "*": Treatment("int4:block32", "int8:channel")})
    >>> found.treatment("blk.0.attn_k"), found.treatment("blk.0.ffn_up")
    (Treatment('int8:block32'), Treatment('int4:block32 + int8:channel inputs'))
    """
    if isinstance(rules, Policy):
        return rules
    if not isinstance(rules, Mapping):
        return Policy((("*", _treatment(rules)),))
    if not rules:
        raise PolicyError("a policy has a rule: {'*': 'int8:channel'}")
    return Policy(tuple((pattern, _treatment(rule)) for pattern, rule in rules.items()))


def _treatment(rule: Rule) -> Treatment:
    return rule if isinstance(rule, Treatment) else Treatment(rule)

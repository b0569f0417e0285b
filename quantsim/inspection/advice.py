"""From errors to advice: what each uniform format costs the model, the best mixture under a budget, what to keep.

The damage to a model is the sum of the damages to its tensors, each ``D = ||e||^2 / ||w||^2``, with importances
``sum d e^2 / sum d w^2``, with squared gradients ``sum F e^2 / 2`` in nats. Sums of parts are known to hold where the
whole is small; the study ``real_layers`` says how well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantsim.inspection.budget import Allocation, Choice, NoRoomError, Point, allocate, frontier
from quantsim.rows import Rows

#: A tensor that is left as it is stored.
AS_STORED = "as stored"


@dataclass(frozen=True)
class Uniform:
    """One format for every tensor that takes it, or what stands for it; bits per weight of the whole model."""

    spec: str
    bits_per_weight: float
    damage: float
    stands_in: int


@dataclass(frozen=True, eq=False)
class Model:
    """All tensors and what they may become.

    Attributes:
        options: of each tensor the formats that it takes; that it stays as stored, if it does not take all of them.
        weights: of all tensors.
    """

    options: dict[str, list[Choice]]
    weights: int

    def bits_per_weight(self, bits: float) -> float:
        """Of so many bits in all."""
        return bits / self.weights


def model_of(tensors: Rows, errors: Rows, specs: Sequence[str]) -> Model:
    """What each tensor may become, of these formats, each with its bits and its damage.

    Args:
        tensors: rows of tensors.
        errors: rows of errors.
        specs: formats, as they were asked for.
    """
    by_tensor = errors.groups("tensor")
    options = {}
    for row in tensors:
        name, n = row["tensor"], row["weights"]
        asked = [error for error in by_tensor.get((name,), ()) if error["spec"] in specs]
        found = {e["used"]: Choice(e["used"], e["bits_per_weight"] * n, e["damage"]) for e in asked if "damage" in e}
        if len(asked) == 0 or any("damage" not in error for error in asked):
            # a format for all tensors leaves this one alone: no mixture may be worse for want of that choice
            found[AS_STORED] = Choice(AS_STORED, row["stored_bits"] * n, 0.0)
        options[name] = list(found.values())
    return Model(options, sum(row["weights"] for row in tensors))


def uniform_choices(tensors: Rows, errors: Rows, specs: Sequence[str]) -> list[Uniform]:
    """The model in each format alone, from fewest bits."""
    found = []
    weights = sum(row["weights"] for row in tensors)
    for spec in specs:
        of_spec = {row["tensor"]: row for row in errors.where(spec=spec) if "damage" in row}
        bits = damage = 0.0
        for row in tensors:
            error = of_spec.get(row["tensor"])
            bits += row["weights"] * (row["stored_bits"] if error is None else error["bits_per_weight"])
            damage += 0.0 if error is None else error["damage"]
        stands_in = sum(row["used"] != spec for row in of_spec.values())
        found.append(Uniform(spec, bits / weights, damage, stands_in))
    return sorted(found, key=_size)


def _size(choice: Uniform) -> tuple[float, float]:
    return choice.bits_per_weight, choice.damage


@dataclass(frozen=True)
class Advice:
    """Formats under a budget.

    Attributes:
        budget: bits per weight of the whole model.
        allocation: of each tensor.
        bits_per_weight: that it takes.
        best_uniform: the format that does least damage within the budget, if any fits.
    """

    budget: float
    allocation: Allocation
    bits_per_weight: float
    best_uniform: Uniform | None

    @property
    def gain(self) -> float | None:
        """Damage of the best uniform choice over that of the mixture."""
        if self.best_uniform is None:
            return None
        return self.best_uniform.damage / self.allocation.damage if self.allocation.damage else float("inf")


def under(model: Model, uniform: Sequence[Uniform], budget: float) -> Advice:
    """The mixture of least damage within so many bits per weight.

    Raises:
        NoRoomError: if the smallest formats take more.
        ValueError: for a budget that is no positive number.
    """
    if not 0 < budget < float("inf"):
        raise ValueError(f"a budget is a positive number of bits per weight, for example 4.5, not {budget:g}")
    least = model.bits_per_weight(sum(min(c.bits for c in choices) for choices in model.options.values()))
    if least > budget:
        raise NoRoomError(
            f"a budget of {budget:g} bits per weight: the smallest formats take {least:.3f}, with what stays as it is "
            "stored; add smaller formats, raise the budget, or --exclude tensors"
        )
    found = allocate(model.options, budget * model.weights)
    within = [u for u in uniform if u.bits_per_weight <= budget]
    best = min(within, key=_by_damage) if within else None
    return Advice(budget, found, model.bits_per_weight(found.bits), best)


def _by_damage(choice: Uniform) -> tuple[float, float]:
    return choice.damage, choice.bits_per_weight


def frontier_of(model: Model) -> list[Point]:
    """Bits per weight and damage of every mixture that a Lagrange multiplier chooses."""
    return [Point(model.bits_per_weight(p.bits), p.damage) for p in frontier(model.options)]


@dataclass(frozen=True)
class Kept:
    """A tensor to keep in higher precision.

    Attributes:
        tensor: its name.
        share: of the damage of the model in the reference format that it has.
        weights_share: of the weights of the model.
        to: format that it is kept in.
    """

    tensor: str
    share: float
    weights_share: float
    to: str


def to_keep(tensors: Rows, errors: Rows, reference: str, part: float = 0.5) -> list[Kept]:
    """The tensors whose better format takes away ``part`` of the damage of a reference format for fewest bits.

    Args:
        tensors: rows of tensors.
        errors: rows of errors.
        reference: format of all others.
        part: of the damage that is to go.
    """
    sizes: Mapping[str, int] = tensors.by("tensor", "weights")
    total_weights = sum(sizes.values())
    candidates = []
    now = {row["tensor"]: row for row in errors.where(spec=reference) if "damage" in row}
    for (name,), rows in errors.groups("tensor").items():
        known = [row for row in rows if "damage" in row]
        if name not in now or not known:
            continue
        best = min(known, key=_row_damage)
        more = (best["bits_per_weight"] - now[name]["bits_per_weight"]) * sizes[name]
        saved = now[name]["damage"] - best["damage"]
        if more > 0 and saved > 0:
            candidates.append((saved / more, saved, name, best["used"]))
    damage = sum(row["damage"] for row in now.values())
    kept, gone = [], 0.0
    for _, saved, name, to in sorted(candidates, reverse=True):
        if gone >= part * damage:
            break
        kept.append(Kept(name, now[name]["damage"] / damage, sizes[name] / total_weights, to))
        gone += saved
    return kept


def _row_damage(row: dict[str, Any]) -> float:
    return row["damage"]

"""An inspection as text: tables of at most 120 columns and sentences."""

from collections.abc import Iterator
from typing import Any

from quantsim.cli import terminal
from quantsim.inspection import Advice, Inspection, Uniform, counts_of
from quantsim.lab import outlier_cells
from quantsim.rows import Rows

_TENSOR_HEADER = ("tensor", "shape", "stored", "sigma", "crest", "expected", "kurtosis", ">3σ", ">10σ", "like", "off")
_FORMAT_HEADER = ("format", "bits", "damage", "median dB", "predicted", "worst dB", "worst tensor")
_KEPT_SHOWN = 6


def text_of(found: Inspection, top: int) -> str:
    """The report of an inspection.

    Args:
        found: what was measured.
        top: tensors that the table of outliers shows.
    """
    parts = [about(found), outliers(found, top), *formats(found), keep(found)]
    if found.advice is not None:
        parts.append(mixture(found, found.advice))
    if found.refused:
        parts.append(refused(found.refused, top))
    return "\n\n".join(part for part in parts if part)


def about(found: Inspection) -> str:
    """How much there is, how it is stored, and what that means for what follows."""
    weights = sum(found.tensors.column("weights"))
    bits = sum(found.tensors.column("weights") * found.tensors.column("stored_bits"))
    types = ", ".join(f"{len(rows)} {kind}" for (kind,), rows in found.tensors.groups("type").items())
    count = terminal.counted(len(found.tensors), "tensor")
    text = f"{terminal.printable(str(found.path))}: {count}, {weights / 1e6:.4g} M weights, "
    text += f"{bits / weights:.3f} bits per weight ({types})"
    if found.quantized:
        text += (
            "\nQuantized tensors are dequantized: they lie on the grids of their formats, which therefore look better "
            "here than on the weights that were quantized."
        )
    scaled = [row for row in found.tensors if row["scaled_by"] and row["scaled_by"] != row["tensor"]]
    if scaled:
        count = terminal.counted(len(scaled), "fp8 tensor")
        text += f"\n{count} multiplied by scales that lie beside, {scaled[0]['scaled_by']} …"
    return text


def outliers(found: Inspection, top: int) -> str:
    """The matrices whose largest weight stands out most."""
    matrices = Rows(row for row in found.tensors if row["population"] is not None)
    if not matrices or top < 1:
        return ""
    first = sorted(matrices, key=outlier_cells.crest, reverse=True)[:top]
    cells = [(terminal.shortened(row["tensor"]), *outlier_cells.cells(row)) for row in first]
    said = f"largest outliers: {len(first)} of {len(matrices)} matrices by crest factor, max |w| / σ\n"
    said += "expected: of as many weights of the population they are like; off: how far from it, max |F - F_n|\n"
    return said + terminal.table(_TENSOR_HEADER, cells)


def formats(found: Inspection) -> Iterator[str]:
    """The model in each format alone, and which formats do not take which tensors."""
    if not found.errors:
        yield "no format was tried: no tensor is a matrix of two rows and columns or more that are not all 0"
        return
    if not found.uniform:
        return
    cells = [_format_cells(found, choice) for choice in found.uniform]
    unit = "nats per token" if found.unit == "nats" else f"sum of relative squared errors ({found.unit})"
    yield f"formats, for every matrix that takes them; damage: {unit}\n" + terminal.table(_FORMAT_HEADER, cells)
    if any(choice.stands_in for choice in found.uniform):
        yield "* where rows are no whole blocks, the type that llama.cpp falls back to"
    left = [row for row in found.errors if "reason" in row]
    if left:
        shown = "\n".join(f"  {terminal.shortened(row['tensor'])}: {row['reason']}" for row in left[:3])
        yield f"{len(left)} times a format does not take a tensor, which stays as it is stored:\n{shown}"


def _format_cells(found: Inspection, choice: Uniform) -> tuple[str, ...]:
    rows = Rows(row for row in found.errors.where(spec=choice.spec) if "damage" in row)
    name = choice.spec + ("*" if choice.stands_in else "")
    if not rows:
        return (name, f"{choice.bits_per_weight:.3f}", "", "", "", "", "")
    worst = min(rows, key=_sqnr)
    measured, predicted = (sorted(rows.column(c))[len(rows) // 2] for c in ("sqnr_db", "predicted_sqnr_db"))
    numbers = (f"{choice.bits_per_weight:.3f}", f"{choice.damage:.4g}", f"{measured:.2f}", f"{predicted:.2f}")
    return (name, *numbers, f"{worst['sqnr_db']:.2f}", terminal.shortened(worst["tensor"]))


def _sqnr(row: dict[str, Any]) -> float:
    return row["sqnr_db"]


def keep(found: Inspection) -> str:
    """The tensors that are worth more bits."""
    if not found.keep:
        return ""
    share, weights = (sum(getattr(k, name) for k in found.keep) for name in ("share", "weights_share"))
    named = ", ".join(f"{terminal.shortened(k.tensor)} ({k.to})" for k in found.keep[:_KEPT_SHOWN])
    more = f", and {len(found.keep) - _KEPT_SHOWN} more" if len(found.keep) > _KEPT_SHOWN else ""
    kept, have = terminal.counted(len(found.keep), "tensor"), "has" if len(found.keep) == 1 else "have"
    return (
        f"keep: beside {found.reference}, {kept} with {weights:.1%} of the weights {have} {share:.0%} "
        f"of the damage: {named}{more}"
    )


def mixture(found: Inspection, advice: Advice) -> str:
    """The best mixture under the budget, and what it gains."""
    counts = ", ".join(f"{n} × {spec}" for spec, n in counts_of(found).items())
    among = f", of {', '.join(found.mixed)}" if len(found.mixed) < len(found.uniform) else ""
    text = f"under {advice.budget:g} bits per weight{among}: {counts}: {advice.bits_per_weight:.3f} bits, "
    text += f"damage {advice.allocation.damage:.4g}"
    if advice.best_uniform is None:
        return text + "; no single format fits the budget"
    best = advice.best_uniform
    if not best.damage:
        return text + f"; {best.spec} alone loses nothing either"
    return text + f"; {best.spec} alone, at {best.bits_per_weight:.3f} bits, does {advice.gain:.2f} times that"


def refused(rows: Rows, top: int) -> str:
    """Tensors that are left out, with the reason."""
    lines = [f"  {terminal.shortened(row['tensor'])} {row['reason']}" for row in rows[:top]]
    more = [f"  and {len(rows) - top} more"] if len(rows) > top else []
    return "\n".join([f"left out: {terminal.counted(len(rows), 'tensor')}", *lines, *more])

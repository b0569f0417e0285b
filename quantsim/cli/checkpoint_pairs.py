"""Two checkpoints side by side, as ``quantsim compare a b`` prints them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantsim import inspection
from quantsim.cli import shipped, terminal
from quantsim.cli.endings import CheckFailedError
from quantsim.inspection import Comparison
from quantsim.inspection.comparing import EXACT, PLACES, UNKNOWN, WORSE, rows_in_order
from quantsim.rows import Rows

_HEADER = ("tensor", "from", "to", "bits", "SQNR dB", "‖e‖/‖w‖", "allowed", "ratio", "verdict")
_ENDINGS = (".safetensors", ".gguf", ".npy")
_LEFT_SHOWN = 5


def are_checkpoints(names: Sequence[str]) -> bool:
    """Whether what was named to compare are two checkpoints, and not specs of quantizers.

    Raises:
        ValueError: for a checkpoint beside specs, alone, or as one of three.
    """
    known = shipped.names()
    sure = [n for n in names if n.endswith(_ENDINGS) or n in known]
    if len(names) == 2 and all(n in sure or Path(n).exists() for n in names):
        return True
    if sure:  # a folder may well have the name of a spec
        file = sure[0]
        raise ValueError(
            f"{file} is a checkpoint, which is compared with one other, that was made of it; formats on its weights: "
            f"quantsim inspect {file}"
        )
    return False


def show(original: str, other: str, top: int, json: bool) -> None:
    """Compare two checkpoints and print what was lost.

    Args:
        original: path of what was quantized.
        other: path of what was made of it.
        top: tensors that the table shows, the worst first.
        json: print JSON.

    Raises:
        CheckFailedError: after all is printed, if a tensor is worse than its format allows.
    """
    with terminal.progress() as report:
        found = inspection.compare(shipped.file_of(Path(original)), shipped.file_of(Path(other)), progress=report)
    print(terminal.json_text(_as_json(found)) if json else text_of(found, top))
    if not found.is_as_allowed:
        raise CheckFailedError(f"{other} is worse than its formats allow")


def _as_json(found: Comparison) -> dict[str, Any]:
    return {
        "as_allowed": found.is_as_allowed,
        "not_judged": sum(row["verdict"] == UNKNOWN for row in found.rows) + len(found.left_out),
        "tensors": list(found.rows),
        "left_out": list(found.left_out),
        "only_original": found.only_original,
        "only_other": found.only_other,
    }


def text_of(found: Comparison, top: int) -> str:
    """The table of the worst tensors, what is to be said of them all, and what could not be compared."""
    rows = list(rows_in_order(found))
    table = terminal.table(_HEADER, [_cells(row) for row in rows[:top]])
    more = f"\n… and {len(rows) - top} more; --top {len(rows)} shows all" if len(rows) > top else ""
    parts = [table + more, summary(found)]
    for what, names in (("only in the first", found.only_original), ("only in the second", found.only_other)):
        if names:
            shown = ", ".join(terminal.shortened(name) for name in names[:_LEFT_SHOWN])
            parts.append(
                f"{what}: {terminal.counted(len(names), 'tensor')}: {shown}{', …' * (len(names) > _LEFT_SHOWN)}"
            )
    if found.left_out:
        lines = [f"  {terminal.shortened(row['tensor'])} {row['reason']}" for row in found.left_out[:_LEFT_SHOWN]]
        parts.append("\n".join([f"not compared: {terminal.counted(len(found.left_out), 'tensor')}", *lines]))
    return "\n\n".join(parts)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    exact = row["verdict"] == EXACT
    allowed = "" if row["allowed_rel_rms"] is None else f"{row['allowed_rel_rms']:.4%}"
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f}"
    about = (terminal.shortened(row["tensor"]), row["type"], row["other_type"], f"{row['other_bits']:.3f}")
    errors = ("exact" if exact else f"{row['sqnr_db']:.2f}", f"{row['rel_rms']:.4%}", allowed, ratio)
    return (*about, *errors, _verdict(row))


def _verdict(row: dict[str, Any]) -> str:
    text = row["verdict"]
    if row["verdict"] == PLACES:
        where = ",".join(map(str, row["worse_at"]))
        text += f": {row['worse_blocks']} of {row['blocks']} blocks, the first at [{where}]"
    return f"{text} ({row['note']})" if row["note"] else text


def summary(found: Comparison) -> str:
    """How much smaller, how much worse, and whether that is what the formats allow."""
    weights = found.rows.column("weights")
    before, after = (
        float((weights * found.rows.column(name)).sum() / weights.sum()) for name in ("bits", "other_bits")
    )
    text = f"{terminal.counted(len(found.rows), 'tensor')}, {before:.3f} to {after:.3f} bits per weight. "
    wrong = Rows(row for row in found.rows if row["verdict"] in (WORSE, PLACES))
    unknown = Rows(row for row in found.rows if row["verdict"] == UNKNOWN)
    if unknown:
        differ = max(row["rel_rms"] for row in unknown)
        text += f"{len(unknown)} differ, by up to {differ:.4%}, in types that are not judged. "
    if not wrong:
        what = "No other" if unknown else "None of these" if found.left_out else "No tensor"
        return f"{text}{what} is worse than its format allows."
    named = ", ".join(terminal.shortened(row["tensor"]) for row in wrong[:_LEFT_SHOWN]) + ", …" * (
        len(wrong) > _LEFT_SHOWN
    )
    advice = "made wrongly, or from other weights; make them again from these"
    return f"{text}{len(wrong)} worse than their format allows: {named}: {advice}"

"""Commands on weights: one matrix before and after, quantizers side by side."""

import csv as csv_files
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from quantsim import checkpoints, mitigations
from quantsim.cli import checkpoint_pairs, terminal
from quantsim.cli.terminal import Flag
from quantsim.lab import comparison, output_comparison
from quantsim.lab.comparison import Source
from quantsim.lab.matrix import document_matrix, report
from quantsim.lab.output_comparison import Outputs
from quantsim.quantizer import parse
from quantsim.quantizer.face import AbstractQuantizer

#: Columns of ``metrics``.
METRICS = ("bits", "SQNR dB", "± se", "predicted", "‖e‖/‖w‖")
_NORMAL = Source()
_WEIGHTS_ONLY = Outputs()


# --- quantizers side by side ----------------------------------------------------------------------------------------


def compare(
    specs: tyro.conf.Positional[tuple[str, ...]],
    source: tyro.conf.OmitArgPrefixes[Source] = _NORMAL,
    outputs: tyro.conf.OmitArgPrefixes[Outputs] = _WEIGHTS_ONLY,
    json: Flag = False,
    top: int = 20,
) -> None:
    """Quantizers side by side: true bits per weight and SQNR with its standard error; or two checkpoints.

    Synthetic arrays are drawn until every standard error is at most 0.02 dB (at most 4096 arrays). Tensors of a file
    that cannot be measured are named on stderr. With a mitigation, inputs or activations, errors are those of the
    outputs x Wᵀ, on inputs that no mitigation was calibrated on.

    Two paths, of an original and of what was made of it, are compared tensor by tensor: what was lost, where, and
    whether that is what the formats of the second allow.

    Args:
        specs: quantizers, for example bf16 int8:channel int4:block32:mse; or original.safetensors made.gguf.
        source: where the weights come from.
        outputs: compare outputs, under these.
        json: print JSON.
        top: tensors of two checkpoints that are shown, the worst first.
    """
    if checkpoint_pairs.are_checkpoints(specs):
        if source != _NORMAL or outputs.wanted:
            raise ValueError("two checkpoints are compared as they are: leave out what is for quantizers")
        checkpoint_pairs.show(specs[0], specs[1], top, json)
        return
    quantizers = [parse(s) for s in specs]
    if not quantizers:
        raise ValueError("name at least one quantizer, for example: quantsim compare int8:channel int4:block32")
    if outputs.wanted:
        _compare_outputs(quantizers, source, outputs, json)
        return
    rows = list(comparison.compare(quantizers, source, refused=partial(_say_refused, source.weights)))
    if json:
        print(terminal.json_text([with_exact(r) for r in rows]))
        return
    named = ("tensor",) if source.weights else ()
    cells = [(*(r[n] for n in named), r["spec"], *metrics(r)) for r in rows]
    print(terminal.table((*named, "spec", *METRICS), cells))


def _compare_outputs(quantizers: list[AbstractQuantizer], source: Source, outputs: Outputs, json: bool) -> None:
    remedies = [mitigations.parse(text) for text in outputs.mitigation]
    activations = None if outputs.activations is None else parse(outputs.activations)
    inputs = outputs.inputs or "normal"
    found = output_comparison.compare_outputs(
        quantizers, remedies, source, inputs=inputs, activations=activations, unfit=_say_unfit
    )
    rows = list(found)
    if json:
        print(terminal.json_text(rows))
        return
    named = ("tensor",) if source.weights else ()
    cells = [
        (
            *(r[n] for n in named),
            r["mitigation"],
            r["spec"],
            _number(r["bits_per_weight"], 3),
            _number(r["output_error"], 5),
            _number(r["output_error_se"], 5),
        )
        for r in rows
    ]
    print(terminal.table((*named, "mitigation", "spec", "bits", "‖dy‖/‖y‖", "± se"), cells))


def _say_unfit(pair: str, reason: str) -> None:
    terminal.say(f"quantsim: left out {pair}: {reason}")


def _say_refused(path: Path | None, tensor: str, reason: str) -> None:
    terminal.say(f"quantsim: {path}: left out {tensor!r}: {reason}")


def metrics(row: dict[str, Any]) -> tuple[str, ...]:
    """Cells of a row: a result without any error is exact, one that is no number says so, no theory is no text."""
    sqnr = "exact" if row["max_abs"] == 0 else _number(row["sqnr_db"], 3)
    se = row["sqnr_db_se"]
    return (
        _number(row["bits_per_weight"], 3),
        sqnr,
        _number(se, 3) if se is not None and np.isfinite(se) else "",
        _number(row.get("predicted_sqnr_db"), 3),
        _number(row["rel_rms"], 5),
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def with_exact(row: dict[str, Any]) -> dict[str, Any]:
    """A row with ``exact``, which tells an SQNR that JSON has as null because nothing differs from one that is NaN."""
    return row | {"exact": row["max_abs"] == 0}


# --- one matrix -----------------------------------------------------------------------------------------------------


def show_matrix(
    file: Annotated[Path | None, tyro.conf.Positional] = None,
    tensor: str | None = None,
    format: str = "int8:tensor",
    seed: int | None = None,
    csv: Flag = False,
    json: Flag = False,
) -> None:
    """A matrix before, after, and its error, in the terminal; the documents' 16×32 example by default.

    Args:
        file: .npy, .safetensors or .gguf; every tensor in it is reported, or named on stderr if it cannot be.
        tensor: only the tensor of this name.
        format: spec of the quantizer.
        seed: seed of the documents' matrix, when there is no file; 42 if not given.
        csv: print every weight, its code, and its error.
        json: print the statistics as JSON.
    """
    if csv and json:
        raise ValueError("--csv and --json are two ways to print: leave one of them out")
    if file and seed is not None:
        raise ValueError("--seed is of the documents' matrix: leave it out where a file is given")
    if file and not file.exists() and _is_spec(str(file)):
        raise ValueError(f"{file} is a format, in the place of a file: quantsim matrix --format {file}")
    if tensor and not file:
        raise ValueError("--tensor names one of a file: name the file too")
    show = _print_json if json else _print_csv if csv else _print_maps
    if file is None:
        seed = 42 if seed is None else seed
        show(f"numpy.random.seed({seed})", document_matrix(seed), parse(format), documented=True)
    else:
        _show_tensors(show, file, tensor, parse(format))


def _is_spec(text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _show_tensors(show: Any, file: Path, tensor: str | None, q: AbstractQuantizer) -> None:
    shown, refused = 0, partial(_say_refused, file)
    for name, w in checkpoints.weights(file, tensor, refused=refused if tensor is None else None):
        try:
            show(name, w, q, documented=False)
            shown += 1
        except ValueError as failure:
            if tensor is not None:
                raise
            refused(name, str(failure))
    if not shown:
        raise checkpoints.CheckpointError(f"{file}: holds nothing that {q} can quantize")


def _print_json(name: str, w: np.ndarray, q: AbstractQuantizer, *, documented: bool) -> None:
    del documented
    print(terminal.json_text({"tensor": name} | with_exact(report(w, q)), indent=None))


def _print_csv(name: str, w: np.ndarray, q: AbstractQuantizer, *, documented: bool) -> None:
    del name, documented
    qw, out = q.quantize(w), csv_files.writer(sys.stdout)
    after, codes = np.asarray(qw.dequantize()), np.asarray(qw.codes)
    out.writerow(("index", "weight", "code", "after", "error"))
    for at in np.ndindex(w.shape):
        out.writerow((" ".join(map(str, at)), w[at], codes[at], after[at], after[at] - w[at]))


def _print_maps(name: str, w: np.ndarray, q: AbstractQuantizer, *, documented: bool) -> None:
    r = report(w, q)
    print("\n".join((*_maps(name, w, q, r), "", _statistics(r), *(_classes(r) if documented else ()))))


def _maps(name: str, w: np.ndarray, q: AbstractQuantizer, r: dict[str, Any]) -> Iterable[str]:
    """The corner of a matrix before and after, and its error, as characters."""
    corner = (*(0,) * (w.ndim - 2), slice(16), slice(32))
    before, after = (np.atleast_2d(a)[corner] for a in (w, np.asarray(q.roundtrip(w))))
    shown = "" if before.size == w.size else f", its first {before.shape[0]}×{before.shape[1]} shown"
    size = "×".join(map(str, w.shape))
    yield f"{terminal.printable(name)}: {size}{shown}, {q}, {r['bits_per_weight']:.3g} bits per weight\n"
    largest, top = float(np.abs(before).max()), r["max_abs"] or 1.0
    yield "before (ninths of the largest weight)\n" + terminal.digit_map(before, largest)
    yield "\nafter\n" + terminal.digit_map(after, largest)
    yield f"\n|error|, in fifths of the largest, {top:.6f}\n" + terminal.shade_map(np.abs(after - before), top)
    yield "  ".join(f"{s} ≤ {(i + 1) / 5 * top:.2g}" for i, s in enumerate(terminal.SHADES))


def _statistics(r: dict[str, Any]) -> str:
    scale = "none" if r["scale"] is None else f"{r['scale']:.6g}"
    return f"scale {scale}  max |e| {r['max_abs']:.6g}  mean |e| {r['mean_abs']:.6g}  ‖e‖/‖w‖ {r['rel_rms']:.4%}"


def _classes(r: dict[str, Any]) -> Iterable[str]:
    """Shares of the documents' classes of errors, beside what the documents say."""
    for b in r["bins"]:
        yield f"  {b['above']:.3f} < |e| <= {b['up_to']:<5} {b['share']:7.2%}   the document says {b['stated']:.0%}"

"""The 16×32 matrix that the documents quantize, and the report of one quantized matrix."""

from itertools import pairwise
from typing import Any

import numpy as np

from quantsim._types import ArrayLike
from quantsim.measure import error, error_stats
from quantsim.quantizer.face import AbstractQuantizer, as_weights

#: Upper ends of the documents' error classes and the shares they state.
LEGEND = ((0.003, 0.35), (0.006, 0.48), (0.009, 0.15), (np.inf, 0.02))


def document_matrix(seed: int = 42, shape: tuple[int, int] = (16, 32)) -> np.ndarray:
    """``numpy.random.seed(seed)``, uniform on [-1, 1), float32: the matrix of the documents' appendix.

    >>> document_matrix().shape, round(float(abs(document_matrix()).max()), 4)
    ((16, 32), 0.9899)
    """
    return np.random.RandomState(seed).uniform(-1.0, 1.0, shape).astype(np.float32)


def report(w: ArrayLike, q: AbstractQuantizer) -> dict[str, Any]:
    """Scale and error statistics of a quantized matrix, with the shares of the documents' error classes.

    ``rel_mean`` is mean |e| / mean |w|; the scale is the largest one where there are several.

    >>> import quantsim as qs
    >>> r = report(document_matrix(), qs.parse("int8:tensor"))
    >>> round(r["scale"], 6), round(r["max_abs"] / r["scale"], 3) <= 0.5, [round(b["share"], 3) for b in r["bins"]][2:]
    (0.007794, True, [0.0, 0.0])
    """
    w32 = as_weights(w)
    qw = q.quantize(w32)
    w_hat = qw.dequantize()
    stats, e = error_stats(w32, w_hat), np.abs(np.asarray(error(w32, w_hat)))
    edges = [0.0, *(high for high, _ in LEGEND)]
    counts = [
        int(((e > low) & (e <= high)).sum()) + (low == 0.0) * int((e == 0).sum()) for low, high in pairwise(edges)
    ]
    return {
        "spec": str(q),
        "shape": list(w32.shape),
        "scale": None if qw.scale is None else float(np.abs(np.asarray(qw.scale)).max(initial=0.0)),
        "max_abs": stats.max_abs,
        "mean_abs": stats.mean_abs,
        "rel_rms": stats.rel_rms,
        "rel_mean": float(e.mean() / np.abs(np.asarray(w32)).mean()) if e.any() else 0.0,
        "sqnr_db": stats.sqnr_db,
        "bits_per_weight": q.bits_per_weight(w32.shape),
        "bins": [
            {"above": low, "up_to": high, "share": n / e.size, "stated": stated}
            for low, n, (high, stated) in zip(edges, counts, LEGEND, strict=False)
        ],
    }

"""quantsim: a JAX laboratory for quantization error.

>>> import quantsim as qs
>>> w = qs.populations.Normal(std=0.02).sample(qs.populations.key(0), (256, 1024))
>>> q = qs.parse("int8:channel")
>>> q.bits_per_weight(w.shape), round(qs.error_stats(w, q.roundtrip(w)).sqnr_db, 1)
(8.03125, 42.1)
"""

from typing import Any

from quantsim import formats, granularity, measure, populations, theory
from quantsim.measure.statistics import ErrorStats, error_stats
from quantsim.measure.streaming import weight_error
from quantsim.outputs import OutputError, QuantizedOutputError, output_error
from quantsim.quantizer import Quantizer, parse
from quantsim.quantizer.blockformats import gguf
from quantsim.quantizer.face import QuantizedArray
from quantsim.quantizer.static import Static, static
from quantsim.sweep import sweep

__version__ = "0.1.0"

__all__ = [
    "ErrorStats",
    "OutputError",
    "QuantizedArray",
    "QuantizedOutputError",
    "Quantizer",
    "Static",
    "error_stats",
    "formats",
    "gguf",
    "granularity",
    "inspect",
    "measure",
    "output_error",
    "parse",
    "populations",
    "static",
    "sweep",
    "theory",
    "weight_error",
]


def __getattr__(name: str) -> Any:
    """``inspect``, with what it needs, when it is asked for: other uses start without."""
    if name == "inspect":
        from quantsim.inspection import inspect

        return inspect
    raise AttributeError(f"module 'quantsim' has no attribute {name!r}")

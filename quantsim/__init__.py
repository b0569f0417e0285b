"""quantsim: a JAX laboratory for quantization error.

>>> import quantsim as qs
>>> w = qs.populations.Normal(std=0.02).sample(qs.populations.key(0), (256, 1024))
>>> q = qs.parse("int8:channel")
>>> q.bits_per_weight(w.shape), round(qs.error_stats(w, q.roundtrip(w)).sqnr_db, 1)
(8.03125, 42.1)
"""

from quantsim import errors, formats, granularity, populations, theory
from quantsim.blockformats import gguf
from quantsim.errors import ErrorStats, error_stats
from quantsim.matmul import OutputError, output_error
from quantsim.quantized import QuantizedArray
from quantsim.quantizer import Quantizer, parse
from quantsim.streaming import weight_error
from quantsim.sweep import sweep

__version__ = "0.1.0"

__all__ = [
    "ErrorStats",
    "OutputError",
    "QuantizedArray",
    "Quantizer",
    "error_stats",
    "errors",
    "formats",
    "gguf",
    "granularity",
    "output_error",
    "parse",
    "populations",
    "sweep",
    "theory",
    "weight_error",
]

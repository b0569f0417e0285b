"""GPTQ of one layer by quantsim and by two rivals, neural-compressor (torch) and qwix (JAX), in processes of their own.

From the weights and inputs that are there to weights as they are dequantized: Hessian, factor and loop. All keep one
convention, the rivals': int4 with the scale absmax / 7.5 of each block of 128 columns, found when its first column is
reached, and a damping of 1 %. So their outputs err alike, which the rows show in decibels.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from quantsim.mitigations import Layer, gptq

from . import _rivals, _served
from ._timing import OURS, Contender, Seconds, processor

F32 = NDArray[np.float32]
NEURAL_COMPRESSOR, QWIX = "neural-compressor", "qwix"
SPEC, BLOCK, DAMPING = "int4:block128:absmax:half", 128, 0.01


def by_quantsim(w: F32, x: F32) -> F32:
    return np.asarray(gptq(Layer(w, x), SPEC, damping=DAMPING).weights)


def by_neural_compressor(w: F32, x: F32) -> F32:
    logging.disable(logging.WARNING)  # it reports each layer
    torch = _rivals.optional("torch")
    theirs = _rivals.optional("neural_compressor.torch.algorithms.weight_only.gptq")
    weights = torch.tensor(w)
    loop = theirs.GPTQ(torch.nn.Linear(1, 1), weights)
    kind = {"bits": 4, "dtype": "int", "sym": True, "perchannel": True, "mse": False}
    loop.quantizer.configure(kind | {"use_double_quant": False, "double_quant_sym": True})
    loop.add_batch(torch.tensor(x), None)
    return loop.fasterquant(weights, blocksize=BLOCK, percdamp=DAMPING, groupsize=BLOCK)[3].numpy()


def by_qwix(w: F32, x: F32) -> F32:
    arrays, theirs = (_rivals.optional(f"qwix.{name}") for name in ("_src.core.qarray", "contrib.gptq_core"))
    how = arrays.HowToQuantize(qtype=jnp.int4, channelwise_axes=[0], tiled_axes={1: BLOCK})
    hessian = theirs.compute_hessian(jnp.asarray(x.T))
    found, _ = theirs.quantize_weight(jnp.asarray(w), hessian, how, blocksize=BLOCK, percdamp=DAMPING)
    return np.asarray(arrays.dequantize(found))


CONTENDERS: dict[str, Callable[[F32, F32], F32]] = {
    OURS: by_quantsim,
    NEURAL_COMPRESSOR: by_neural_compressor,
    QWIX: by_qwix,
}
#: The modules that a rival needs: neural-compressor does not say that it imports accelerate.
MODULES = {NEURAL_COMPRESSOR: ("neural_compressor", "accelerate", "torch"), QWIX: ("qwix",)}


def job(size: int) -> str:
    """Name of the job that quantizes a layer of so many inputs and outputs."""
    return f"GPTQ, {size} × {size}"


def present() -> list[str]:
    """Names of the contenders that are installed."""
    return [name for name in CONTENDERS if all(find_spec(m) for m in MODULES.get(name, ()))]


# --- their processes --------------------------------------------------------------------------------------------------


def layer(size: int) -> tuple[F32, F32]:
    """Normal weights (size, size) and as many tokens of normal inputs: what they are worth changes no time."""
    rng = np.random.default_rng(0)
    w, x = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    return w, x


def taken(name: str, size: int) -> dict[str, float | None]:
    """Seconds of a contender, the peak of memory of this process so far, and the SQNR of outputs on the inputs."""
    w, x = layer(size)
    start = time.perf_counter()
    w_hat = CONTENDERS[name](w, x)
    seconds, peak_gb = time.perf_counter() - start, _served.peak_gb()
    sqnr_db = 20 * np.log10(np.linalg.norm(x @ w.T) / np.linalg.norm(x @ (w_hat - w).T))
    return {"seconds": seconds, "peak_gb": peak_gb, "sqnr_db": float(sqnr_db)}


def serve() -> None:
    """Answer each line of the standard input, a contender and a size, by what GPTQ takes."""
    for line in sys.stdin:
        print(json.dumps(taken(*json.loads(line))), flush=True)


def timed(size: int, names: list[str], rounds: int) -> tuple[dict[Contender, Seconds], dict[Contender, dict]]:
    """Seconds in every round but the first, which compiles, and what else was found in the last, of each by name."""
    with ExitStack() as stack:
        asks = {name: stack.enter_context(_served.answering("_gptq")) for name in names}
        found = [{name: ask((name, size)) for name, ask in asks.items()} for _ in range(rounds + 1)]
    times, more = {}, {}
    for name in names:
        contender = Contender(job(size), name, size * size, serve, processor(), os.cpu_count())
        times[contender] = np.array([of_round[name].pop("seconds") for of_round in found])[1:]
        more[contender] = found[-1][name] | {"size": size}
    return times, more

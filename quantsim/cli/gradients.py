"""The command ``gradients``: what an error of each weight costs a model that quantsim can run."""

from pathlib import Path

import tyro

from quantsim.cli import shipped, terminal


def write(model: tyro.conf.Positional[Path], out: tyro.conf.Positional[Path], texts: int = 4, length: int = 65) -> None:
    """Squared gradients of a model's log-likelihood, for ``quantsim inspect --gradients``: damage in nats per token.

    Args:
        model: Gemma 3 as .gguf, a model of quantsim train lm as .safetensors, or the name of one: lm-w128-s0, gemma.
        out: .safetensors file to write, a tensor of the shape of each matrix.
        texts: passages of Python's documentation, a forward and a backward pass each.
        length: tokens of each passage.
    """
    from quantsim.inspection import gradients
    from quantsim.models import checkpoint_files

    if min(texts, length - 1) < 1:
        raise ValueError(f"--texts is at least 1 and --length at least 2, not {texts} and {length}")
    found = gradients.gradients_of(shipped.file_of(model), texts=texts, length=length)
    checkpoint_files.write(out, found, {"model": str(model), "texts": texts, "length": length})
    terminal.say(f"quantsim: wrote {out}: squared gradients of {len(found)} matrices")

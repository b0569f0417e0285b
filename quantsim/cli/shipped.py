"""Models that come with quantsim, by their names, wherever a command takes a checkpoint."""

import os
from difflib import get_close_matches
from pathlib import Path

from quantsim.checkpoints import CheckpointError, real
from quantsim.models import trained, trained_digits

#: The name of the real model, which the extra ``real`` installs.
REAL = "gemma"


def names() -> tuple[str, ...]:
    """What can stand in the place of a path.

    >>> names()[0], names()[-2:]
    ('lm-w32-s0', ('unet-s2', 'gemma'))
    """
    return (*trained.names(), *trained_digits.names(), REAL)


def file_of(path: Path) -> Path:
    """The path, or the file of the model that has this name: in the user's cache folder, written there if it is not.

    Raises:
        CheckpointError: for the real model, where it is not installed, and for a word that is no name and no file.
        OSError: for a cache folder that cannot be written.

    >>> file_of(Path("model.gguf")).name, file_of(Path("unet-s0")).name
    ('model.gguf', 'unet-s0.safetensors')
    """
    name = str(path)
    if path.exists() or name not in names():
        _check(path)
        return path
    if name == REAL:
        return real.real_model_path()
    data = (trained if name in trained.names() else trained_digits).shipped(name)
    target = real.folder() / f"{name}.safetensors"
    if not target.is_file() or target.read_bytes() != data:
        target.parent.mkdir(parents=True, exist_ok=True)
        own = target.with_name(f"{target.name}.{os.getpid()}")  # another process may be doing the same
        own.write_bytes(data)
        own.replace(target)
    return target


def _check(path: Path) -> None:
    """A word without folder and ending, of which there is no file, was meant as a name."""
    if path.exists() or path.suffix or len(path.parts) > 1:
        return
    near = get_close_matches(path.name, names(), 3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"those are {', '.join(names())}"
    raise CheckpointError(f"{path}: no such file, and no model that comes with quantsim; {hint}")

"""How a command ends: 0 fine, 1 a check failed, 2 usage, 3 bad input file, 4 output not written, 130 interrupted."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from quantsim.checkpoints import CheckpointError
from quantsim.sweep.config import ConfigError


class CheckFailedError(Exception):
    """A check that was asked for did not pass."""


@contextmanager
def writing(option: str) -> Iterator[None]:
    """Output whose place this option chose: the line about a failure names it."""
    try:
        yield
    except OSError as failure:
        failure.add_note(option)
        raise


def ending(failure: BaseException) -> tuple[int, str] | None:
    """Exit code of a failure and the line that says what to do, or None for one that is a fault of this program.

    >>> ending(ValueError("no such format"))
    (2, 'no such format')
    >>> ending(OSError(28, "No space left on device", "rows.jsonl"))
    (4, 'cannot write rows.jsonl: No space left on device; choose another folder with --out')
    """
    if isinstance(failure, KeyboardInterrupt):
        return 130, "interrupted: what is finished is kept, the same command goes on from there"
    if isinstance(failure, CheckFailedError):
        return 1, str(failure)
    if isinstance(failure, CheckpointError | ConfigError):
        return 3, str(failure)
    if isinstance(failure, OSError):
        where, why = failure.filename or "output", failure.strerror or failure
        option = next(iter(getattr(failure, "__notes__", ())), "--out")
        return 4, f"cannot write {where}: {why}; choose another folder with {option}"
    if isinstance(failure, ValueError | LookupError | OverflowError):
        return 2, str(failure.args[0] if failure.args else failure)
    if isinstance(failure, RuntimeError | AssertionError) and (missing := _missing_device()):
        return 2, missing
    return None


def _missing_device() -> str | None:
    """What to say if JAX finds no device of the kind that was asked for; it then fails in several ways."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError):
        asked = os.environ.get("JAX_PLATFORMS") or "any platform"
        return f"JAX finds no device of {asked}: unset JAX_PLATFORMS, or install the JAX that drives it"
    return None


def drop_stdout() -> None:
    """What is still buffered goes nowhere, so that Python does not fail on it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

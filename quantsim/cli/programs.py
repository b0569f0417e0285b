"""Compiled programs, kept in the user's cache folder, so that a second call of a command compiles nothing.

JAX finds a kept program by all that was compiled into it; a folder a machine and version keeps apart what one processor
can run and another cannot. What is loaded is what was compiled, so no result changes by a bit. ``QUANTSIM_CACHE=0``
switches it off, ``QUANTSIM_CACHE=/a/folder`` moves it; JAX's own ``JAX_COMPILATION_CACHE_DIR`` comes before both.
"""

import contextlib
import hashlib
import os
import platform
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import jax

from quantsim.checkpoints.real import cache_of_user

#: Bytes that the folder may hold when a command starts; beyond, programs that were not used for longest go.
MOST = 512 * 2**20


def folder(env: Mapping[str, str] = os.environ) -> Path | None:
    """Where programs are kept, or None where that is switched off.

    >>> folder({"QUANTSIM_CACHE": "0"}) is None, str(folder({"QUANTSIM_CACHE": "/fast"}))
    (True, '/fast')
    """
    asked = env.get("QUANTSIM_CACHE", "")
    if asked.lower() in ("0", "off", "no", "false"):
        return None
    return Path(asked) if asked and asked != "1" else cache_of_user(env) / "quantsim" / "programs"


def keep() -> None:
    """Have JAX keep what it compiles from here on; without a word where the folder cannot be written."""
    chosen, users_own = folder(), getattr(jax.config, "jax_compilation_cache_dir", None)
    if chosen is None or users_own or not getattr(jax.config, "jax_enable_compilation_cache", True):
        return
    own = chosen / machine()
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(own, os.W_OK | os.X_OK):
        return
    trim(chosen, MOST)
    # a program that cannot be read, because another process is writing it or was killed doing so, is compiled here
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(own))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def machine() -> str:
    """Name of a folder for this version of JAX on this kind of processor."""
    about = [version("jax"), version("jaxlib"), platform.platform(), platform.machine(), _processor()]
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:16]


def _processor() -> str:
    """Model and instructions of the processor, where the system says them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def trim(kept: Path, most: int) -> None:
    """Delete the programs that were used least recently until at most ``most`` bytes are left."""
    with contextlib.suppress(OSError):
        files = [(path, path.stat()) for path in kept.glob("*/*") if path.is_file()]
        size = sum(stat.st_size for _, stat in files)
        for path, stat in sorted(files, key=_last_used):
            if size <= most:
                return
            path.unlink(missing_ok=True)
            size -= stat.st_size


def _last_used(file: tuple[Path, os.stat_result]) -> float:
    return max(file[1].st_atime, file[1].st_mtime)

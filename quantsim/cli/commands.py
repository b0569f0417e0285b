"""The command line: data on stdout, progress and messages on stderr."""

import os
import sys
from collections.abc import Sequence

import jax
import tyro

from quantsim.cli import (
    confirming,
    doctor,
    endings,
    explaining,
    gradients,
    inspecting,
    programs,
    reporting,
    studies,
    sweeps,
    terminal,
    training,
    weights,
)

#: Every command by its name, in the order of the help.
COMMANDS = {
    "list": studies.show_studies,
    "run": studies.run,
    "confirm": confirming.confirm,
    "claims": studies.show_claims,
    "report": reporting.write,
    "matrix": weights.show_matrix,
    "compare": weights.compare,
    "inspect": inspecting.inspect,
    "gradients": gradients.write,
    "sweep": sweeps.run,
    "train": training.train,
    "explain": explaining.explain,
    "doctor": doctor.show,
}


def _app() -> tyro.extras.SubcommandApp:
    app = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(command, name=name)
    return app


def main(args: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    args = sys.argv[1:] if args is None else args
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", min(os.cpu_count() or 1, 16))
    programs.keep()
    try:
        try:
            _command(args)
        finally:
            sys.stdout.flush()  # here, where a failure still has an exit code
    except BrokenPipeError:
        endings.drop_stdout()
    except (Exception, KeyboardInterrupt) as failure:
        if (ending := endings.ending(failure)) is None:
            raise
        if isinstance(failure, OSError) and failure.filename is None:
            endings.drop_stdout()
        code, message = ending
        terminal.say(message if code == 130 else f"quantsim: {message}")
        sys.exit(code)


def _command(args: Sequence[str]) -> None:
    if list(args) == ["--version"]:
        print(f"quantsim {sys.modules['quantsim'].__version__}, jax {jax.__version__}")
    else:
        _app().cli(prog="quantsim", args=args, description="A laboratory for quantization error. --version says which.")

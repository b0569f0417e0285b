"""The command line: commands, tables in the terminal, the self-test of a machine.

``commands`` says which there are and runs one; they stand in ``studies`` (list, run, claims), ``weights`` (matrix,
compare), ``sweeps``, ``training``, ``explaining`` and ``doctor``. ``endings`` turns what went wrong into an exit code
and a line, ``programs`` keeps compiled programs from one call to the next, ``terminal`` has maps and tables of plain
characters, JSON and messages.
"""

from quantsim.cli.commands import main

__all__ = ["main"]

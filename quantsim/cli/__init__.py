"""The command line: commands, tables in the terminal, the self-test of a machine."""

from quantsim.cli.commands import main

__all__ = ["main"]

"""Closed forms and quadrature: what an error must be, in float64, without simulating it."""

from quantsim.theory.levels import levels_mse
from quantsim.theory.scales import absmax_int_mse, expected_absmax

__all__ = ["absmax_int_mse", "expected_absmax", "levels_mse"]

"""What becomes of errors of weights and activations in products."""

from quantsim.outputs.output_errors import OutputError, QuantizedOutputError, output_error

__all__ = ["OutputError", "QuantizedOutputError", "output_error"]

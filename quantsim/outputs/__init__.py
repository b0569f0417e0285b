"""What becomes of weight errors in products."""

from quantsim.outputs.output_errors import OutputError, output_error

__all__ = ["OutputError", "output_error"]

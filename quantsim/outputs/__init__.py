"""What becomes of errors of weights and activations in products, in attention, and in convolutions."""

from quantsim.outputs.attention import AttentionError, AttentionQuantizers, attention_error
from quantsim.outputs.output_errors import OutputError, QuantizedOutputError, output_error

__all__ = [
    "AttentionError",
    "AttentionQuantizers",
    "OutputError",
    "QuantizedOutputError",
    "attention_error",
    "output_error",
]

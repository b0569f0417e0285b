"""Weights from files: ``.npy``, ``.safetensors`` and ``.gguf``, tensor by tensor, never pickle; and the real model."""

from quantsim.checkpoints.cells import spread, steps
from quantsim.checkpoints.checkpoint import Checkpoint
from quantsim.checkpoints.entries import Entry, Header
from quantsim.checkpoints.errors import CheckpointError, Refused, TensorError
from quantsim.checkpoints.gguf_file import StoredTensor, dequantized, stored_tensors
from quantsim.checkpoints.gguf_header import read_header
from quantsim.checkpoints.opening import open_checkpoint
from quantsim.checkpoints.reading import read, weights
from quantsim.checkpoints.real import RealModel, real_model, real_model_path

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Entry",
    "Header",
    "RealModel",
    "Refused",
    "StoredTensor",
    "TensorError",
    "dequantized",
    "open_checkpoint",
    "read",
    "read_header",
    "real_model",
    "real_model_path",
    "spread",
    "steps",
    "stored_tensors",
    "weights",
]

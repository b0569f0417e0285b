"""What formats do to a checkpoint, tensor by tensor: outliers, errors, advice under a budget of bits."""

from quantsim.inspection.advice import AS_STORED, Advice, Kept, Uniform
from quantsim.inspection.budget import Allocation, NoRoomError, Point
from quantsim.inspection.comparing import Comparison, compare
from quantsim.inspection.inspecting import FORMATS, Importance, Inspection, Selection, counts_of, emitted, inspect

__all__ = [
    "AS_STORED",
    "FORMATS",
    "Advice",
    "Allocation",
    "Comparison",
    "Importance",
    "Inspection",
    "Kept",
    "NoRoomError",
    "Point",
    "Selection",
    "Uniform",
    "compare",
    "counts_of",
    "emitted",
    "inspect",
]

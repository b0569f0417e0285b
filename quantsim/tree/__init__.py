"""Models under quantizers: a policy says what each tensor gets, by the pattern of its name.

``policy`` holds patterns and treatments, ``strategies`` the policies that have names, ``quantized`` what becomes of the
parameters of a model, and ``sites`` the inputs that its layers see.
"""

from quantsim.tree.policy import Policy, PolicyError, Treatment, policy
from quantsim.tree.quantized import QuantizedLayer, QuantizedTree, product, quantize
from quantsim.tree.sites import site_inputs
from quantsim.tree.strategies import documents_strategy, only, progressive

__all__ = [
    "Policy",
    "PolicyError",
    "QuantizedLayer",
    "QuantizedTree",
    "Treatment",
    "documents_strategy",
    "only",
    "policy",
    "product",
    "progressive",
    "quantize",
    "site_inputs",
]

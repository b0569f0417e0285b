"""One outlier: how a single weight ruins a scale, how that is predicted, and what repairs it.

Run it as a script, or cell by cell in an editor that knows ``# %%``. It takes a few seconds on a CPU.
"""

# %% [markdown]
# # One outlier
#
# An int8 scale is the largest weight over 127. So one weight can spoil all others: they share a step that is made for
# it.

# %%
import jax.numpy as jnp

import quantsim as qs
from quantsim import mitigations

normal = qs.populations.Normal(std=0.02)
spoiled = normal.with_outliers(count=1, magnitude=100.0)  # 100 standard deviations, somewhere in the matrix
w = normal.sample(qs.populations.key(0), (256, 1024))
v = spoiled.sample(qs.populations.key(0), (256, 1024))

print("weights that differ:", int((w != v).sum()), "of", w.size)

# %% [markdown]
# ## What it costs
#
# The error of the others, since the outlier itself comes out exactly: it sets the scale.


# %%
def others(spec):
    """Relative error of all weights but the outlier, and of all of them."""
    e = qs.parse(spec).roundtrip(v) - v
    bulk = w == v
    return float(jnp.sqrt((e**2 * bulk).sum() / (v**2 * bulk).sum())), qs.error_stats(v, v + e).rel_rms


before = qs.error_stats(w, qs.parse("int8:tensor").roundtrip(w)).rel_rms
after, of_all = others("int8:tensor")
print(f"int8, one scale: error {before:.2%} of the weights without the outlier, {after:.2%} with it")
print(f"of all weights it is {of_all:.2%}: the outlier, which has no error, has a part of their power")

# %% [markdown]
# ## It is foretold
#
# Theory knows the error of the bulk under a step that an outlier sets: `magnitude / 127 / sqrt(12)` standard
# deviations, while that step is smaller than the bulk. No weight is drawn for it.

# %%
predicted = float(qs.theory.outlier_bulk_mse(normal, 100.0, 8)) ** 0.5 / 0.02
print(f"predicted {predicted:.2%}, by the rule of thumb {100 / 127 / 12**0.5:.2%}")

# %% [markdown]
# ## What repairs it
#
# Finer scales confine the damage to a row or a block; a float spaces small weights finely; clipping gives the outlier
# up; keeping it apart costs its bits and nothing else.

# %%
print(f"{'':26}{'bits':>7}  error of the others")
for spec in ("int8:tensor", "int8:channel", "int8:block32", "q8_0", "e4m3:tensor", "int8:tensor:p99.99"):
    q = qs.parse(spec)
    print(f"{spec:26}{q.bits_per_weight(v.shape):7.3f}  {others(spec)[0]:8.3%}")

x = normal.sample(qs.populations.key(1), (128, 1024))
apart = mitigations.split_outliers(mitigations.Layer(v, x), "int8:tensor", by="std", std=10.0)
e = jnp.where(w == v, apart.weights - v, 0.0)
error = float(jnp.sqrt((e**2).sum() / (w**2).sum()))
print(f"{'int8:tensor, outlier apart':26}{apart.bits_per_weight('int8:tensor'):7.3f}  {error:8.3%}")

# %% [markdown]
# ## In the outputs
#
# Errors of weights do not average out in a product: relative to the output they are as large as relative to the
# weights.

# %%
for name, weights in (("without", w), ("with", v)):
    found = qs.output_error(weights, "int8:tensor", x)
    print(f"{name} the outlier: outputs err by {found.rel_rms:.2%} ± {found.rel_rms_se:.2%}")

# %% [markdown]
# The whole question, over magnitudes, rates and sizes of tensors, is a study: `quantsim run outliers`.

"""Which format for which tensor: a small checkpoint, a budget of bits, and what a mixture gains over one format.

Run it as a script, or cell by cell in an editor that knows ``# %%``. It takes a few seconds on a CPU.
"""

# %% [markdown]
# # A checkpoint to choose for
#
# One of the small language models that come with quantsim, written to a file as any framework would write it. One of
# its channels is made to stand out, 32 times larger where it is written and 32 times smaller where it is read, which
# changes nothing that the model computes.

# %%
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import quantsim as qs
from quantsim.models import trained

params, config, about = trained.load("lm-w64-s0")
weights = {name: np.array(a) for name, a in params.items()}
weights["blk.0.ffn_up"][3] *= 32.0
weights["blk.0.ffn_down"][:, 3] /= 32.0

folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "model.safetensors"
save_file(weights, path)
count = sum(a.size for a in weights.values())
print(f"{len(weights)} tensors, {count:,} weights; held-out loss {about['loss']:.3f} nats a byte")

# %% [markdown]
# # Every tensor in every format
#
# `qs.inspect` reads the file part by part and never runs the model. `damage` is the relative squared error of a
# tensor; with squared gradients (`quantsim gradients`) it would be nats.

# %%
formats = ("q8_0", "q5_0", "q4_0", "int4:block32", "mxfp4")
found = qs.inspect(path, formats, budget=5.0)

for row in sorted(found.tensors, key=lambda row: -row["crest"])[:3]:
    print(f"{row['tensor']:14} its largest weight is {row['crest']:5.1f} times its rms, like {row['family']}")

# %% [markdown]
# # One format for all, and the best mixture
#
# The mixture solves an integer program: the least total damage under 5 bits a weight, scales and all.

# %%
print(f"\n{'':20}{'bits':>7}{'damage':>10}")
for uniform in found.uniform:
    print(f"{uniform.spec:20}{uniform.bits_per_weight:7.3f}{uniform.damage:10.4f}")
best = found.advice.allocation
print(f"{'best mixture':20}{best.bits / count:7.3f}{best.damage:10.4f}")

# %%
for spec in sorted(set(best.formats.values())):
    names = [name for name, chosen in best.formats.items() if chosen == spec]
    print(f"{spec:14} for {len(names):2}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}")

# %% [markdown]
# # Try a format of your own
#
# A spec is a sentence: elements, who shares a scale, how it is found, how it is stored. Any `ExMy` is a float.

# %%
w = weights["blk.1.ffn_up"]
print("\nblk.1.ffn_up")
for spec in ("int4:block32", "int4:block32:mse", "int4:block32:mse:f16", "e2m1:block32", "e3m0:block32", "nf4:block32"):
    q = qs.parse(spec)
    print(f"{spec:26}{q.bits_per_weight(w.shape):7.3f} bits  {qs.weight_error(w, q).sqnr_db:6.2f} dB")

folder.cleanup()

# %% [markdown]
# The same on a real model: `quantsim inspect model.safetensors --budget 4.5 --emit types.txt`.

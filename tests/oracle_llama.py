"""A slow LLaMA in float64 NumPy, token by token and head by head, written from the papers and not from the package."""

import numpy as np


def normed(v, gain, epsilon):
    return gain * v / np.sqrt(np.mean(v**2) + epsilon)


def turned(v, time, base):
    """RoPE as a product of complex numbers: member i is the real part, i + d/2 the imaginary one."""
    half = len(v) // 2
    z = (v[:half] + 1j * v[half:]) * np.exp(1j * time * base ** (-2.0 * np.arange(half) / len(v)))
    return np.concatenate([z.real, z.imag])


def attention(rows, weights, config):
    """Outputs of all tokens of one sequence, before they are added to the residual stream."""
    size, group = config.width // config.heads, config.heads // config.kv_heads
    out = []
    for t in range(len(rows)):
        mixed = []
        for head in range(config.heads):
            of_query = slice(head * size, (head + 1) * size)
            of_key = slice(head // group * size, (head // group + 1) * size)
            query = turned(weights["attn_q"][of_query] @ rows[t], t, config.rope_base)
            keys = [turned(weights["attn_k"][of_key] @ rows[s], s, config.rope_base) for s in range(t + 1)]
            scores = np.array([query @ key for key in keys]) / np.sqrt(size)
            p = np.exp(scores - scores.max())
            p /= p.sum()
            mixed.append(sum(p[s] * (weights["attn_v"][of_key] @ rows[s]) for s in range(t + 1)))
        out.append(weights["attn_output"] @ np.concatenate(mixed))
    return out


def feed_forward(v, weights):
    gate = weights["ffn_gate"] @ v
    return weights["ffn_down"] @ (gate / (1 + np.exp(-gate)) * (weights["ffn_up"] @ v))


def logits(params, tokens, config):
    """Of one sequence of tokens, (time, vocabulary)."""
    params = {name: np.asarray(w, np.float64) for name, w in params.items()}
    h = [params["token_embd"][token].copy() for token in tokens]
    for layer in range(config.layers):
        at = f"blk.{layer}."
        weights = {name.removeprefix(at): w for name, w in params.items() if name.startswith(at)}
        rows = [normed(v, weights["attn_norm"], config.epsilon) for v in h]
        h = [v + a for v, a in zip(h, attention(rows, weights, config), strict=True)]
        h = [v + feed_forward(normed(v, weights["ffn_norm"], config.epsilon), weights) for v in h]
    return np.stack([params["output"] @ normed(v, params["output_norm"], config.epsilon) for v in h])


def nll(rows, targets):
    """Of one sequence."""
    return np.array([np.log(np.exp(r - r.max()).sum()) + r.max() - r[t] for r, t in zip(rows, targets, strict=True)])

"""Gemma 3 in float64 NumPy, one token, one head, one layer at a time, from the published description. No quantsim here.

Written from the technical report (arXiv:2503.19786) and the GGUF names of its tensors; slow, and meant to be read.
"""

import math

import numpy as np


def rms_norm(x, gain, epsilon):
    return x / math.sqrt(np.mean(x * x) + epsilon) * gain


def rotate(x, position, base):
    """Complex numbers of the two halves, each turned by its own frequency."""
    half = len(x) // 2
    turned = (x[:half] + 1j * x[half:]) * np.exp(1j * position * base ** (-2 * np.arange(half) / len(x)))
    return np.concatenate([turned.real, turned.imag])


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attention(p, xs, *, config, everywhere):
    """Outputs of the attention of a layer before their norm, and how many tokens each query saw."""
    base = config.global_base if everywhere else config.local_base
    queries, keys, values, outputs, seen = [], [], [], [], []
    for position, x in enumerate(xs):
        q = (p["attn_q"] @ x).reshape(config.heads, config.head)
        k = (p["attn_k"] @ x).reshape(config.kv_heads, config.head)
        queries.append([rotate(rms_norm(h, p["attn_q_norm"], config.epsilon), position, base) for h in q])
        keys.append([rotate(rms_norm(h, p["attn_k_norm"], config.epsilon), position, base) for h in k])
        values.append((p["attn_v"] @ x).reshape(config.kv_heads, config.head))
        first = 0 if everywhere else max(0, position - config.window + 1)
        seen.append(position + 1 - first)
        heads = []
        for number in range(config.heads):
            group = number // (config.heads // config.kv_heads)
            z = [queries[position][number] @ keys[t][group] * config.query_scale for t in range(first, position + 1)]
            weights = np.exp(np.array(z) - max(z))
            weights /= weights.sum()
            heads.append(sum(w * values[t][group] for w, t in zip(weights, range(first, position + 1), strict=True)))
        outputs.append(p["attn_output"] @ np.concatenate(heads))
    return outputs, seen


def forward(params, tokens, config):
    """Logits (time, vocabulary) of one text; every sixth layer (or ``period``th) sees all tokens."""
    params = {name: np.asarray(a, np.float64) for name, a in params.items()}
    xs = [params["token_embd"][t] * math.sqrt(config.width) for t in tokens]
    for layer in range(config.layers):
        p = {n.split(".", 2)[2]: a for n, a in params.items() if n.startswith(f"blk.{layer}.")}
        everywhere = (layer + 1) % config.period == 0
        normed = [rms_norm(x, p["attn_norm"], config.epsilon) for x in xs]
        mixed, _ = attention(p, normed, config=config, everywhere=everywhere)
        xs = [x + rms_norm(m, p["post_attention_norm"], config.epsilon) for x, m in zip(xs, mixed, strict=True)]
        for at, x in enumerate(xs):
            h = rms_norm(x, p["ffn_norm"], config.epsilon)
            inner = gelu_tanh(p["ffn_gate"] @ h) * (p["ffn_up"] @ h)
            xs[at] = x + rms_norm(p["ffn_down"] @ inner, p["post_ffw_norm"], config.epsilon)
    head = params.get("output", params["token_embd"])
    return np.array([head @ rms_norm(x, params["output_norm"], config.epsilon) for x in xs])

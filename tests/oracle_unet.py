"""A slow diffusion UNet in float64 NumPy, of one image, from the definitions and pixel by pixel."""

import numpy as np


def silu(x):
    return x / (1 + np.exp(-x))


def conv(params, name, x, stride=1):
    """3x3, one output pixel at a time; x is (height, width, channels)."""
    w, bias = params[name].astype(np.float64), params[f"{name}.bias"]
    height, width, _ = x.shape
    found = np.zeros((height // stride, width // stride, len(w)))
    for i in range(height // stride):
        for j in range(width // stride):
            found[i, j] = bias
            for a in range(3):
                for b in range(3):
                    row, column = stride * i + a - 1, stride * j + b - 1
                    if 0 <= row < height and 0 <= column < width:
                        found[i, j] += w[:, :, a, b] @ x[row, column]
    return found


def dense(params, name, x):
    w = params[name].astype(np.float64)
    return x @ w.reshape(len(w), -1).T + params[f"{name}.bias"]


def norm(params, name, x, config):
    found, width = np.empty_like(x), x.shape[2] // config.groups
    for group in range(config.groups):
        mine = slice(group * width, (group + 1) * width)
        found[..., mine] = (x[..., mine] - x[..., mine].mean()) / np.sqrt(x[..., mine].var() + config.epsilon)
    return found * params[name] + params[f"{name}.bias"]


def resnet(params, at, x, time, config):
    h = conv(params, f"{at}.conv1", silu(norm(params, f"{at}.norm1", x, config)))
    h = h + dense(params, f"{at}.time_emb_proj", silu(time))
    h = conv(params, f"{at}.conv2", silu(norm(params, f"{at}.norm2", h, config)))
    return h + (dense(params, f"{at}.conv_shortcut", x) if f"{at}.conv_shortcut" in params else x)


def attention(params, at, x, config):
    pixels = norm(params, f"{at}.group_norm", x, config).reshape(-1, x.shape[2])
    q, k, v = (dense(params, f"{at}.{name}", pixels) for name in ("to_q", "to_k", "to_v"))
    mixed, width = np.zeros_like(q), x.shape[2] // config.heads
    for head in range(config.heads):
        mine = slice(head * width, (head + 1) * width)
        p = np.exp(q[:, mine] @ k[:, mine].T / np.sqrt(width))
        mixed[:, mine] = p / p.sum(axis=1, keepdims=True) @ v[:, mine]
    return x + dense(params, f"{at}.to_out", mixed).reshape(x.shape)


def block(params, at, x, time, config):
    x = resnet(params, f"{at}.resnets.0", x, time, config)
    return attention(params, f"{at}.attentions.0", x, config) if f"{at}.attentions.0.to_q" in params else x


def upsampled(x):
    return np.array([[x[i // 2, j // 2] for j in range(2 * x.shape[1])] for i in range(2 * x.shape[0])])


def noise(params, x, t, config, skip=lambda name, h: h):
    """The predicted noise of one image (size, size, image) at time t."""
    half = config.channels[0] // 2
    angles = [1000 * t / 10_000 ** (i / half) for i in range(half)]
    time = dense(params, "time_embedding.linear_1", np.array([*np.cos(angles), *np.sin(angles)]))
    time = dense(params, "time_embedding.linear_2", silu(time))
    h, skips = conv(params, "conv_in", x), []
    for level in range(len(config.channels)):
        at = f"down_blocks.{level}"
        h = block(params, at, h, time, config)
        skips.append(skip(at, h))
        if f"{at}.downsamplers.0.conv" in params:
            h = conv(params, f"{at}.downsamplers.0.conv", h, stride=2)
    h = block(params, "mid_block", h, time, config)
    for number in range(len(config.channels)):
        at = f"up_blocks.{number}"
        h = block(params, at, np.concatenate([h, skips.pop()], axis=2), time, config)
        if f"{at}.upsamplers.0.conv" in params:
            h = conv(params, f"{at}.upsamplers.0.conv", upsampled(dense(params, f"{at}.upsamplers.0.proj", h)))
    return conv(params, "conv_out", silu(norm(params, "conv_norm_out", h, config)))

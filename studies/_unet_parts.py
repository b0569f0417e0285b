"""What a UNet is made of, by the names of its weights: every matrix belongs to one part."""

from fnmatch import fnmatchcase

from jaxtyping import Array

#: Part -> patterns of names. What reads a concatenation of skip and features stands next to the skip.
PARTS: dict[str, tuple[str, ...]] = {
    "first convolution": ("conv_in",),
    "last convolution": ("conv_out",),
    "time embedding": ("time_embedding.*", "*.time_emb_proj"),
    "q, k, v": ("*.to_[qkv]",),
    "attention's output": ("*.to_out",),
    "skip-adjacent": ("up_blocks.*.resnets.0.conv1", "up_blocks.*.resnets.0.conv_shortcut"),
    "down": ("down_blocks.*.resnets.0.conv[12]", "down_blocks.*.resnets.0.conv_shortcut"),
    "middle": ("mid_block.resnets.0.conv[12]",),
    "up": ("up_blocks.*.resnets.0.conv2",),
    "resampling": ("*.downsamplers.0.*", "*.upsamplers.0.*"),
}
ATTENTION = ("q, k, v", "attention's output")


def names_of(part: str, matrices: dict[str, Array]) -> list[str]:
    """The matrices of a part.

    >>> names_of("last convolution", {"conv_in": None, "conv_out": None})
    ['conv_out']
    """
    return [name for name in matrices if any(fnmatchcase(name, pattern) for pattern in PARTS[part])]


def weights_in(part: str, matrices: dict[str, Array]) -> int:
    """Number of weights of a part."""
    return sum(matrices[name].size for name in names_of(part, matrices))

"""Which role each tensor of a checkpoint plays, from its name: its kind, its block, its expert.

A name is cut into words at its dots. The words that lead to its block say where it stands, those behind it what it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from quantsim.inspection import role_names as words
from quantsim.inspection.block_names import UNETS
from quantsim.inspection.blocks import Block, Path, block_of, guessed_block, is_number, numbered, path_of

_LONGEST_ENDING = 4  # words
_OTHER = "other"


@dataclass(frozen=True)
class Role:
    """What a tensor is for.

    Attributes:
        kind: llama.cpp's word where it has one, "attn_q" … "ffn_down", "token_embd", "output"; "cross_" and "context_"
            before it for attention to another sequence and for layers of the text beside an image, "_shexp" behind it
            for an expert that every token visits; "norm", "bias", "scale"; "other" if the name says nothing.
        layer: number of its block counted from the input, None outside blocks.
        place: what precedes that number, "blk" or "down_blocks.0"; outside blocks, what precedes the last word.
        expert: its number, None where it has none or one tensor holds all.
        transposed: stored (in, out), as GPT-2's matrices are.
    """

    kind: str
    layer: int | None
    place: str
    expert: int | None = None
    transposed: bool = False


def roles(names: Sequence[str], shapes: Mapping[str, Sequence[int]] | None = None) -> dict[str, Role]:
    """The role of each tensor of a file.

    Blocks are numbered through the whole file in the order in which data flow: an encoder, then a decoder; a UNet's way
    down, its middle and its way up; networks of pixels or sound before that of the text that they serve.

    Args:
        names: of all tensors together.
        shapes: of some of them; what decides whether a file with GPT-2's names is stored as GPT-2 is, (in, out), or as
            StarCoder is. Without them position embeddings beside those names do.

    >>> found = roles(["blk.1.attn_q.weight", "model.layers.0.mlp.experts.3.down_proj.weight", "lm_head.weight"])
    >>> for role in found.values():
    ...     print(role.kind, role.layer, role.place, role.expert)
    attn_q 1 blk None
    ffn_down 2 layers 3
    output None  None
    """
    paths = {name: path_of(name) for name in names}
    blocks = {name: _block(path) for name, path in paths.items()}
    layers = numbered([block for block in blocks.values() if block is not None])
    found = {}
    for name, path in paths.items():
        block = blocks[name]
        found[name] = _outside_role(path) if block is None else _inside_role(path, block, layers[block.key])
    return _oriented(found, paths, shapes or {})


def _block(path: Path) -> Block | None:
    known = block_of(path)
    return guessed_block(path) if known is None and _outside(path) is None else known


def _layer_path(path: Path) -> Path:
    """The path of the layer that the array belongs to: "weight" is none of its words."""
    while len(path) > 1 and path[-1] in words.ARRAYS:
        path = path[:-1]
    return (*path[:-1], path[-1].removesuffix("_weight")) if path else path


# --- kinds ------------------------------------------------------------------------------------------------------------


def _endings(table: Mapping[str, Sequence[str]]) -> dict[Path, str]:
    return {tuple(ending.split(".")): kind for kind, endings in table.items() for ending in endings}


_IN_BLOCKS = _endings(words.IN_BLOCKS)
_OUTSIDE = _endings(words.OUTSIDE)
_PLAIN = {**words.CROSS, **words.CONTEXT}


def _looked_up(table: Mapping[Path, str], path: Path) -> str | None:
    """What the longest ending of a path says."""
    for length in range(_LONGEST_ENDING, 0, -1):
        if (kind := table.get(path[-length:])) is not None and length <= len(path):
            return kind
    return path[-1] if path and path[-1] in words.OF_GGUF else None


def _outside(path: Path) -> str | None:
    """The kind of a layer outside blocks, None if its name says nothing."""
    layer = _layer_path(path)
    return _looked_up(_OUTSIDE, layer) or _array_kind(path) or _norm_kind(layer)


def _inside(path: Path, block: Block) -> str | None:
    """The kind of a layer in a block."""
    layer, end = _layer_path(path), block.end
    if len(layer) <= end and is_number(layer[-1]):
        return "linear"  # a bare layer of a stack
    known = tuple(_PLAIN.get(word, word) for word in _without_expert(layer[end:]))
    head = (*layer[: end - 1], "N") if is_number(layer[end - 1]) else layer[:end]
    kind = _looked_up(_IN_BLOCKS, (*head, *known))
    if kind == "ffn_up" and known[-4:] == words.GATED_IN_UNETS and UNETS & set(head):
        kind = "ffn_gate_up"
    return _in_context(kind, layer[end:]) or _outside(path)


def _in_context(kind: str | None, below: Path) -> str | None:
    """What the words between a block and its layer make of the layer."""
    if kind is None or not kind.startswith(("attn_", "ffn_")):
        return kind
    if words.CROSS.keys() & set(below):
        return f"cross_{kind}"
    if words.CONTEXT.keys() & set(below):
        return f"context_{kind}"
    return f"{kind}_shexp" if words.SHARED_EXPERTS & set(below) else kind


def _array_kind(path: Path) -> str | None:
    """What the last words say of an array that is not the weights of its layer."""
    if not path:
        return None
    if path[-1] == "bias" or path[-1].endswith("_bias"):
        return "bias"
    if words.SCALES & set(path[-3:]) or _layer_path(path)[-1].endswith(("_scale", "_scales")):
        return "scale"
    return "lora" if words.LORA & set(path) else None


def _norm_kind(layer: Path) -> str | None:
    if not layer:
        return None
    last = layer[-1].lower()
    return "norm" if "norm" in last or words.NORMS & set(last.split("_")) else None


def _outside_role(path: Path) -> Role:
    layer = _layer_path(path)
    return Role(_outside(path) or _looked_up(_IN_BLOCKS, layer) or _OTHER, None, ".".join(layer[:-1]))


def _inside_role(path: Path, block: Block, layer: int) -> Role:
    at = _expert(path[block.end :])
    expert = None if at is None else int(path[block.end + at])
    return Role(_inside(path, block) or _OTHER, layer, block.place, expert)


# --- experts ----------------------------------------------------------------------------------------------------------


def _expert(below: Path) -> int | None:
    """Where the number of an expert stands."""
    for i in range(1, len(below)):
        if is_number(below[i]) and below[i - 1] in words.BEFORE_EXPERTS:
            return i
    return None


def _without_expert(below: Path) -> Path:
    at = _expert(below)
    return below if at is None else (*below[:at], *below[at + 1 :])


# --- orientation ------------------------------------------------------------------------------------------------------


def _oriented(
    found: dict[str, Role], paths: Mapping[str, Path], shapes: Mapping[str, Sequence[int]]
) -> dict[str, Role]:
    """The roles, with what a file stores (in, out) marked."""
    layers = {name: path[-2] for name, path in paths.items() if len(path) > 1 and path[-1] == "weight"}
    gpt2 = {name: layer for name, layer in layers.items() if layer in words.GPT2}
    turned = [*gpt2] if gpt2 and _is_gpt2(gpt2, shapes, positions=set(layers.values())) else []
    turned += _turned_experts(shapes)
    return found | {name: replace(found[name], transposed=True) for name in turned if name in found}


def _is_gpt2(gpt2: Mapping[str, str], shapes: Mapping[str, Sequence[int]], *, positions: set[str]) -> bool:
    """Layers that widen are stored (in, out) if their last axis is the longer one."""
    for name, layer in gpt2.items():
        shape = shapes.get(name, ())
        if layer in words.GPT2_WIDENS and len(shape) == 2 and shape[0] != shape[1]:
            return shape[1] > shape[0]
    return bool(words.GPT2_POSITIONS & positions)


def _turned_experts(shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """All experts in one tensor, (expert, in, out), as in Llama 4 and gpt-oss: what leaves down enters gate_up."""
    found = []
    for name, shape in shapes.items():
        before, _, last = name.rpartition(".")
        down = f"{before}.down_proj"
        if last != "gate_up_proj" or not before.endswith("experts") or len(shape) != 3:
            continue
        other = shapes.get(down, ())
        if len(other) == 3 and shape[1] == other[2] and shape[2] != other[1]:
            found += [name, down]
    return found

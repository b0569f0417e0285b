"""Words that checkpoints have for blocks and for what holds them: facts about naming schemes, and nothing else.

Sources: state dicts of transformers and of diffusers, the LDM repository's ``openaimodel.py`` and ``model.py``.
"""

from typing import Final

#: Words before the number of a block.
CONTAINERS: Final = frozenset(
    {
        "layers",
        "layer",
        "h",
        "blk",
        "block",
        "blocks",
        "resblocks",
        "stages",
        "transformer_encoder",
        "decoder_layer",
        "transformer_blocks",
        "single_transformer_blocks",
        "double_blocks",
        "single_blocks",
        "joint_blocks",
        "proj_blk",
        "down_blocks",
        "up_blocks",
        "input_blocks",
        "middle_block",
        "output_blocks",
        "down",
        "up",
    }
)
#: Words before a second number that data also flow along, inside a block or a stage of them.
INNER: Final = frozenset({"resnets", "attentions", "blocks", "block", "attn", "transformer_blocks"})
#: Words of what stands at the end of a stage.
SAMPLERS: Final = frozenset({"downsamplers", "upsamplers", "downsample", "upsample"})
#: Order of the parts of a network that data pass one after another. All others are 0.
STAGES: Final[dict[str, int]] = {
    "mid_block": 1,
    "middle_block": 1,
    "mid": 1,
    "single_transformer_blocks": 1,
    "single_blocks": 1,
    "up_blocks": 2,
    "output_blocks": 2,
    "up": 2,
}
#: Stages that have no number of their own.
UNNUMBERED: Final = frozenset({"mid_block", "mid"})
#: Where data flow from the highest number to 0: the decoder of LDM's autoencoder.
BACKWARDS: Final = frozenset({"up"})
#: Stages of UNets.
UNETS: Final = frozenset(
    {"down_blocks", "mid_block", "up_blocks", "input_blocks", "middle_block", "output_blocks"},
)
#: Order of the networks in a file that holds several; one without a name of its own is ``MAIN``.
TOWERS: Final[dict[str, int]] = {
    "cond_stage_model": 0,
    "conditioner": 0,
    "text_encoders": 0,
    "text_model": 0,
    "v": 1,
    "vision_tower": 1,
    "vision_model": 1,
    "vision_encoder": 1,
    "visual": 1,
    "vit": 1,
    "vpm": 1,
    "a": 2,
    "audio_tower": 2,
    "encoder": 3,
    "enc": 3,
    "decoder": 5,
    "dec": 5,
    "first_stage_model": 6,
    "vae": 6,
}
MAIN: Final = 4

#: Words at the front of a path that say nothing.
WRAPPERS: Final = frozenset(
    {"model", "language_model", "base_model", "transformer", "module", "_orig_mod", "diffusion_model", "backbone"}
)

"""Roles of tensors: names of real checkpoints, scheme by scheme, llama.cpp's own table, and names that mean harm."""

import re
import time

import pytest
from gguf.constants import TENSOR_NAMES
from gguf.tensor_mapping import TensorNameMap

from quantsim.inspection.role_names import GPT2, IN_BLOCKS, OUTSIDE
from quantsim.inspection.roles import Role, roles
from quantsim.models import checkpoint_files, trained, trained_digits

# Names from state dicts of transformers 5 and diffusers 0.3x at two blocks or more, from index files of published
# checkpoints (Qwen 7B, Molmo, Qwen 3.5 of MLX), and from the LDM repository's files; kind, layer, expert.
SCHEMES = {
    "llama, mistral, qwen2, gemma": {
        "model.embed_tokens.weight": ("token_embd", None),
        "model.layers.1.self_attn.q_proj.weight": ("attn_q", 1),
        "model.layers.1.self_attn.k_proj.weight": ("attn_k", 1),
        "model.layers.1.self_attn.v_proj.weight": ("attn_v", 1),
        "model.layers.1.self_attn.v_proj.bias": ("bias", 1),
        "model.layers.1.self_attn.o_proj.weight": ("attn_output", 1),
        "model.layers.1.self_attn.q_norm.weight": ("norm", 1),
        "model.layers.1.self_attn.rotary_emb.inv_freq": ("rope", 1),
        "model.layers.11.mlp.gate_proj.weight": ("ffn_gate", 11),
        "model.layers.11.mlp.up_proj.weight": ("ffn_up", 11),
        "model.layers.11.mlp.down_proj.weight": ("ffn_down", 11),
        "model.layers.11.input_layernorm.weight": ("norm", 11),
        "model.norm.weight": ("norm", None),
        "lm_head.weight": ("output", None),
    },
    "wrapped": {
        "base_model.model.model.layers.2.self_attn.q_proj.base_layer.weight": ("attn_q", 2),
        "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight": ("lora", 2),
        "_orig_mod.module.model.layers.2.mlp.up_proj.weight": ("ffn_up", 2),
        "language_model.model.layers.2.mlp.down_proj.weight": ("ffn_down", 2),
    },
    "mixtral": {
        "model.layers.0.block_sparse_moe.gate.weight": ("ffn_router", 0),
        "model.layers.0.block_sparse_moe.experts.7.w1.weight": ("ffn_gate", 0, 7),
        "model.layers.0.block_sparse_moe.experts.7.w2.weight": ("ffn_down", 0, 7),
        "model.layers.0.block_sparse_moe.experts.7.w3.weight": ("ffn_up", 0, 7),
    },
    "qwen moe, deepseek": {
        "model.layers.3.mlp.gate.weight": ("ffn_router", 3),
        "model.layers.3.mlp.gate.e_score_correction_bias": ("bias", 3),
        "model.layers.3.mlp.experts.12.gate_proj.weight": ("ffn_gate", 3, 12),
        "model.layers.3.mlp.shared_expert.gate_proj.weight": ("ffn_gate_shexp", 3),
        "model.layers.3.mlp.shared_experts.down_proj.weight": ("ffn_down_shexp", 3),
        "model.layers.3.mlp.shared_expert_gate.weight": ("ffn_router_shexp", 3),
        "model.layers.3.self_attn.kv_a_proj_with_mqa.weight": ("attn_kv_a_mqa", 3),
        "model.layers.3.self_attn.q_b_proj.weight": ("attn_q_b", 3),
        "model.layers.3.self_attn.q_b_proj.weight_scale_inv": ("scale", 3),
    },
    "phi-3": {
        "model.layers.5.self_attn.qkv_proj.weight": ("attn_qkv", 5),
        "model.layers.5.mlp.gate_up_proj.weight": ("ffn_gate_up", 5),
    },
    "falcon, bloom": {
        "transformer.word_embeddings.weight": ("token_embd", None),
        "transformer.h.4.self_attention.query_key_value.weight": ("attn_qkv", 4),
        "transformer.h.4.self_attention.dense.weight": ("attn_output", 4),
        "transformer.h.4.mlp.dense_h_to_4h.weight": ("ffn_up", 4),
        "transformer.h.4.mlp.dense_4h_to_h.weight": ("ffn_down", 4),
        "transformer.h.4.ln_attn.weight": ("norm", 4),
    },
    "gpt-neox": {
        "gpt_neox.embed_in.weight": ("token_embd", None),
        "gpt_neox.layers.4.attention.query_key_value.weight": ("attn_qkv", 4),
        "gpt_neox.layers.4.attention.dense.weight": ("attn_output", 4),
        "gpt_neox.layers.4.attention.masked_bias": ("mask", 4),
        "gpt_neox.layers.4.mlp.dense_4h_to_h.bias": ("bias", 4),
        "embed_out.weight": ("output", None),
    },
    "opt": {
        "model.decoder.embed_positions.weight": ("position_embd", None),
        "model.decoder.layers.6.self_attn.out_proj.weight": ("attn_output", 6),
        "model.decoder.layers.6.fc1.weight": ("ffn_up", 6),
        "model.decoder.layers.6.fc2.weight": ("ffn_down", 6),
        "model.decoder.layers.6.final_layer_norm.weight": ("norm", 6),
        "model.decoder.project_in.weight": ("projection", None),
    },
    "bert, roberta": {
        "bert.embeddings.word_embeddings.weight": ("token_embd", None),
        "bert.embeddings.position_embeddings.weight": ("position_embd", None),
        "bert.embeddings.token_type_embeddings.weight": ("token_types", None),
        "bert.embeddings.LayerNorm.weight": ("norm", None),
        "bert.encoder.layer.9.attention.self.query.weight": ("attn_q", 9),
        "bert.encoder.layer.9.attention.output.dense.weight": ("attn_output", 9),
        "bert.encoder.layer.9.attention.output.LayerNorm.weight": ("norm", 9),
        "bert.encoder.layer.9.crossattention.self.key.weight": ("cross_attn_k", 9),
        "bert.encoder.layer.9.crossattention.output.dense.weight": ("cross_attn_output", 9),
        "bert.encoder.layer.9.intermediate.dense.weight": ("ffn_up", 9),
        "bert.encoder.layer.9.output.dense.weight": ("ffn_down", 9),
        "bert.pooler.dense.weight": ("pooler", None),
        "cls.predictions.decoder.weight": ("output", None),
        "classifier.weight": ("cls", None),
    },
    "vit": {
        "vit.embeddings.cls_token": ("class_embd", None),
        "vit.embeddings.position_embeddings": ("position_embd", None),
        "vit.embeddings.patch_embeddings.projection.weight": ("patch_embd", None),
        "vit.encoder.layer.2.attention.attention.value.weight": ("attn_v", 2),
        "vit.encoder.layer.2.attention.output.dense.weight": ("attn_output", 2),
        "vit.encoder.layer.2.layernorm_before.weight": ("norm", 2),
    },
    "openclip, timm": {
        "visual.transformer.resblocks.3.attn.in_proj_weight": ("attn_qkv", 3),
        "visual.transformer.resblocks.3.attn.in_proj_bias": ("bias", 3),
        "visual.transformer.resblocks.3.attn.out_proj.weight": ("attn_output", 3),
        "visual.transformer.resblocks.3.mlp.c_fc.weight": ("ffn_up", 3),
        "visual.transformer.resblocks.3.ln_1.weight": ("norm", 3),
        "visual.positional_embedding": ("position_embd", None),
        "logit_scale": ("scale", None),
    },
    "gpt-2": {
        "transformer.wte.weight": ("token_embd", None),
        "transformer.wpe.weight": ("position_embd", None),
        "transformer.h.1.attn.c_attn.weight": ("attn_qkv", 1),
        "transformer.h.1.attn.c_proj.weight": ("attn_output", 1),
        "transformer.h.1.attn.bias": ("mask", 1),
        "transformer.h.1.mlp.c_fc.weight": ("ffn_up", 1),
        "transformer.h.1.mlp.c_proj.weight": ("ffn_down", 1),
        "transformer.ln_f.weight": ("norm", None),
    },
    "qwen 7b, whose gate is the second": {
        "transformer.h.31.mlp.w1.weight": ("ffn_up", 31),
        "transformer.h.31.mlp.w2.weight": ("ffn_gate", 31),
        "transformer.h.31.mlp.c_proj.weight": ("ffn_down", 31),
    },
    "meta's own": {
        "tok_embeddings.weight": ("token_embd", None),
        "layers.8.attention.wq.weight": ("attn_q", 8),
        "layers.8.attention.wo.weight": ("attn_output", 8),
        "layers.8.feed_forward.w1.weight": ("ffn_gate", 8),
        "layers.8.feed_forward.w2.weight": ("ffn_down", 8),
        "layers.8.feed_forward.w3.weight": ("ffn_up", 8),
        "output.weight": ("output", None),
    },
    "gguf": {
        "token_embd.weight": ("token_embd", None),
        "blk.7.attn_q.weight": ("attn_q", 7),
        "blk.7.attn_q.bias": ("bias", 7),
        "blk.7.attn_qkv.weight": ("attn_qkv", 7),
        "blk.7.attn_output.weight": ("attn_output", 7),
        "blk.7.attn_norm.weight": ("norm", 7),
        "blk.7.ffn_gate_inp.weight": ("ffn_router", 7),
        "blk.7.ffn_gate_exps.weight": ("ffn_gate", 7),
        "blk.7.ffn_down_shexp.weight": ("ffn_down_shexp", 7),
        "blk.7.ffn_up.3.weight": ("ffn_up", 7, 3),
        "blk.7.ssm_in.weight": ("ssm_in", 7),
        "output.weight": ("output", None),
        "output_norm.weight": ("norm", None),
        "rope_freqs.weight": ("rope", None),
    },
    "gguf of a projector": {
        "v.patch_embd.weight": ("patch_embd", None),
        "v.blk.26.attn_out.weight": ("attn_output", 26),
        "v.blk.26.ln1.weight": ("norm", 26),
        "v.blk.26.ffn_down.weight": ("ffn_down", 26),
        "mm.0.weight": ("projection", None),
        "mm.input_projection.weight": ("projection", None),
    },
    "mamba": {
        "backbone.embeddings.weight": ("token_embd", None),
        "backbone.layers.3.mixer.in_proj.weight": ("ssm_in", 3),
        "backbone.layers.3.mixer.x_proj.weight": ("ssm_x", 3),
        "backbone.layers.3.mixer.dt_proj.weight": ("ssm_dt", 3),
        "backbone.layers.3.mixer.out_proj.weight": ("ssm_out", 3),
        "backbone.layers.3.mixer.conv1d.weight": ("ssm_conv1d", 3),
        "backbone.layers.3.mixer.A_log": ("ssm_a", 3),
        "backbone.layers.3.mixer.D": ("ssm_d", 3),
        "backbone.norm_f.weight": ("norm", None),
    },
    "flux, sd3 of diffusers": {
        "x_embedder.weight": ("patch_embd", None),
        "time_text_embed.timestep_embedder.linear_1.weight": ("time_embd", None),
        "transformer_blocks.0.attn.to_q.weight": ("attn_q", 0),
        "transformer_blocks.0.attn.add_q_proj.weight": ("context_attn_q", 0),
        "transformer_blocks.0.attn.to_out.0.weight": ("attn_output", 0),
        "transformer_blocks.0.attn.to_add_out.weight": ("context_attn_output", 0),
        "transformer_blocks.0.attn.norm_added_q.weight": ("norm", 0),
        "transformer_blocks.0.ff.net.0.proj.weight": ("ffn_up", 0),
        "transformer_blocks.0.ff.net.2.weight": ("ffn_down", 0),
        "transformer_blocks.1.ff_context.net.2.weight": ("context_ffn_down", 1),
        "transformer_blocks.1.norm1_context.linear.weight": ("modulation", 1),
        "single_transformer_blocks.0.proj_mlp.weight": ("ffn_up", 2),
        "single_transformer_blocks.1.proj_out.weight": ("attn_output_ffn_down", 3),
        "proj_out.weight": ("output", None),
    },
    "flux, dit of their authors": {
        "double_blocks.0.img_attn.qkv.weight": ("attn_qkv", 0),
        "double_blocks.0.txt_attn.qkv.weight": ("context_attn_qkv", 0),
        "double_blocks.0.txt_attn.proj.weight": ("context_attn_output", 0),
        "double_blocks.0.txt_mlp.2.weight": ("context_ffn_down", 0),
        "double_blocks.0.img_mod.lin.weight": ("modulation", 0),
        "single_blocks.0.linear1.weight": ("attn_qkv_ffn_up", 1),
        "single_blocks.0.linear2.weight": ("attn_output_ffn_down", 1),
        "time_in.in_layer.weight": ("time_embd", None),
        "final_layer.linear.weight": ("output", None),
    },
    "stored quantized": {
        "model.layers.0.self_attn.q_proj.qweight": ("attn_q", 0),
        "model.layers.0.self_attn.q_proj.qzeros": ("scale", 0),
    },
    "stored by bitsandbytes": {
        "model.transformer.blocks.0.att_proj.weight": ("attn_qkv", 0),
        "model.transformer.blocks.0.att_proj.weight.absmax": ("scale", 0),
        "model.transformer.blocks.0.ff_out.weight.quant_state.bitsandbytes__nf4": ("scale", 0),
    },
    "stored by mlx": {
        "language_model.model.layers.0.mlp.up_proj.weight": ("ffn_up", 0),
        "language_model.model.layers.0.mlp.up_proj.biases": ("scale", 0),
    },
    "unknown": {
        "foo.3.q_proj.weight": ("attn_q", 3),
        "foo.3.bar.weight": ("other", 3),
        "foo.bar": ("other", None),
        "": ("other", None),
    },
    "a bare stack": {"layers.2.weight": ("linear", 2), "layers.0.bias": ("bias", 0)},
}
EXPECTED = [(scheme, name, want) for scheme, names in SCHEMES.items() for name, want in names.items()]


@pytest.mark.parametrize(("scheme", "name", "want"), EXPECTED, ids=[f"{s}: {n}" for s, n, _ in EXPECTED])
def test_names_of_published_checkpoints(scheme, name, want):
    found = roles(list(SCHEMES[scheme]))[name]
    kind, layer, expert = (*want, None)[:3]
    assert (found.kind, found.layer, found.expert) == (kind, layer, expert)


def test_places_are_what_precedes_the_number():
    names = {
        "model.layers.2.mlp.up_proj.weight": "layers",
        "blk.0.attn_q.weight": "blk",
        "v.blk.0.attn_q.weight": "v.blk",
        "encoder.block.0.layer.0.SelfAttention.q.weight": "encoder.block",
        "down_blocks.1.resnets.0.conv1.weight": "down_blocks.1",
        "mid_block.resnets.0.conv1.weight": "mid_block",
        "vision_tower.embeddings.patch_embedding.weight": "vision_tower.embeddings",
    }
    assert {name: role.place for name, role in roles([*names]).items()} == names


# --- order ------------------------------------------------------------------------------------------------------------


def layers_of(names):
    return [roles(names)[name].layer for name in names]


def test_a_decoder_comes_behind_its_encoder():
    t5 = [f"encoder.block.{i}.layer.0.SelfAttention.q.weight" for i in range(3)]
    t5 += [f"decoder.block.{i}.layer.1.EncDecAttention.q.weight" for i in range(2)]
    assert layers_of(t5) == [0, 1, 2, 3, 4]
    assert [roles(t5)[name].kind for name in t5] == ["attn_q"] * 3 + ["cross_attn_q"] * 2
    whisper = ["model.decoder.layers.0.encoder_attn.k_proj.weight", "model.encoder.layers.1.fc1.weight"]
    assert layers_of(whisper) == [2, 1]
    gguf = ["dec.blk.0.cross_attn_o.weight", "enc.blk.0.attn_o.weight"]
    assert layers_of(gguf) == [1, 0]
    assert [roles(gguf)[name].kind for name in gguf] == ["cross_attn_output", "attn_output"]


def test_pixels_come_before_the_text_that_they_serve():
    names = [
        "language_model.model.layers.0.mlp.up_proj.weight",
        "vision_tower.vision_model.encoder.layers.3.mlp.fc1.weight",
    ]
    assert layers_of(names) == [4, 3]


def test_a_part_of_a_file_is_numbered_as_the_whole():
    assert layers_of(["model.layers.14.mlp.up_proj.weight", "model.layers.20.mlp.up_proj.weight"]) == [14, 20]


def stable_diffusion():
    """Blocks of SD 1.5 in the order in which data flow, in the names of diffusers and in those of LDM."""
    ours, theirs = [], [["input_blocks.0.0"]]
    at = 1
    for i in range(4):
        for j in range(2):
            ours.append([f"down_blocks.{i}.resnets.{j}.conv1"])
            theirs.append([f"input_blocks.{at}.0.in_layers.2"])
            if i < 3:
                ours[-1].append(f"down_blocks.{i}.attentions.{j}.transformer_blocks.0.attn1.to_q")
                theirs[-1].append(f"input_blocks.{at}.1.transformer_blocks.0.attn1.to_q")
            at += 1
        if i < 3:
            ours.append([f"down_blocks.{i}.downsamplers.0.conv"])
            theirs.append([f"input_blocks.{at}.0.op"])
            at += 1
    ours.append(["mid_block.resnets.0.conv1", "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"])
    ours.append(["mid_block.resnets.1.conv1"])
    theirs += [["middle_block.0.in_layers.2"], ["middle_block.1.transformer_blocks.0.attn2.to_v"]]
    theirs.append(["middle_block.2.in_layers.2"])
    for i in range(4):
        for j in range(3):
            ours.append([f"up_blocks.{i}.resnets.{j}.conv_shortcut"])
            theirs.append([f"output_blocks.{3 * i + j}.0.skip_connection"])
            if i > 0:
                ours[-1].append(f"up_blocks.{i}.attentions.{j}.transformer_blocks.0.ff.net.0.proj")
                theirs[-1].append(f"output_blocks.{3 * i + j}.1.transformer_blocks.0.ff.net.0.proj")
        if i < 3:
            ours.append([f"up_blocks.{i}.upsamplers.0.conv"])
    return ours, theirs


def test_a_unet_is_numbered_down_through_its_middle_and_up():
    ours, theirs = stable_diffusion()
    for blocks, prefix in ((ours, ""), (theirs, "model.diffusion_model.")):
        want = {f"{prefix}{name}.weight": layer for layer, names in enumerate(blocks) for name in names}
        found = roles([*sorted(want)])
        assert {name: role.layer for name, role in found.items()} == want
    kinds = {role.kind for role in found.values()}
    assert kinds == {"conv_in", "conv1", "conv_shortcut", "conv_down", "attn_q", "cross_attn_v", "ffn_gate_up"}


def test_every_transformer_of_an_attention_is_a_layer():
    names = [f"mid_block.attentions.0.transformer_blocks.{i}.attn2.to_k.weight" for i in range(10)]
    assert layers_of(names) == [*range(10)]
    assert {role.kind for role in roles(names).values()} == {"cross_attn_k"}


def test_the_autoencoder_of_ldm_goes_up_backwards():
    names = [
        "decoder.mid.block_1.conv1.weight",
        "decoder.up.3.block.0.conv1.weight",
        "decoder.up.0.block.2.conv1.weight",
    ]
    assert layers_of([f"first_stage_model.{name}" for name in names]) == [0, 1, 2]


# --- orientation ------------------------------------------------------------------------------------------------------

CONV1D = {"h.0.attn.c_attn.weight": (8, 24), "h.0.mlp.c_fc.weight": (8, 32), "h.0.mlp.c_proj.weight": (32, 8)}


def test_gpt2_is_stored_transposed_and_starcoder_is_not():
    transposed = {name: tuple(reversed(shape)) for name, shape in CONV1D.items()}
    assert all(role.transposed for role in roles([*CONV1D], CONV1D).values())
    assert not any(role.transposed for role in roles([*transposed], transposed).values())
    assert not any(role.transposed for role in roles([*CONV1D]).values())  # CLIP's c_fc, Qwen's c_attn
    found = roles([*CONV1D, "wpe.weight", "h.0.attn.c_attn.bias"])
    assert {name for name, role in found.items() if role.transposed} == set(CONV1D)
    assert {"c_attn", "c_fc", "c_proj"} <= GPT2


def test_experts_in_one_tensor_may_be_stored_transposed():
    names = ["model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"]
    gpt_oss = dict(zip(names, [(4, 64, 320), (4, 160, 64)], strict=True))
    rows = dict(zip(names, [(4, 320, 64), (4, 64, 160)], strict=True))
    assert [role.transposed for role in roles(names, gpt_oss).values()] == [True, True]
    assert [role.transposed for role in roles(names, rows).values()] == [False, False]


# --- llama.cpp's table ------------------------------------------------------------------------------------------------

# What its table calls otherwise: networks outside the schemes that are told apart here (RWKV, CogVLM, SAM,
# WavTokenizer, Jina's BERT, Grok), what llama.cpp merges or rewrites, and slips of the
# table (feed_forward.up_proj as a norm).
OUTSIDERS = re.compile(
    r"rwkv|time_m|channel_mix|vision_mlp|language_expert|vision_expert|sam_model|posnet|resampler|multi_head_attention"
    r"|decoder_layer|gated_layer|down_layer|no_perm|in_out_embed|radio_model|attention\.w\d|eh_proj|shared_head"
    r"|pre_norm|blocks\.3\.pre_ln|\bencoder\.weight| dense\.|head\.dense|dense_\d_out|embed\.weight$"
    r"|encoder\.blocks\.3\.mlp|encoder\.layers\.3\.mixer\.out_proj|feed_forward\.(up|down)_proj|mixer\.(q|k|dt)\.|linear_attn\.weight|sink_bias"
    r"|self_attention\.rotary_emb|vision_model\.head|self_attn\.b_proj"
)
MERGED = {"ffn_gate_up": "ffn_up"}  # Phi-3's and ModernBERT's pair is called "up" in GGUF files


def pairs_of_names():
    """GGUF's name and another scheme's for the same tensor."""
    for table in (TensorNameMap.mappings_cfg, TensorNameMap.block_mappings_cfg):
        for tensor, names in table.items():
            gguf = TENSOR_NAMES[tensor].replace("{bid}", "3") + ".weight"
            yield from ((gguf, f"{name.replace('{bid}', '3')}.weight") for name in names)


def test_other_schemes_agree_with_llama_cpp_on_what_a_tensor_is():
    agreed, differ = 0, []
    for gguf, name in pairs_of_names():
        if gguf.startswith(("a.", "mm.")) or OUTSIDERS.search(f"{gguf} {name}"):
            continue
        ours, theirs = roles([name])[name], roles([gguf])[gguf]
        if (ours.kind, ours.layer) != (theirs.kind, theirs.layer) and MERGED.get(ours.kind) != theirs.kind:
            differ.append((gguf, name, theirs.kind, ours.kind))
        elif ours.kind != "other":
            agreed += 1
    assert not differ
    assert agreed > 700  # of about 1100 pairs; the others are of sound, or of the networks above


def test_no_ending_means_two_things():
    for table in (IN_BLOCKS, OUTSIDE):
        endings = [ending for endings in table.values() for ending in endings]
        assert len(endings) == len(set(endings))


# --- this project's own -----------------------------------------------------------------------------------------------


def test_every_matrix_of_the_shipped_models_has_a_role():
    names = [(package, name) for package in (trained, trained_digits) for name in package.SHA256]
    assert len(names) == 13
    for package, name in names:
        arrays, _ = checkpoint_files.arrays_of(package.shipped(name))
        shapes = {tensor: array.shape for tensor, array in arrays.items()}
        found = roles([*shapes], shapes)
        without = [
            tensor
            for tensor, shape in shapes.items()
            if len(shape) > 1 and found[tensor].kind in ("other", "bias", "norm")
        ]
        assert not without, name
        assert not any(role.transposed for role in found.values())


# --- names that mean harm ---------------------------------------------------------------------------------------------

HOSTILE = {
    "dots": "." * 65536,
    "numbers": "layers.0." * 7000,
    "one long word": "a" * 65536,
    "markup": "<script>alert(1)</script>[bold]" * 2000,
    "a long number": "layers." + "9" * 4000 + ".weight",
    "just short enough": "layers.0." * 56,
    "stages": "mid." * 128,
    "digits of another script": "layers.٣.weight",
    "nothing": "",
    "a bare number": "7",
    "control characters": "layers.\x00.\x1b[2J.weight",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_names_get_a_role_at_once(name):
    started = time.process_time()
    found = [roles([name])[name] for _ in range(100)]
    assert time.process_time() - started < 1  # 10 ms each; quadratic time in 64 KiB would take minutes
    assert isinstance(found[0], Role)
    assert len(found[0].place) <= 512


def test_many_names_take_linear_time():
    took = {}
    for count in (1000, 8000):
        names = [f"model.layers.{i % 500}.mlp.experts.{i // 500}.down_proj.weight" for i in range(count)]
        started = time.process_time()
        assert len(roles(names)) == count
        took[count] = time.process_time() - started
    assert took[8000] < 32 * took[1000]  # linear: 8, quadratic: 64; 40 us a name without the types' checks


def test_absurd_numbers_are_no_blocks():
    assert roles(["layers.99999999.mlp.up_proj.weight"])["layers.99999999.mlp.up_proj.weight"].layer is None

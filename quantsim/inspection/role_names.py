"""Words that checkpoints have for the roles of their tensors: facts about naming schemes, and nothing else.

A role is named as llama.cpp names it in GGUF files wherever that has a word. Below it stand the endings of names,
without ".weight", that mean it; of several that fit, the longest decides. ``N`` stands for the number of a block.

Sources: state dicts of transformers 4 and diffusers 0.3x, the LDM repository's ``openaimodel.py`` and ``model.py``, and
tensor_mapping.py of gguf 0.19.
"""

from typing import Final

#: Endings inside blocks.
IN_BLOCKS: Final[dict[str, tuple[str, ...]]] = {
    "attn_q": (
        "q_proj.linear",
        "q_proj",  # Llama, Mistral, Qwen, Gemma, OPT, CLIP, SigLIP, Whisper
        "query",  # BERT, RoBERTa, ViT
        "q_lin",  # DistilBERT
        "wq",  # Meta's own files, Mistral's
        "SelfAttention.q",  # T5
        "self_attn.q",  # Wan
        "attn.q",
        "to_q",  # diffusers, LDM
        "mid.attn_1.q",  # LDM's autoencoder
        "attn.N.q",
    ),
    "attn_k": (
        "k_proj.linear",
        "k_proj",
        "key",
        "k_lin",
        "wk",
        "SelfAttention.k",
        "self_attn.k",
        "attn.k",
        "to_k",
        "mid.attn_1.k",
        "attn.N.k",
    ),
    "attn_v": (
        "v_proj.linear",
        "v_proj",
        "value",
        "v_lin",
        "wv",
        "SelfAttention.v",
        "self_attn.v",
        "attn.v",
        "to_v",
        "mid.attn_1.v",
        "attn.N.v",
    ),
    "attn_qkv": (
        "attention.in_proj",
        "qkv_proj",  # Phi-3
        "query_key_value",  # Falcon, GPT-NeoX, BLOOM, ChatGLM
        "c_attn",  # GPT-2
        "att_proj",  # OLMo, Molmo
        "Wqkv",  # MPT, ModernBERT
        "wqkv",  # InternLM 2
        "attn.in_proj",  # torch's MultiheadAttention: OpenCLIP
        "self_attn.in_proj",
        "qkv",  # DiT, Flux, SD3, timm
        "to_qkv",
        "in_proj_qkv",
    ),
    "attn_output": (
        "o_proj.linear",
        "h.N.mixer.out_proj",
        "attention.output",
        "o_proj",
        "attn_out",  # GGUF's projector files
        "attn_o",  # GGUF's T5
        "self_attn.out_proj",  # OPT, CLIP, SigLIP, Whisper
        "attn.out_proj",
        "attention.out_proj",
        "attention.output.dense",  # BERT, ViT
        "attention.dense",  # GPT-NeoX
        "self_attention.dense",  # Falcon, BLOOM
        "self_attn.dense",  # Phi-1
        "attn.c_proj",  # GPT-2
        "attention.wo",
        "attn.Wo",  # ModernBERT
        "wo",
        "out_lin",
        "SelfAttention.o",
        "self_attn.o",
        "self_attn.projection_layer",
        "attention.projection_layer",
        "to_out.0",  # diffusers, LDM
        "to_out",
        "attn.proj",  # DiT, SD3, timm, Qwen-VL
        "img_attn.proj",  # Flux
        "mid.attn_1.proj_out",
        "attn.N.proj_out",
    ),
    "cross_attn_output": ("cross_attn_o", "cross_attn_out"),
    "context_attn_q": ("add_q_proj",),  # of the text beside an image: diffusers' Flux, SD3
    "context_attn_k": ("add_k_proj",),
    "context_attn_v": ("add_v_proj",),
    "context_attn_output": ("to_add_out",),
    "attn_q_a": ("q_a_proj", "wq_a"),  # DeepSeek: low-rank queries, keys and values
    "attn_q_b": ("q_b_proj", "wq_b"),
    "attn_kv_a_mqa": ("kv_a_proj_with_mqa", "wkv_a_with_mqa", "wkv_a"),
    "attn_kv_b": ("kv_b_proj", "wkv_b"),
    "attn_k_b": ("k_b_proj",),
    "attn_v_b": ("v_b_proj",),
    "attn_gate": ("self_attn.g_proj", "self_attn.gate_proj", "linear_attn.in_proj_z"),
    "attn_sinks": ("sinks",),  # gpt-oss
    "ffn_gate": (
        "gate_proj.linear",
        "h.N.mlp.w2",
        "c_fc_0",
        "c_fc2",
        "mlp.linear_1",
        "ffn_gate_chexps",
        "gate_proj",
        "w1",  # Mixtral, Meta's own files
        "wi_0",  # T5 1.1
        "ffn_gate_exps",  # GGUF: the experts of a block in one tensor
        "experts.gate",
        "fc12",
        "ff_proj",
    ),
    "ffn_up": (
        "up_proj.linear",
        "h.N.mlp.w1",
        "c_fc_1",
        "mlp.linear_3",
        "ffn_up_chexps",
        "block_sparse_moe.up",
        "experts.mlp.v1",
        "mlp.experts.mlp.w1",
        "up_proj",
        "w3",
        "wi",  # T5
        "wi_1",
        "ffn_up_exps",
        "experts.up",
        "dense_h_to_4h",  # Falcon, GPT-NeoX, BLOOM
        "intermediate.dense",  # BERT, ViT
        "c_fc",  # GPT-2, OpenAI's CLIP
        "fc1",  # OPT, CLIP, SigLIP, Whisper, timm
        "fc11",
        "fc_in",  # GPT-J
        "lin1",
        "linear_fc1",
        "ff.net.0.proj",  # diffusers' transformers, whose MLPs have no gate
        "proj_mlp",  # Flux
        "img_mlp.0",
        "mlp.0",
        "ffn.0",  # Wan
    ),
    "ffn_gate_up": (
        "gate_up_proj",  # Phi-3: gate and up in one
        "ffn_gate_up_exps",
        "mlp.Wi",  # ModernBERT
        "ffn.w12",
        "input_linear",  # Granite MoE
    ),
    "ffn_down": (
        "down_proj.linear",
        "ffn_down_chexps",
        "block_sparse_moe.down",
        "ffn.proj_2",
        "down_proj",
        "w2",
        "DenseReluDense.wo",
        "mlp.Wo",
        "mlp.wo",
        "ffn_down_exps",
        "experts.down",
        "dense_4h_to_h",
        "output.dense",
        "mlp.c_proj",
        "fc2",
        "fc_out",
        "lin2",
        "linear_fc2",
        "ff.net.2",
        "img_mlp.2",
        "mlp.2",
        "ffn.2",
        "ff_out",
        "output_linear",
        "ffn.w3",
    ),
    "context_ffn_up": ("ff_context.net.0.proj",),
    "context_ffn_down": ("ff_context.net.2",),
    "ffn_router": (
        "primary_router",
        "ffn_gate_inp",
        "mlp.gate",  # Qwen MoE, DeepSeek, OLMoE
        "block_sparse_moe.gate",  # Mixtral
        "feed_forward.gate",
        "gate.wg",
        "mixer.gate",
        "moe.gate",
        "N.gate",
        "router",
        "router.layer",
        "router.gate",
        "router.proj",
    ),
    "ffn_router_shexp": ("ffn_gate_inp_shexp", "shared_expert_gate"),
    "attn_qkv_ffn_up": ("single_blocks.N.linear1",),  # Flux's own files: both in one
    "attn_output_ffn_down": ("single_blocks.N.linear2", "single_transformer_blocks.N.proj_out"),
    "ssm_in": ("mixer.in_proj", "mamba.in_proj", "N.in_proj", "in_proj_qkvz"),  # Mamba, Jamba, Qwen3-Next
    "ssm_x": ("x_proj", "bcdt_proj"),
    "ssm_dt": ("dt_proj",),
    "ssm_out": ("mixer.out_proj", "mamba.out_proj", "linear_attn.out_proj", "N.out_proj"),
    "ssm_conv1d": ("conv1d",),
    "ssm_a": ("A_log",),
    "ssm_d": ("D",),
    "ssm_ba": ("in_proj_ba",),
    "ssm_alpha": ("in_proj_a",),
    "ssm_beta": ("in_proj_b",),
    "position_embd": ("attn_rel_b", "cross_attn_rel_b", "relative_attention_bias", "relative_position_bias_table"),
    "conv_in": ("input_blocks.N.0",),
    "conv1": ("conv1", "in_layers.2"),
    "conv2": ("conv2", "out_layers.3"),
    "conv_shortcut": ("conv_shortcut", "skip_connection", "nin_shortcut"),
    "label_embd": ("class_embedder.embedding_table",),
    "conv_down": ("downsample.reduction", "downsamplers.0.conv", "downsample.conv", "op"),
    "conv_up": ("upsamplers.0.conv", "upsample.conv", "output_blocks.N.1.conv", "output_blocks.N.2.conv"),
    "upsample_proj": ("upsamplers.0.proj",),
    "time_embd_proj": ("time_emb_proj", "emb_layers.1"),
    "proj_in": ("proj_in",),
    "proj_out": ("proj_out",),
    "modulation": (
        "norm.linear",  # Flux, SD3, DiT: scales and shifts from the time
        "norm1.linear",
        "norm1_context.linear",
        "img_mod.lin",
        "txt_mod.lin",
        "modulation.lin",
        "adaLN_modulation.1",
        "modulation",
        "scale_shift_table",
    ),
    "scale": (
        "ls1",
        "ls2",
        "layer_scale1",
        "layer_scale2",
        "ls_1",
        "ls_2",
        "lambda1",
        "lambda_1",
        "lambda_2",
        "gamma",
        "layer_scalar",
    ),
    "rope": ("inv_freq", "rope.freqs", "attn_rot_embd"),
    "mask": ("attn.bias", "attn.masked_bias", "attention.bias", "attention.masked_bias"),  # GPT-2's, GPT-NeoX's buffers
}

#: The ending of an MLP that is gated (GEGLU) inside the blocks of a UNet.
GATED_IN_UNETS: Final = ("ff", "net", "0", "proj")

#: Endings outside blocks.
OUTSIDE: Final[dict[str, tuple[str, ...]]] = {
    "token_embd": (
        "embed_tokens",
        "wte",
        "word_embeddings",
        "tok_embeddings",
        "token_embedding",  # CLIP
        "token_embeddings",
        "tokens_embed",
        "shared",  # T5
        "embed_in",  # GPT-NeoX
        "backbone.embedding",
        "backbone.embeddings",  # Mamba
        "embedding",
        "embeddings",
    ),
    "token_types": ("token_type_embeddings",),
    "position_embd": (
        "positional_embedding_vlm",
        "position_embedding_table",
        "wpe",
        "position_embeddings",
        "position_embedding",
        "embed_positions",
        "positional_embedding",
        "positions_embed",
        "pos_embed",
        "pos_emb",
    ),
    "patch_embd": (
        "patch_embedding.linear",
        "patch_embedding.proj",
        "patchifier.proj",
        "patch_embedder.input_proj",
        "vision_model.conv1",
        "patch_embedding",
        "patch_embeddings.projection",
        "patch_embed.proj",
        "pos_embed.proj",  # diffusers' SD3
        "patch_conv",
        "x_embedder",  # diffusers' Flux
        "x_embedder.proj",
        "img_in",
    ),
    "class_embd": ("class_embedding", "cls_token", "cls_embedding"),
    "output": (
        "lm_head.linear",
        "head.out",
        "head.decoder",
        "decoder",
        "word_embeddings_for_head",
        "ff_out",
        "vocab_projector",
        "generator_lm_head",
        "proj_out_2",
        "lm_head",
        "embed_out",
        "output_layer",
        "head",
        "proj_out",  # Whisper, Flux
        "final_layer.linear",
        "predictions.decoder",  # BERT
        "lm_head.decoder",
    ),
    "cls": ("classifier", "classifier.dense", "classifier.out_proj", "pre_classifier", "score", "cls.output"),
    "pooler": (
        "vocab_transform",
        "head.dense",
        "generator_predictions.dense",
        "pooler.dense",
        "transform.dense",
        "lm_head.dense",
        "dense_2",
        "dense_3",
    ),
    "projection": (
        "embeddings_project",
        "visual_projection",  # CLIP
        "text_projection",
        "mm_input_projection",  # Gemma 3
        "multi_modal_projector.linear_1",  # LLaVA
        "multi_modal_projector.linear_2",
        "mm.0",
        "mm.2",
        "mm.input_projection",
        "merger.mlp.0",  # Qwen-VL
        "merger.mlp.2",
        "merger.linear_fc1",
        "merger.linear_fc2",
        "project_in",  # OPT
        "project_out",
        "enc_to_dec_proj",
    ),
    "conv_in": ("conv_in",),
    "conv_out": ("conv_out", "out.2"),
    "conv1": ("conv1",),  # Whisper
    "conv2": ("conv2",),
    "conv": ("quant_conv", "post_quant_conv"),
    "time_embd": (
        "time_embedding.linear_1",
        "time_embedding.linear_2",
        "timestep_embedder.linear_1",
        "timestep_embedder.linear_2",
        "time_embed.0",  # LDM
        "time_embed.2",
        "t_embedder.mlp.0",  # DiT
        "t_embedder.mlp.2",
        "time_in.in_layer",  # Flux
        "time_in.out_layer",
        "guidance_in.in_layer",
        "guidance_in.out_layer",
        "guidance_embedder.linear_1",
        "guidance_embedder.linear_2",
    ),
    "label_embd": (
        "resolution_embedder.linear_1",
        "resolution_embedder.linear_2",
        "aspect_ratio_embedder.linear_1",
        "aspect_ratio_embedder.linear_2",
        "add_embedding.linear_1",
        "add_embedding.linear_2",
        "label_emb.0.0",
        "label_emb.0.2",
        "text_embedder.linear_1",
        "text_embedder.linear_2",
        "y_embedder.embedding_table",
        "y_embedder.mlp.0",
        "y_embedder.mlp.2",
        "vector_in.in_layer",
        "vector_in.out_layer",
        "class_embedding.linear_1",
        "class_embedding.linear_2",
    ),
    "context_embd": ("context_embedder", "txt_in", "caption_projection.linear_1", "caption_projection.linear_2"),
    "modulation": (
        "proj_out_1",
        "norm_out.linear",
        "final_layer.adaLN_modulation.1",
        "adaln_single.linear",
        "scale_shift_table",
    ),
    "norm": ("in_layers.0", "out_layers.0", "out.0"),
    "scale": ("logit_scale", "logit_bias"),
    "rope": ("rope_freqs", "rope_factors_long", "rope_factors_short", "inv_freq", "rope.freqs"),
}

#: llama.cpp's own words that stand for themselves.
OF_GGUF: Final = frozenset(
    {
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_qkv",
        "attn_output",
        "attn_gate",
        "attn_sinks",
        "attn_q_a",
        "attn_q_b",
        "attn_kv_a_mqa",
        "attn_kv_b",
        "attn_k_b",
        "attn_v_b",
        "cross_attn_q",
        "cross_attn_k",
        "cross_attn_v",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
        "ffn_gate_shexp",
        "ffn_up_shexp",
        "ffn_down_shexp",
        "ssm_in",
        "ssm_x",
        "ssm_dt",
        "ssm_a",
        "ssm_d",
        "ssm_out",
        "ssm_conv1d",
        "ssm_ba",
        "ssm_alpha",
        "ssm_beta",
        "token_embd",
        "token_types",
        "position_embd",
        "patch_embd",
        "class_embd",
        "output",
        "cls",
    }
)

#: Words of a path that make its attention cross attention, and what they are called where it is not.
CROSS: Final[dict[str, str]] = {
    "attn2": "attn1",  # diffusers, LDM
    "EncDecAttention": "SelfAttention",  # T5
    "encoder_attn": "self_attn",  # Whisper, BART
    "crossattention": "attention",  # BERT as a decoder
    "cross_attn": "self_attn",
}
#: Words of a path that make its layers those of the text beside an image.
CONTEXT: Final[dict[str, str]] = {"context_block": "x_block", "txt_attn": "img_attn", "txt_mlp": "img_mlp"}
#: Words of a path that make its MLP that of an expert which every token visits.
SHARED_EXPERTS: Final = frozenset({"shared_expert", "shared_experts", "share_expert", "shared_mlp"})

#: Words before the number of an expert.
BEFORE_EXPERTS: Final = frozenset({"experts", "ffn_gate", "ffn_up", "ffn_down"})

#: GPT-2's layers, stored (in, out), those of them that have more outputs than inputs, and what others lack that share
#: their names.
GPT2: Final = frozenset({"c_attn", "c_fc", "c_proj", "q_attn"})
GPT2_WIDENS: Final = frozenset({"c_attn", "c_fc"})
GPT2_POSITIONS: Final = frozenset({"wpe", "positions_embed"})

#: Last words that name the array of a layer rather than a layer.
ARRAYS: Final = frozenset({"weight", "qweight", "weight_packed", "kernel", "base_layer", "linear_weight"})
#: Last words of what a quantized layer stores beside its codes.
SCALES: Final = frozenset(
    {
        "scales",
        "biases",  # MLX: of the codes
        "qzeros",
        "g_idx",
        "weight_scale",
        "weight_scale_2",
        "weight_scale_inv",
        "weight_shape",
        "weight_zero_point",
        "input_scale",
        "SCB",
        "absmax",
        "quant_map",
        "nested_absmax",
        "nested_quant_map",
        "scale_weight",
        "quant_state",
    }
)
LORA: Final = frozenset({"lora_A", "lora_B", "lora_up", "lora_down", "lora_embedding_A", "lora_embedding_B"})
NORMS: Final = frozenset({"ln", "bn", "ln1", "ln2", "ln3", "bn1", "bn2", "bn3", "running_mean", "running_var"})

"""What the forward pass of the real model is timed against: transformers in float32, and llama.cpp on the file itself.

Each does it as its users would: transformers eagerly, on the threads that it takes; llama.cpp in one batch, with the
logits of every token. llama.cpp multiplies the quantized weights, the others those that they were dequantized to.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from quantsim.checkpoints import RealModel
from quantsim.models import gemma

from . import _timing
from ._rivals import optional

JOB = "logits of 512 tokens"

#: Names of a layer's arrays in transformers, by ours.
NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def contenders(model: RealModel, path: str, tokens: Sequence[int]) -> list[_timing.Contender]:
    """Those that are installed, quantsim first, each with the logits of all tokens as its work."""
    weights = sum(a.size for a in model.params.values())
    found = [_timing.by_quantsim(JOB, weights, by_quantsim(model, tokens))]
    if optional("transformers") and optional("torch"):
        found.append(_timing.by_torch(JOB, weights, by_transformers(model, tokens), "transformers"))
    if optional("llama_cpp"):
        device, threads = found[0].device, found[0].threads
        run = by_llama_cpp(path, tokens, threads)
        found.append(_timing.Contender(JOB, "llama.cpp", weights, run, device, threads))
    return found


def by_quantsim(model: RealModel, tokens: Sequence[int]) -> Callable[[], Any]:
    """Our forward pass, in float32."""
    ids = jnp.asarray([tokens])
    return lambda: gemma.forward(model.params, ids, model.config)


def by_transformers(model: RealModel, tokens: Sequence[int]) -> Callable[[], Any]:
    """Theirs, in float32 with our weights and their fastest attention."""
    torch = optional("torch")
    net, ids = in_transformers(model, attention="sdpa"), torch.tensor([list(tokens)])

    def run() -> Any:
        with torch.inference_mode():
            return net(ids, use_cache=False).logits

    return run


def by_llama_cpp(path: str, tokens: Sequence[int], threads: int | None) -> Callable[[], Any]:
    """llama.cpp in one batch; its logits are copied into an array as they come."""
    llama = optional("llama_cpp").Llama(
        path,
        n_ctx=len(tokens),
        n_batch=len(tokens),
        n_threads=threads,
        n_threads_batch=threads,
        logits_all=True,
        verbose=False,
    )

    def run() -> Any:
        llama.reset()
        llama.eval(list(tokens))
        return llama.scores

    return run


def in_transformers(model: RealModel, *, attention: str = "eager") -> Any:
    """The model of transformers that holds our weights; its gains are ours less 1."""
    transformers, torch = optional("transformers"), optional("torch")
    c = model.config
    config = transformers.Gemma3TextConfig(
        vocab_size=len(model.params["token_embd"]),
        hidden_size=c.width,
        intermediate_size=c.hidden,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads,
        head_dim=c.head,
        query_pre_attn_scalar=round(c.query_scale**-2),
        sliding_window=c.window,
        attn_implementation=attention,
    )
    net = transformers.Gemma3ForCausalLM(config).eval()
    net.load_state_dict({name: torch.from_numpy(np.array(w)) for name, w in _state(model).items()})
    return net


def _state(model: RealModel) -> dict[str, Any]:
    """Our arrays under their names."""
    embedding, last = model.params["token_embd"], model.params["output_norm"] - 1
    state = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding, "model.norm.weight": last}
    for layer in range(model.config.layers):
        for ours, theirs in NAMES.items():
            w = model.params[f"blk.{layer}.{ours}"]
            state[f"model.layers.{layer}.{theirs}.weight"] = w - 1 if w.ndim == 1 else w
    return state

"""Policies that have names: one tensor alone, precision by depth, and what the documents recommend."""

from quantsim.tree.policy import Policy, PolicyError, Rule, Treatment, policy


def only(pattern: str, rule: Rule) -> Policy:
    """Everything is left as it is but the tensors of this pattern: "leave one in".

    >>> str(only("blk.3.*", "int4:block32"))
    'blk.3.*: int4:block32'
    """
    return policy({pattern: rule})


def progressive(layers: int, shallow: Rule, deep: Rule, *, share: float = 2 / 3) -> Policy:
    """The first ``round(share layers)`` layers get one treatment, the others another; what is in no layer is left.

    Args:
        layers: of the model, whose tensors are called "blk.<layer>.…".
        shallow: treatment of the first layers.
        deep: of the last.
        share: part of the layers that is shallow, within [0, 1].

    Raises:
        PolicyError: for a share outside [0, 1].

    >>> found = progressive(3, "int8:channel", "bf16")
    >>> found.treatment("blk.1.attn_q"), found.treatment("blk.2.attn_q"), found.treatment("output")
    (Treatment('int8:channel'), Treatment('bf16'), Treatment('as it is'))
    """
    if not 0 <= share <= 1:
        raise PolicyError(f"the share of shallow layers lies within [0, 1], got {share:g}")
    first_deep = round(share * layers)
    return policy({f"blk.{layer}.*": shallow if layer < first_deep else deep for layer in range(layers)})


def documents_strategy() -> Policy:
    """The second document's ``quantization_strategy``: q and k in mixed precision, up and v per channel, else int8.

    Mixed precision keeps the largest tenth of the weights, which the document wants in bfloat16, in float16; the rest,
    as everything else, has one scale for the tensor. What is in no layer is left as it is.
    """
    mixed = Treatment("int8:tensor", mitigation="split_outliers(by=share,share=0.1)")
    return policy(
        {
            "blk.*.attn_[qk]": mixed,
            "blk.*.attn_v": "int8:channel",
            "blk.*.ffn_up": "int8:channel",
            "blk.*": "int8:tensor",
        }
    )

"""The text that every Python carries, as bytes: the topics of its documentation, a tenth of them held out.

Topics repeat each other, "compound" for example all of "if". So a paragraph is used once: what a topic that is held out
says is not trained on, wherever it stands (but for a few short ones that differ in the blank lines around them). The
text differs between versions of Python, ``digest`` tells them apart.
"""

from hashlib import sha256

import numpy as np

#: One topic in so many is held out.
HELD_OUT = 10
_GAP = b"\n\n"


def topics() -> dict[str, bytes]:
    """Topics of ``pydoc_data`` by name, in sorted order, as UTF-8: 79 of them with 466 117 bytes in Python 3.11.7."""
    from pydoc_data.topics import topics as found

    return {name: found[name].encode("utf-8") for name in sorted(found)}


def digest() -> str:
    """SHA-256 of all topics, in hexadecimal: what was trained on, and what a loss was measured on."""
    whole = sha256()
    for name, text in topics().items():
        whole.update(name.encode("utf-8") + b"\0" + text + b"\0")
    return whole.hexdigest()


def is_held_out(name: str) -> bool:
    """Whether no training sees a topic: by a hash of its name, so the same topics in every version of Python.

    >>> is_held_out("slicings"), is_held_out("compound")
    (True, False)
    """
    return int(sha256(name.encode("utf-8")).hexdigest(), 16) % HELD_OUT == 0


def training_bytes() -> np.ndarray:
    """What is trained on, as uint8: the other topics, less paragraphs that stood before or in a topic held out."""
    texts = topics()
    seen = {p for name, text in texts.items() if is_held_out(name) for p in text.split(_GAP)}
    kept = []
    for name, text in texts.items():
        if not is_held_out(name):
            for paragraph in text.split(_GAP):
                if paragraph not in seen:
                    kept.append(paragraph)
                    seen.add(paragraph)
    return np.frombuffer(_GAP.join(kept), np.uint8)


def held_out(context: int) -> np.ndarray:
    """Sequences of the topics held out, (number, context + 1) int32, in a fixed order.

    A topic is cut into pieces that overlap by one token: the last of one is the first of the next, so that each token
    but the first is predicted once. What is left at the end of a topic, less than a piece, is left out.

    Raises:
        ValueError: for a context that is longer than every topic, or not positive.
    """
    found = []
    for name, text in topics().items():
        if is_held_out(name) and context > 0:
            tokens = np.frombuffer(text, np.uint8).astype(np.int32)
            found += [tokens[at : at + context + 1] for at in range(0, len(tokens) - context, context)]
    if not found:
        raise ValueError(
            f"no topic that is held out has {context} tokens to predict: choose a shorter context, above 0"
        )
    return np.stack(found)

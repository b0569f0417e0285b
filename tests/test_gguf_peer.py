"""GGUF bytes against libgguf 0.2.2, which builds llama.cpp's C quantizers, on weights and importances of many kinds.

Nothing here is skipped: without libgguf these tests fail. `make test-peers` installs it.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from quantsim.quantizer.blockformats.gguf import TYPES
from tests.oracle_gguf import LATTICES

pytestmark = pytest.mark.peers
ROWS, COLUMNS = 20, 512
SEARCHED = [name for name, q in TYPES.items() if q.takes_imatrix]
#: Float16 scales are 0 or one step of float16 above, and codes mean nothing: see ``gguf``.
NO_SCALE, F16_STEP = {"tiny"}, 2.0**-24


@pytest.fixture(scope="module")
def peer():
    import libgguf

    def pack(w, name, imatrix):
        kind = libgguf.GGMLQuantizationType[name]
        data = libgguf.quantize_rows_raw(kind, np.ascontiguousarray(w), *w.shape, imatrix)
        return np.frombuffer(data, np.uint8).reshape(len(w), -1)

    pack.needs = lambda name: libgguf.quantize_requires_imatrix(libgguf.GGMLQuantizationType[name])
    return pack


def kinds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (ROWS, COLUMNS)
    bell = rng.standard_normal(shape)
    outliers = bell.copy()
    outliers[np.arange(ROWS)[:, None], rng.integers(0, COLUMNS, (ROWS, 6))] *= 100
    zeros = np.where(rng.random(shape) < 0.3, 0, bell)
    zeros.reshape(-1, 32)[::5], zeros.reshape(-1, 256)[7] = 0, 0
    constants = np.repeat(rng.standard_normal((ROWS, COLUMNS // 16)), 16, axis=1)
    constants[3:6] = np.array([1.0, -2.5, 0.0])[:, None]
    constants[6], constants[7] = np.where(np.arange(COLUMNS) % 2, 1, -1), 0.1 * (np.arange(COLUMNS) % 7 - 3)
    by_32 = np.repeat(np.exp(3 * rng.standard_normal((ROWS, COLUMNS // 32))), 32, axis=1)
    found = {
        "normal": bell,
        "laplace": rng.laplace(size=shape) * 0.02,
        "t3": rng.standard_t(3, shape),
        "outliers": outliers,
        "zeros": zeros,
        "constants": constants,
        "huge": bell * 2.0**13,  # and minimums, too, that float16 holds
        "small": bell * 1e-4,
        "smaller": bell * 2e-5,
        "tiny": bell * 1e-7,
        "scales": np.clip(bell * by_32, -6e4, 6e4),
        "integers": np.round(bell * 2),
        "uniform": rng.uniform(-1, 1, shape),
        "positive": np.abs(bell),
    }
    return {kind: w.astype(np.float32) for kind, w in found.items()}


def importances() -> dict[str, np.ndarray | None]:
    rng = np.random.default_rng(1)
    found = {
        "equal": np.ones(COLUMNS),
        "uniform": rng.uniform(0.1, 2, COLUMNS),
        "wild": np.exp(3 * rng.standard_normal(COLUMNS)),
        "zeros": rng.uniform(0, 1, COLUMNS) * (rng.random(COLUMNS) < 0.7),
    }
    return {"none": None} | {kind: m.astype(np.float32) for kind, m in found.items()}


def test_the_reference_needs_importances_where_we_do(peer):
    assert {name for name in SEARCHED if peer.needs(name)} == {name for name, q in TYPES.items() if q.needs_imatrix}


@pytest.mark.parametrize("name", LATTICES)
def test_bytes_of_lattices(name, peer):
    q = TYPES[name]
    for of, imatrix in importances().items():
        if imatrix is None and q.needs_imatrix:
            continue
        for kind, w in kinds().items():
            said, theirs, ours = f"{kind}, importances {of}", peer(w, name, imatrix), np.asarray(q.pack(w, imatrix))
            if imatrix is None and kind in NO_SCALE:
                np.testing.assert_allclose(scales(q, ours), scales(q, theirs), 0, F16_STEP, err_msg=said)
            else:
                np.testing.assert_array_equal(ours, theirs, err_msg=said)


def scales(q, data: np.ndarray) -> np.ndarray:
    return np.asarray(q.coding.from_bytes(jnp.asarray(data).reshape(-1, q.nbytes)).scales[0])


@pytest.mark.parametrize("name", [name for name in SEARCHED if name not in LATTICES])
def test_bytes_of_the_other_searches(name, peer):
    """Edge cases of the K-quants, too, with importances and without."""
    q = TYPES[name]
    for of, imatrix in importances().items():
        for kind, w in kinds().items():
            if kind not in NO_SCALE:
                np.testing.assert_array_equal(
                    q.pack(w, imatrix), peer(w, name, imatrix), err_msg=f"{kind}, importances {of}"
                )

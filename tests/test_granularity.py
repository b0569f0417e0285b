"""Array to blocks and back, against an enumeration of every element."""

from copy import copy
from inspect import unwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantsim.granularity import Block, Channel, Tensor, block_counts, block_sizes, from_blocks, scale_shape, to_blocks
from tests import oracles

SHAPES = [(), (1,), (7,), (3, 8), (2, 5), (1, 1), (2, 3, 4), (2, 2, 3, 5), (0,), (0, 5), (5, 0), (2, 0, 3)]


def _granularities(shape: tuple[int, ...]) -> list:
    """Tensor, channels and blocks along every axis and from it on, blocks of one and of more than the array."""
    along = [g for axis in range(len(shape)) for g in (Channel(axis), Block(3, axis), Block(4, axis, onward=True))]
    return [Tensor(), *along, Block(1), Block(4), Block(50)]


def _ids(g, shape: tuple[int, ...]) -> np.ndarray:
    if isinstance(g, Block) and g.onward:
        axis = g.axis % len(shape)
        flat = (*shape[:axis], int(np.prod(shape[axis:])))
        return oracles.block_ids(flat, "block", g.size, -1).reshape(shape)
    if isinstance(g, Block):
        return oracles.block_ids(shape, "block", g.size, g.axis)
    return (
        oracles.block_ids(shape, "channel", 1, g.axis) if isinstance(g, Channel) else oracles.block_ids(shape, "tensor")
    )


def _elements(shape: tuple[int, ...]) -> np.ndarray:
    """Every element another number, none of them 0, so that padding shows."""
    return np.arange(1, np.prod(shape, dtype=int) + 1, dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_row_holds_one_block_in_order_and_the_way_back_is_the_identity(shape):
    w, granularities = _elements(shape), _granularities(shape)

    @jax.jit
    def there_and_back(w):  # of all at once: one program
        blocks = [to_blocks(w, g) for g in granularities]
        return blocks, [from_blocks(b, g, shape) for b, g in zip(blocks, granularities, strict=True)]

    for g, rows, back in zip(granularities, *jax.device_get(there_and_back(w)), strict=True):
        ids = _ids(g, shape)
        assert len(rows) == int(np.prod(scale_shape(g, shape))), g
        for i, row in enumerate(rows):
            inside = w[ids == i]
            np.testing.assert_array_equal(row[: len(inside)], inside, err_msg=f"{g} {i}")
            np.testing.assert_array_equal(row[len(inside) :], 0, err_msg=f"{g} {i}")
        np.testing.assert_array_equal(back, w, err_msg=str(g))


@pytest.mark.parametrize("shape", [s for s in SHAPES if 0 not in s], ids=str)
def test_counts_leave_out_the_padding(shape):
    for g in _granularities(shape):
        counts, (_, occurrences) = block_counts(g, shape), np.unique(_ids(g, shape), return_counts=True)
        np.testing.assert_array_equal(np.broadcast_to(np.ravel(counts), occurrences.shape), occurrences, err_msg=str(g))
        assert isinstance(counts, int) == (not isinstance(g, Block) or len({*occurrences}) == 1)


@pytest.mark.parametrize("shape", [s for s in SHAPES if 0 not in s], ids=str)
def test_sizes_of_blocks_are_those_that_the_weights_see(shape):
    for g in _granularities(shape):
        _, of_each, occurrences = np.unique(_ids(g, shape), return_inverse=True, return_counts=True)
        sizes, weights = np.unique(occurrences[of_each], return_counts=True)
        expected = sorted(zip(sizes.tolist(), (weights / weights.sum()).tolist(), strict=True), reverse=True)
        assert block_sizes(g, shape) == tuple(expected), g


def test_sizes_of_blocks_without_a_shape():
    assert block_sizes(Block(32), None) == ((32, 1.0),)
    for g in (Tensor(), Channel()):
        with pytest.raises(ValueError, match=rf"a scale for each {type(g).__name__.lower()} needs .*pass shape="):
            block_sizes(g, None)


@pytest.mark.parametrize("g", [Tensor(), Channel(), Block(32)], ids=str)
@pytest.mark.parametrize("shape", [s for s in SHAPES if 0 in s], ids=str)
def test_an_empty_array_has_no_sizes_of_blocks(g, shape):
    with pytest.raises(ValueError, match="has no weights"):
        block_sizes(g, shape)


@pytest.mark.parametrize(
    ("g", "shape", "expected"),
    [
        (Tensor(), (4, 96), ()),
        (Channel(), (4, 96), (4,)),
        (Channel(1), (4, 96), (96,)),
        (Channel(-1), (2, 3, 5), (5,)),
        (Block(32), (4, 96), (4, 3)),
        (Block(32), (4, 97), (4, 4)),
        (Block(3, 0), (7, 2), (2, 3)),
        (Block(2, 1), (3, 5, 4), (3, 4, 3)),
        (Block(2, 1, onward=True), (3, 5, 3), (3, 8)),
        (Block(2, -2, onward=True), (3, 5, 3), (3, 8)),
        (Block(2, 0, onward=True), (3, 5, 3), (23,)),
        (Block(32), (), ()),
        (Channel(), (), ()),
        (Block(32), (5, 0), (5, 0)),
        (Channel(), (5, 0), (5,)),
        (Tensor(), (0,), ()),
    ],
    ids=str,
)
def test_shape_of_the_scales(g, shape, expected):
    assert scale_shape(g, shape) == expected


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.bool_, jnp.bfloat16])
def test_any_type_keeps_its_type(dtype):
    w = jnp.ones((2, 5), dtype)
    assert to_blocks(w, Block(3)).dtype == dtype
    assert from_blocks(to_blocks(w, Block(3)), Block(3), (2, 5)).dtype == dtype


def test_blocks_of_a_matrix_run_along_its_inputs():
    w = jnp.asarray(_elements((3, 8)))
    assert to_blocks(w, Block(4))[1].tolist() == w[0, 4:].tolist()
    assert to_blocks(w, Channel())[1].tolist() == w[1].tolist()


def test_views_compile():
    w, g = jnp.asarray(_elements((2, 3, 7))), Block(3, 1)
    blocks = jax.jit(to_blocks, static_argnums=1)(w, g)
    np.testing.assert_array_equal(blocks, to_blocks(w, g))
    np.testing.assert_array_equal(jax.jit(from_blocks, static_argnums=(1, 2))(blocks, g, w.shape), w)


@pytest.mark.parametrize("size", [0, -1])
def test_blocks_without_weights(size):
    with pytest.raises(ValueError, match=rf"at least 1 weight, got size {size}; for example Block\(32\)"):
        Block(size)


def test_from_the_last_axis_on_is_along_it():
    assert Block(4, -1, onward=True) == Block(4)
    assert Block(4, 1, onward=True) != Block(4, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: unwrap(Block.__post_init__)(_with(Block(4), size="32")),
            "the size of a block is a whole number, not '32'",
        ),
        (
            lambda: unwrap(Block.__post_init__)(_with(Block(4), size=32.0)),
            "the size of a block is a whole number, not 32.0",
        ),
        (lambda: unwrap(Block.__post_init__)(_with(Block(4), axis=0.5)), "an axis is a whole number, not 0.5"),
        (lambda: unwrap(Channel.__post_init__)(_with(Channel(), axis="0")), "an axis is a whole number, not '0'"),
    ],
)
def test_other_kinds_of_sizes_and_axes(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def _with(g, **fields):
    """A granularity that the type checker of the tests would not let through."""
    for name, value in fields.items():
        object.__setattr__(g, name, value)
    return g


def test_integers_of_numpy_are_whole_numbers():
    for g, given in ((Block(32, 0), {"size": np.int64(32), "axis": np.int8(0)}), (Channel(1), {"axis": np.int32(1)})):
        unwrap(type(g).__post_init__)(again := _with(copy(g), **given))
        assert again == g
        assert type(again.axis) is int


@pytest.mark.parametrize("g", [Channel(2), Channel(-3), Block(4, 2), Block(4, -3), Block(4, 2, onward=True)], ids=str)
def test_axes_that_do_not_exist(g):
    for call in (
        lambda: to_blocks(jnp.ones((2, 3)), g),
        lambda: scale_shape(g, (2, 3)),
        lambda: block_counts(g, (2, 3)),
        lambda: block_sizes(g, (2, 3)),
    ):
        with pytest.raises(ValueError, match=rf"axis {g.axis} does not exist in an array of shape \(2, 3\)"):
            call()


def test_a_row_shorter_than_its_block_is_not_padded():
    assert to_blocks(jnp.ones((512, 3)), Block(128)).shape == (512, 3)

"""Files of other kinds, which are never opened: why, and what makes one of them that can be."""

from pathlib import Path
from shlex import quote

_TORCH = (
    'python -c "import sys, torch; from safetensors.torch import save_file; save_file({n: t.contiguous().clone() '
    "for n, t in torch.load(sys.argv[1], map_location='cpu', weights_only=True).items()}, sys.argv[2])\" "
)
_PICKLED = "pickled formats (.pt, .bin, .pkl) can run code and are never opened: convert to .safetensors or .npy"
_TORCH_ENDINGS = (".pt", ".pth", ".bin", ".ckpt")
_OTHERS = {
    ".npz": "is a zip of arrays, which may be pickled; save each with numpy.save as .npy",
    ".h5": "is HDF5; convert to .safetensors or .npy, with h5py and safetensors.numpy.save_file",
    ".hdf5": "is HDF5; convert to .safetensors or .npy, with h5py and safetensors.numpy.save_file",
    ".onnx": "is a graph; convert to .safetensors or .npy, with onnx.numpy_helper.to_array of its initializers",
    ".tflite": "is a graph; convert to .safetensors or .npy what it was made from",
    ".msgpack": "is Flax's; convert to .safetensors or .npy, with safetensors.flax.save_file",
}


def why_foreign(path: Path) -> str:
    """Why a file is not read, and what to do instead.

    >>> why_foreign(Path("w.npz"))
    'cannot read .npz: it is a zip of arrays, which may be pickled; save each with numpy.save as .npy'
    """
    ending = path.suffix.lower()
    if ending in _OTHERS:
        return f"cannot read {ending}: it {_OTHERS[ending]}"
    what = f"cannot read {path.suffix!r}" if path.suffix else "cannot read a file without extension"
    what = f"{what}, only .npy, .safetensors and .gguf"
    command = f", where you trust it or nothing is at stake: {_TORCH}{quote(path.name)} w.safetensors"
    return f"{what}; {_PICKLED}{command * (ending in _TORCH_ENDINGS)}"

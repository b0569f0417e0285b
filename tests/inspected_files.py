"""Checkpoints for the tests of inspection: the shipped language model as the files that people have."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import gguf
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

import quantsim as qs
from quantsim.models import trained
from tests import checkpoint_files

MODEL = "lm-w32-s0"
_FOLDER = TemporaryDirectory(prefix="quantsim-inspected-")  # of the process; removed when it ends
PATH = Path(_FOLDER.name) / f"{MODEL}.safetensors"
PATH.write_bytes(trained.shipped(MODEL))


def tensors() -> dict[str, np.ndarray]:
    """The model's arrays, float32 holding bfloat16 values."""
    return {name: np.asarray(w) for name, w in trained.load(MODEL).params.items()}


def as_gguf(path: Path, kind: str = "Q4_0", changed: Mapping[str, np.ndarray] | None = None) -> Path:
    """Matrices packed as ``kind``, or given as bytes, the rest float32; written by the gguf package."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(6)
    for name, w in tensors().items():
        if w.ndim == 2:
            data = (changed or {}).get(name)
            packed = np.asarray(qs.gguf.pack(w, kind)) if data is None else data
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType[kind])
        else:
            writer.add_tensor(f"{name}.weight", w)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def as_shards(folder: Path) -> Path:
    """Three files and their index, in bfloat16."""
    found = list(tensors().items())
    shards = {}
    folder.mkdir()
    for number in range(3):
        name = f"model-{number + 1:05d}-of-00003.safetensors"
        part = dict(found[number::3])
        save_file({k: np.ascontiguousarray(w.astype(ml_dtypes.bfloat16)) for k, w in part.items()}, str(folder / name))
        shards |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_bytes(checkpoint_files.index(shards))
    return folder


def as_fp8(path: Path) -> Path:
    """Matrices as fp8 codes with a scale of the tensor beside each."""
    held = {}
    for name, w in tensors().items():
        if w.ndim == 2:
            scale = np.float32(np.abs(w).max() / 448)
            held[f"{name}.weight"] = ("F8_E4M3", w.shape, (w / scale).astype(ml_dtypes.float8_e4m3fn).tobytes())
            held[f"{name}.weight_scale"] = ("F32", (), scale.tobytes())
        else:
            held[f"{name}.weight"] = checkpoint_files.f32(w)
    path.write_bytes(checkpoint_files.safetensors(held))
    return path

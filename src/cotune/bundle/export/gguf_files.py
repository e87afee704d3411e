"""Writing GGUF files of a model and a LoRA adapter, and reading them back under transformers' names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from cotune.bundle.export.gguf_layout import Layout
from cotune.bundle.export.gguf_tokenizer import GgufTokenizer
from cotune.errors import CotuneError
from cotune.model.adapters.files import WEIGHTS, read_settings

if TYPE_CHECKING:
    from gguf import GGUFWriter

_LARGEST_HALF = 65504.0
_BEFORE, _FREQUENCIES = "base_model.model.", "rope_freqs.weight"


def write_model(folder: Path, target: Path, layout: Layout, tokenizer: GgufTokenizer, name: str) -> str:
    """Write a model's folder as one GGUF file; returns the dtype of its matrices.

    Matrices in bfloat16 and float16 keep their dtype. float32 becomes float16, which rounds eight times finer than the bfloat16
    that most models run in, unless a value is too large for it. Vectors are float32, as llama.cpp requires. Tensors are read
    one by one, so the model need not fit into memory.

    Args:
        folder: folder with safetensors weights.
    """
    import gguf

    file_types = {
        torch.float32: gguf.LlamaFileType.ALL_F32,
        torch.float16: gguf.LlamaFileType.MOSTLY_F16,
        torch.bfloat16: gguf.LlamaFileType.MOSTLY_BF16,
    }
    weights = {found: values for found, values in _stored(folder).items() if not layout.skipped(found)}
    dtype = _matrix_type(weights)
    writer = gguf.GGUFWriter(target, layout.architecture)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(file_types[dtype])
    layout.describe(writer)
    tokenizer.write(writer, layout.config.vocab_size)

    def reader(found: str) -> Callable[[], Tensor]:
        return lambda: layout.reordered(found, weights[found][:])

    tensors = [(layout.place(found), tuple(values.get_shape()), reader(found)) for found, values in weights.items()]
    if (factors := layout.frequency_factors()) is not None:
        tensors.append((_FREQUENCIES, tuple(factors.shape), lambda: factors))
    _write(writer, tensors, dtype)
    return str(dtype).removeprefix("torch.")


def write_adapter(adapter: Path, target: Path, layout: Layout, name: str) -> None:
    """Write a LoRA adapter's folder as one GGUF file, its factors in float32; see :meth:`Layout.adapted` for errors."""
    import gguf
    from safetensors.torch import load_file

    settings, weights = read_settings(adapter), load_file(adapter / WEIGHTS)
    writer = gguf.GGUFWriter(target, layout.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(settings.alpha))
    factors = [(place, tuple(values.shape), values.clone) for place, values in _factors(weights, layout)]
    _write(writer, factors, torch.float32)


def weights_in(folder: Path, layout: Layout, model: Path, adapter: Path | None = None) -> dict[str, Tensor]:
    """The weights in files of :func:`write_model` and :func:`write_adapter`, in float32 and with the adapter added.

    They get the names in ``folder``, which has the same tensors.
    """
    held, scale = _read(model)[0], 0.0
    factors: dict[str, Tensor] = {}
    if adapter is not None:
        factors, alpha = _read(adapter)
        scale = alpha / next(values.shape[0] for name, values in factors.items() if name.endswith(".lora_a"))
    found = {}
    for name in _stored(folder):
        if layout.skipped(name):
            continue
        place = layout.place(name)
        values = held.pop(place)
        if (down := factors.pop(f"{place}.lora_a", None)) is not None:
            values += scale * (factors.pop(f"{place}.lora_b") @ down)
        found[name] = layout.restored(name, values).contiguous()
    if more := {*held, *factors} - {_FREQUENCIES}:
        raise CotuneError(f"the GGUF files contain unknown tensors, such as {min(more)}")
    return found


def _read(path: Path) -> tuple[dict[str, Tensor], float]:
    """Every tensor of a file in float32, and an adapter's alpha."""
    import gguf

    reader = gguf.GGUFReader(path)
    alpha = reader.fields.get(gguf.Keys.Adapter.LORA_ALPHA)
    tensors = {
        tensor.name: torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        for tensor in reader.tensors
    }
    return tensors, 0.0 if alpha is None else float(alpha.contents())


def _factors(weights: dict[str, Tensor], layout: Layout) -> Iterator[tuple[str, Tensor]]:
    for name, values in weights.items():
        module, kind, _ = name.removeprefix(_BEFORE).rsplit(".", 2)
        weight = f"{module}.weight"
        # The second factor has the output features, whose order llama.cpp changes.
        ordered = layout.reordered(weight, values) if kind == "lora_B" else values
        yield f"{layout.adapted(weight)}.{kind.lower()}", ordered.float()


def _write(
    writer: GGUFWriter, tensors: Sequence[tuple[str, tuple[int, ...], Callable[[], Tensor]]], dtype: torch.dtype
) -> None:
    """Write the file's header, with the position of every tensor, then each tensor in turn."""
    import gguf

    kinds = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    try:
        for name, shape, _ in tensors:
            kind = torch.float32 if len(shape) < 2 else dtype
            size = prod(shape) * kind.itemsize
            raw = gguf.GGMLQuantizationType[kinds[kind]]
            writer.add_tensor_info(name, shape, _plain(torch.empty(0, dtype=kind)).dtype, size, raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, shape, read in tensors:
            kind = torch.float32 if len(shape) < 2 else dtype
            writer.write_tensor_data(_plain(read().to(kind).contiguous()))
    finally:
        writer.close()


def _plain(values: Tensor) -> Any:
    """The tensor as numpy array; numpy has no bfloat16."""
    return (values.view(torch.int16) if values.dtype == torch.bfloat16 else values).numpy()


def _matrix_type(weights: Mapping[str, Any]) -> torch.dtype:
    matrices = [values for values in weights.values() if len(values.get_shape()) > 1]
    stored: set[torch.dtype] = {values[:].dtype for values in matrices[:1]}
    if stored & {torch.bfloat16, torch.float16}:
        return stored.pop()
    large = any(float(values[:].abs().max()) > _LARGEST_HALF for values in matrices)
    return torch.float32 if large else torch.float16


def _stored(folder: Path) -> dict[str, Any]:
    """All tensors of a folder's safetensors files by name; ``[:]`` reads one."""
    files: list[Any] = [safe_open(path, framework="pt") for path in sorted(folder.glob("*.safetensors"))]
    return {name: file.get_slice(name) for file in files for name in file.keys()}  # noqa: SIM118 - not a mapping

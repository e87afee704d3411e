"""A base model's own files, and its weights with an adapter added to them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ENDINGS = (".json", ".jinja", ".model", ".txt")


def copy_model(source: Path, target: Path, *, weights: bool = True) -> None:
    """Copy the model's own files: what a folder holds besides them is nobody's business elsewhere."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        is_weights = path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json")
        wanted = weights if is_weights else path.suffix in _ENDINGS and "cotune" not in path.name
        if wanted and path.is_file():
            shutil.copyfile(path, target / path.name)


def merge(source: Path, adapter: Path | None, target: Path) -> str:
    """Copy a model with an adapter added to its weights in fp32, stored in the base model's number type, which is returned."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from cotune.model.adapter_folder import read_settings
    from cotune.model.loading import quiet_transformers
    from cotune.model.trained_prefix import WEIGHTS

    quiet_transformers()
    stored = AutoModelForCausalLM.from_pretrained(
        source, dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    dtype = stored.dtype
    model: PreTrainedModel = stored.float()
    if adapter is not None:
        settings = read_settings(adapter)
        weights = load_file(adapter / WEIGHTS)
        modules = dict(model.named_modules())
        with torch.no_grad():
            for name, down in weights.items():
                if not name.endswith(".lora_A.weight"):
                    continue
                up = weights[name.replace(".lora_A.", ".lora_B.")]
                place = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                modules[place].weight += (settings.alpha / settings.rank) * (up.float() @ down.float())
    copy_model(source, target, weights=False)
    model.to(dtype).save_pretrained(target, max_shard_size="4GB")
    return str(dtype).removeprefix("torch.")

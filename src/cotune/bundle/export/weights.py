"""Copying a base model, adding an adapter to its weights, and cutting both after a probe's layer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cotune.errors import InputError
from cotune.files import load_json, write_json, write_text
from cotune.model.adapters.files import CONFIG, WEIGHTS, read_settings
from cotune.model.layers.cut import depth_of, norm_epsilon, unit_rms
from cotune.model.layers.lora_binding import layer_number

if TYPE_CHECKING:
    import torch

    from cotune.probe.readout import Probe

POOLED = "pooled.py"
"""File with the class of an exported classifier."""
_ENDINGS = (".json", ".jinja", ".model", ".txt")
_NO_NORM = "the final norm of models of the type {!r} cannot be given unit weight, which the probe needs"


def copy_model(source: Path, target: Path, *, weights: bool = True) -> None:
    """Copy the model's own files only, since a folder may contain others."""
    target.mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        is_weights = path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json")
        wanted = weights if is_weights else path.suffix in _ENDINGS and "cotune" not in path.name
        if wanted and path.is_file():
            shutil.copyfile(path, target / path.name)


def merge(source: Path, adapter: Path | None, target: Path) -> str:
    """Copy a model with an adapter added to its weights in fp32, stored in the base model's dtype, which is returned."""
    model, dtype = merged(source, adapter)
    copy_model(source, target, weights=False)
    model.to(dtype).save_pretrained(target, max_shard_size="4GB")
    return str(dtype).removeprefix("torch.")


def write_classifier(source: Path, adapter: Path | None, probe: Probe, target: Path, last_ids: set[int], pool_from: int) -> str:
    """Write a cut model with an adapter added and the probe as ``score``: a sequence classifier for transformers.

    Its class is in :data:`POOLED`, which is exported too, because those of transformers read only the last token.

    Args:
        source: a model from :func:`cut`.
        probe: its labels become ``id2label``, in order.
        last_ids: tokens at which a prompt may end, none of which may be used for padding.
        pool_from: number of tokens at which all texts begin, which are excluded from the mean.

    Returns:
        The dtype of all weights except the probe's, which are float32.

    Raises:
        InputError: if the class does not fit the model, or the tokenizer has no token for padding.
    """
    from transformers import AutoTokenizer
    from transformers.initialization import no_init_weights

    from cotune.bundle.export.pooled import PooledForSequenceClassification

    model, dtype = merged(source, adapter)
    config = model.config
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    tokenizer.pad_token, tokenizer.padding_side = _pad_token(tokenizer, last_ids, source), "right"
    config.pad_token_id = tokenizer.pad_token_id
    config.id2label, config.label2id = dict(enumerate(probe.labels)), {label: i for i, label in enumerate(probe.labels)}
    config.problem_type = "single_label_classification"
    config.pool_from = pool_from
    config.auto_map = {"AutoModelForSequenceClassification": f"{Path(POOLED).stem}.{PooledForSequenceClassification.__name__}"}
    try:
        with no_init_weights():
            found = PooledForSequenceClassification(config)
        fits = type(getattr(found, found.base_model_prefix)) is type(model.get_decoder())
    except (ValueError, AttributeError):
        fits = False
    if not fits:
        raise InputError(
            f"transformers has no suitable sequence classifier for models of the type {config.model_type!r}",
            where="--to transformers",
            hint="Export with --to merged.",
        )
    setattr(found, found.base_model_prefix, model.get_decoder().to(dtype))
    found.score.weight = torch.nn.Parameter(torch.from_numpy(probe.weight.copy()))
    found.score.bias = torch.nn.Parameter(torch.from_numpy(probe.bias.copy()))
    copy_model(source, target, weights=False)
    found.save_pretrained(target, max_shard_size="4GB")
    tokenizer.save_pretrained(target)
    code = Path(__file__).with_name(POOLED).read_text(encoding="utf-8").replace("LlamaConfig", type(config).__name__)
    write_text(target / POOLED, code)
    # A cut model cannot generate.
    (target / "generation_config.json").unlink(missing_ok=True)
    return str(dtype).removeprefix("torch.")


def cut(source: Path, adapter: Path | None, layer: int, target: Path) -> tuple[Path, Path | None]:
    """Write a model and its adapter cut after a probe's layer.

    The final norm gets unit weight, so that the last hidden state is the probe's input. An output layer that is not tied to the
    embedding is omitted, since it is not used.

    Returns:
        The folders of both in ``target``; None for an adapter without weights below the cut.

    Raises:
        InputError: if the model's final norm is of another kind.
    """
    from transformers import AutoModelForCausalLM

    from cotune.model.loading.load import quiet_transformers

    quiet_transformers()
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto", local_files_only=True, use_safetensors=True)
    decoder, config, depth = model.get_decoder(), model.config.get_text_config(), depth_of(model)
    layers, norm = getattr(decoder, "layers", None), getattr(decoder, "norm", None)
    if layers is None or not _make_unit(norm, norm_epsilon(model), int(config.hidden_size)):
        raise InputError(_NO_NORM.format(config.model_type), where=str(source), hint="Use cotune predict or cotune serve.")
    decoder.layers = torch.nn.ModuleList(list(layers)[:layer])
    for name, value in list(vars(config).items()):
        # Lists such as ``layer_types`` have one entry per layer.
        if isinstance(value, (list, tuple)) and len(value) == depth and "layer" in name:
            setattr(config, name, list(value)[:layer])
    config.num_hidden_layers = layer
    config.tie_word_embeddings = model.config.tie_word_embeddings = True
    model.get_output_embeddings().weight = model.get_input_embeddings().weight
    copy_model(source, target / "base", weights=False)
    model.save_pretrained(target / "base", max_shard_size="4GB")
    below = adapter is not None and _cut_adapter(adapter, layer, target / "adapter")
    return target / "base", target / "adapter" if below else None


def _make_unit(norm: Any, epsilon: float, width: int) -> bool:
    """Set a final norm to unit weight; False if it is not a root-mean-square norm with a scale."""
    weight = getattr(norm, "weight", None)
    if weight is None or tuple(weight.shape) != (width,):
        return False
    states = torch.linspace(-1, 2, width)[None]
    with torch.no_grad():
        # Some scale by the weight, others by one plus the weight.
        for value in (1.0, 0.0):
            weight.fill_(value)
            if torch.allclose(norm(states.to(weight.dtype)).float(), unit_rms(states.to(weight.dtype), epsilon), atol=2e-2):
                return True
    return False


def _cut_adapter(adapter: Path, layer: int, target: Path) -> bool:
    """Copy an adapter's weights of a model's first layers; False, without a copy, if there are none."""
    from safetensors.torch import load_file, save_file

    config = load_json(adapter / CONFIG)
    weights = load_file(adapter / WEIGHTS)
    numbers = {name: layer_number(name) for name in weights}
    kept = {name: weights[name] for name, number in numbers.items() if number is not None and number < layer}
    if isinstance(config.get("layers_to_transform"), list):
        config["layers_to_transform"] = [number for number in config["layers_to_transform"] if number < layer]
    if not kept:
        return False
    target.mkdir()
    save_file(kept, target / WEIGHTS, {"format": "pt"})
    write_json(target / CONFIG, config)
    return True


def _pad_token(tokenizer: Any, last_ids: set[int], source: Path) -> str:
    """A padding token; no prompt may end with it, since classifiers read the last token that is not padding."""
    for token in (
        tokenizer.pad_token,
        tokenizer.eos_token,
        tokenizer.bos_token,
        tokenizer.unk_token,
        *tokenizer.all_special_tokens,
    ):
        if token is not None and tokenizer.convert_tokens_to_ids(token) not in last_ids:
            return str(token)
    raise InputError("the tokenizer has no token for padding", where=str(source), hint="Export with --to merged.")


def merged(source: Path, adapter: Path | None) -> tuple[Any, torch.dtype]:
    """A model in fp32 with an adapter added to its weights, and the dtype of the stored weights."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    from cotune.model.loading.load import quiet_transformers

    quiet_transformers()
    stored = AutoModelForCausalLM.from_pretrained(
        source, dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    dtype: torch.dtype = stored.dtype
    model: Any = stored.float()
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
                update = (settings.alpha / settings.rank) * (up.float() @ down.float())
                # GPT-2's layers store the transposed weight.
                modules[place].weight += update.T if isinstance(modules[place], Conv1D) else update
    return model, dtype

"""Adapters stored on disk by content: LoRA weights are swapped in one loaded model."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotune.errors import CotuneError, InputError
from cotune.files import atomic_path, write_json
from cotune.model.adapters.files import BASE as BASE
from cotune.model.adapters.files import (
    CONFIG,
    WEIGHTS,
    LoraSettings,
    alpha_of,
    bare_content_id,
    content_id,
    copy_adapter,
    is_plain,
    read_settings,
    read_weights,
    with_probe_id,
)
from cotune.model.layers.cut import depth_of
from cotune.model.layers.lora_binding import BoundLora, copy_weights, layer_number, linear_groups
from cotune.model.layers.packed_weights import plain_products
from cotune.model.layers.swap import without
from cotune.model.loading.minimal_llama import LightLlama
from cotune.probe.readout import PROBE, Probe, load_probe, probed_id


class AdapterSlot:
    """The adapter slot of a loaded model: activates LoRA weights by id.

    For inference an adapter is bound to the model's own layers; training needs peft, which then stays installed.

    Args:
        model: the transformers model, which the first adapter modifies.

    Attributes:
        keep: number of adapters whose weights stay in memory; others are read from their folder again.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._bound: BoundLora | None = None
        self._bound_shape: LoraSettings | None = None
        self._peft: Any = None
        self._shapes: tuple[LoraSettings, ...] = ()
        self._folders: dict[str, Path] = {}
        # Kept, since a served bundle's folder may be replaced or removed while its weights are still in use.
        self._settings: dict[str, LoraSettings] = {}
        self._loaded: dict[str, dict[str, Tensor]] = {}
        self._probes: dict[str, Probe | None] = {}
        self._bare: dict[str, str] = {}
        self._depth = depth_of(model)
        self.current = BASE
        self.keep = 8

    def register(self, folder: Path) -> str:
        """Register an adapter folder; returns its id. With a probe, the adapter without it is registered too.

        Raises:
            InputError: the folder contains no plain LoRA adapter in safetensors.
        """
        bare_id = bare_content_id(folder)
        adapter_id = with_probe_id(folder, bare_id)
        self._folders[adapter_id] = folder
        # An adapter without a probe has its own folder.
        if bare_id != BASE:
            self._folders.setdefault(bare_id, folder)
            self._settings.setdefault(bare_id, read_settings(folder))
        self._bare[adapter_id] = bare_id
        return adapter_id

    def without_probe(self, adapter_id: str) -> str:
        """Id of the same weights without their probe."""
        return self._bare.get(adapter_id, adapter_id)

    def probe(self, adapter_id: str) -> Probe | None:
        """An adapter's probe, if it has one.

        Raises:
            InputError: it cannot be read, or was fitted to a model of another shape.
        """
        if adapter_id == BASE or self.without_probe(adapter_id) == adapter_id:
            return None
        if adapter_id not in self._probes:
            self._probes[adapter_id] = self._fitting_probe(load_probe(self._folders[adapter_id]))
            for oldest in list(self._probes)[: -self.keep]:
                del self._probes[oldest]
        return self._probes[adapter_id]

    def frozen_layers(self, adapter_id: str) -> int:
        """Number of the model's leading layers whose weights a registered adapter leaves unchanged."""
        return self.window(adapter_id)[0]

    def window(self, adapter_id: str) -> tuple[int, int]:
        """Number of the layers below those that a registered adapter changes, and the last of them, counted from one.

        Both are the depth for :data:`BASE`; an adapter that is not registered may change all layers.
        """
        bare = self.without_probe(adapter_id)
        if bare == BASE:
            return self._depth, self._depth
        layers = self._settings[bare].layers if bare in self._settings else ()
        return min(layers, default=0), max(layers, default=self._depth - 1) + 1

    def add_probe(self, adapter_id: str, probe: Probe, parent: Path) -> str:
        """Write a registered adapter, or :data:`BASE`, with a probe as an adapter under ``parent``; returns its id."""
        data = probe.to_bytes()
        bare = self.without_probe(adapter_id)
        target = parent / probed_id(bare, data)
        if bare != BASE:
            copy_adapter(self._folders[adapter_id], target, probe=False)
        with atomic_path(target / PROBE) as temporary:
            temporary.write_bytes(data)
        return self.register(target)

    def use(self, adapter_id: str) -> None:
        """Activate an adapter's weights in the model; none for :data:`BASE`.

        Raises:
            CotuneError: no folder was registered under this id.
        """
        adapter_id = self.without_probe(adapter_id)
        if adapter_id == self.current:
            return
        if adapter_id == BASE:
            self.bare()
            self.current = BASE
            return
        weights = self.read(adapter_id)
        # If an adapter is refused below, neither it nor the previous one is active.
        self.current = ""
        settings = self._settings[adapter_id]
        inner = {value.shape[0] for name, value in weights.items() if ".lora_A." in name and value.ndim}
        if inner != {settings.rank}:
            # Before memory is allocated for a rank that only the config claims.
            raise InputError("the adapter's weights are not of the rank that its config names", hint="Save the adapter again.")
        if self._peft is not None or not self._bind(settings, weights):
            self.wrap(settings)
            copy_weights(weights, {name.replace(".default.", "."): value for name, value in self._lora_parameters()})
        self.current = adapter_id

    def read(self, adapter_id: str) -> Mapping[str, Tensor]:
        """A registered adapter's weights under peft's names; do not modify them.

        Raises:
            CotuneError: no folder was registered under this id.
        """
        if adapter_id not in self._loaded:
            if adapter_id not in self._folders:
                raise CotuneError(f"the adapter {adapter_id} is not known here")
            folder = self._folders[adapter_id]
            if bare_content_id(folder) != adapter_id:
                raise InputError(
                    "the adapter's files have changed since they were loaded",
                    where=str(folder),
                    hint="Start the program again to use the new ones.",
                )
            self._loaded[adapter_id] = read_weights(folder)
            for oldest in list(self._loaded)[: -self.keep]:
                del self._loaded[oldest]
        return self._loaded[adapter_id]

    def bare(self) -> None:
        """Deactivate LoRA weights until :meth:`use` is called again."""
        if self._bound is not None:
            self._bound.enabled = False
        if self._peft is not None:
            self._peft.base_model.disable_adapter_layers()
        self.current = ""

    def _fitting_probe(self, probe: Probe | None) -> Probe | None:
        config = self._model.config.get_text_config()
        if probe is not None and (probe.width != config.hidden_size or probe.layer > config.num_hidden_layers):
            raise InputError("the probe does not fit this model", hint="Use the model that it was fitted to.")
        return probe

    def _bind(self, settings: LoraSettings, weights: Mapping[str, Tensor]) -> bool:
        """Bind weights to the model's own layers; False if that needs peft."""
        if self._bound is None or settings != self._bound_shape:
            self._release()
            groups = linear_groups(self._model, settings.target.split(","), settings.layers)
            if groups is None:
                return False
            self._bound = BoundLora(self._model, groups, settings.rank, settings.alpha / settings.rank)
            self._bound_shape = settings
        self._bound.put(weights)
        return True

    def _release(self) -> None:
        if self._bound is not None:
            self._bound.release()
            self._bound, self.current = None, ""

    def wrap(self, settings: LoraSettings) -> Any:
        """Add LoRA layers of this shape with peft and activate them; returns the peft model."""
        from peft import get_peft_model

        from cotune.model.layers.peft_lora import fuse

        self._release()
        if self._peft is not None and settings not in self._shapes:
            # peft removes its layers, including their stand-ins.
            self._model = self._peft.unload()
            self._peft = None
        if self._peft is None:
            try:
                target = _linear_names(self._model, settings)
                with warnings.catch_warnings():
                    # peft uses a name that transformers will remove.
                    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
                    # It sets this itself for Conv1D.
                    warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*", category=UserWarning)
                    # peft knows no task of the minimal model, which is not a transformers class.
                    task = None if isinstance(self._model, LightLlama) else "CAUSAL_LM"
                    self._peft = get_peft_model(self._model, _peft_config(replace(settings, target=target), task))
            except ValueError as error:
                raise InputError(str(error), where="tune.target", hint="Use all-linear or names of linear layers.") from error
            if not is_plain(self._peft.peft_config["default"].to_dict()):
                self._model = self._peft.unload()
                self._peft = None
                raise InputError(
                    "peft tunes the experts of this model in a way that is not supported here",
                    where="tune.target",
                    hint="Tune the attention alone: tune.target=q_proj,k_proj,v_proj,o_proj.",
                )
            # "all-linear" is equivalent to the list of names that peft expands it to.
            names = self._peft.peft_config["default"].target_modules
            self._shapes = (settings, replace(settings, target=",".join(sorted(names))))
            self._peft.eval()
            fuse(self._model)
        self._peft.base_model.enable_adapter_layers()
        return self._peft

    def start(self, settings: LoraSettings, *, seed: int, adapter_id: str = BASE) -> list[tuple[str, torch.nn.Parameter]]:
        """Trainable parameters by name, initialised from the seed or from a registered adapter.

        These weights stay active, whatever they become, until :meth:`use` is called again.
        """
        adapter_id = self.without_probe(adapter_id)
        if adapter_id != BASE:
            self.read(adapter_id)
            self.wrap(self._settings[adapter_id])
            self.use(adapter_id)
        else:
            self.wrap(settings)
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for name, parameter in self._lora_parameters():
                    if ".lora_B." in name:
                        parameter.zero_()
                    else:
                        bound = parameter.shape[1] ** -0.5
                        parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
        self.current = "training"
        parameters = self._lora_parameters()
        for _, parameter in parameters:
            parameter.requires_grad_(True)
        return parameters

    @contextmanager
    def unfused(self) -> Iterator[None]:
        """Temporarily run peft's own layers and torch's own products, for measurements and checks."""
        from cotune.model.layers.peft_lora import FusedLinear

        with without(self._model, FusedLinear), plain_products(self._model):
            yield

    def weights(self) -> dict[str, Tensor]:
        """A copy of the active weights, under peft's names."""
        from peft import get_peft_model_state_dict

        state: Mapping[str, Tensor] = get_peft_model_state_dict(self._peft, save_embedding_layers=False)
        return {name: value.detach().float().cpu().clone().contiguous() for name, value in sorted(state.items())}

    def save(self, weights: Mapping[str, Tensor], parent: Path) -> str:
        """Write trained weights as a peft folder, named by its content, under ``parent``; returns the adapter id."""
        from safetensors.torch import save

        config = self._peft.peft_config["default"].to_dict()
        config = {name: sorted(v) if isinstance(v, set) else v for name, v in config.items()}
        config |= {"base_model_name_or_path": None, "inference_mode": True}
        config = json.loads(json.dumps(config, default=str))

        data = save(dict(weights), metadata={"format": "pt"})
        adapter_id = content_id(config, data)
        folder = parent / adapter_id
        with atomic_path(folder / WEIGHTS) as temporary:
            temporary.write_bytes(data)
        write_json(folder / CONFIG, config)
        self._folders[adapter_id], self._settings[adapter_id] = folder, read_settings(folder)
        return adapter_id

    def folder(self, adapter_id: str) -> Path:
        return self._folders[adapter_id]

    def _lora_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, p) for name, p in self._peft.named_parameters() if ".lora_" in name]


def _linear_names(model: Any, settings: LoraSettings) -> str:
    """The target modules for peft: names if layers are chosen, since peft does not combine ``all-linear`` with layer numbers.

    Full names, as other programs' adapters may list them, are reduced to the layer's kind; otherwise peft would ignore the
    layer numbers.
    """
    if not settings.layers:
        return settings.target
    if settings.target != "all-linear":
        names = settings.target.split(",")
        return ",".join(sorted({name.rpartition(".")[2] if layer_number(name) is not None else name for name in names}))
    names_of_layers = {name.rpartition(".")[2] for name in linear_names(model) if layer_number(name) in settings.layers}
    return ",".join(sorted(names_of_layers))


def linear_names(model: Any) -> list[str]:
    """Full names of the layers that peft counts as linear: GPT-2's are ``Conv1D``, with a transposed weight."""
    from transformers.pytorch_utils import Conv1D

    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)]


def _peft_config(settings: LoraSettings, task: str | None) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=alpha_of(settings.alpha),
        lora_dropout=0.0,
        target_modules=settings.target if settings.target == "all-linear" else settings.target.split(","),
        layers_to_transform=list(settings.layers) or None,
        task_type=task,
    )

"""A minimal Llama without transformers: what the shared-prefix engine calls, with the same operations in the same order.

Importing transformers' models takes longer than the rest of a command up to its first answer. The model here is small, since
the engine has its own attention, norms and gates. It is used only if a first load has shown that its results are bitwise
identical to those of transformers (:mod:`cotune.model.loading.minimal_check`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from cotune.files import load_json
from cotune.model.engine.attention import ATTENTION_NAME, shared_prefix_attention


@dataclass
class LightConfig:
    """The values of a Llama's ``config.json`` that passes depend on, under the same names."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool
    _attn_implementation: str = ATTENTION_NAME

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> LightConfig:
        """Create it from a ``config.json``.

        Raises:
            ValueError: if it is not a Llama's, or has an unsupported feature.
            KeyError: if a value is missing, for which transformers may have a default.
        """
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        plain = (
            config["model_type"] == "llama"
            and config["hidden_act"] == "silu"
            and not (config.get("attention_bias") or config.get("mlp_bias") or config.get("quantization_config"))
            and rope.get("rope_type", "default") == "default"
        )
        if not plain:
            raise ValueError("this is not a plain Llama")
        values = {
            **config,
            "head_dim": config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
            "rope_theta": rope["rope_theta"] if "rope_theta" in rope else config["rope_theta"],
        }
        return cls(**{field.name: values[field.name] for field in fields(cls) if not field.name.startswith("_")})

    def get_text_config(self) -> LightConfig:
        return self


class LightLlama(nn.Module):
    """A minimal Llama. Its modules are named like the tensors in model files.

    Args:
        stops: id or ids of the tokens that end an answer.
        tensors: tensors by name, in the wanted dtype; they are not copied.

    Raises:
        KeyError: a tensor is missing.
        ValueError: a tensor is unknown or has another shape.
    """

    def __init__(self, config: LightConfig, stops: Any, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        parts = _Parts(tensors)
        self.config = config
        self.generation_config = SimpleNamespace(eos_token_id=stops)
        self.model = _Decoder(config, parts)
        if config.tie_word_embeddings:
            self.lm_head = _linear(cast(nn.Parameter, self.model.embed_tokens.weight))
        else:
            self.lm_head = _linear(parts.take("lm_head.weight", config.vocab_size, config.hidden_size))
        parts.check_end()
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    def get_decoder(self) -> nn.Module:
        return self.model

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_attn_implementation(self, name: str) -> None:
        """Choose the shared-prefix attention or plain causal attention."""
        self.config._attn_implementation = name


class _Parts:
    """Tensors of a model's files; all of them must be used."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._left = dict(tensors)

    def take(self, name: str, *shape: int) -> nn.Parameter:
        tensor = self._left.pop(name)
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)} instead of {shape}")
        return nn.Parameter(tensor, requires_grad=False)

    def check_end(self) -> None:
        if self._left:
            raise ValueError(f"the model has no {next(iter(self._left))}")


def _linear(weight: nn.Parameter) -> nn.Linear:
    # Set the weight afterwards, since initializing it at random would take longer than loading it.
    made = nn.Linear(1, 1, bias=False)
    made.weight = weight
    made.out_features, made.in_features = weight.shape
    return made


class _Decoder(nn.Module):
    def __init__(self, config: LightConfig, parts: _Parts) -> None:
        super().__init__()
        self.config = config
        embeddings = parts.take("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
        self.embed_tokens: nn.Embedding = nn.Embedding.from_pretrained(embeddings)  # type: ignore[no-untyped-call]
        numbers = range(config.num_hidden_layers)
        self.layers = nn.ModuleList([_Layer(config, parts, f"model.layers.{number}.", number) for number in numbers])
        self.norm = _RMSNorm(config, parts, "model.norm.weight")
        steps = torch.arange(0, config.head_dim, 2, dtype=torch.float)
        self.frequencies: Tensor
        self.register_buffer("frequencies", 1.0 / (config.rope_theta ** (steps / config.head_dim)), persistent=False)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        *,
        use_cache: bool = False,
        output_hidden_states: bool = False,
    ) -> SimpleNamespace:
        """States of ``[1, tokens]``; ``hidden_states`` holds those before each layer, then those after the final norm."""
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        states = self.embed_tokens(input_ids)
        angles = position_ids[..., None].float() * self.frequencies
        angles = torch.cat((angles, angles), dim=-1)
        turn = angles.cos().to(states.dtype).unsqueeze(1), angles.sin().to(states.dtype).unsqueeze(1)
        seen = []
        for layer in self.layers:
            if output_hidden_states:
                seen.append(states.clone())
            states = layer(states, *turn)
        states = self.norm(states)
        return SimpleNamespace(last_hidden_state=states, hidden_states=(*seen, states) if output_hidden_states else None)


class _Layer(nn.Module):
    def __init__(self, config: LightConfig, parts: _Parts, place: str, number: int) -> None:
        super().__init__()
        self.input_layernorm = _RMSNorm(config, parts, f"{place}input_layernorm.weight")
        self.self_attn = _Attention(config, parts, f"{place}self_attn.", number)
        self.post_attention_layernorm = _RMSNorm(config, parts, f"{place}post_attention_layernorm.weight")
        self.mlp = _Gated(config, parts, f"{place}mlp.")

    def forward(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Add the layer's outputs to the states in place."""
        states += self.self_attn(self.input_layernorm(states), cos, sin)
        states += self.mlp(self.post_attention_layernorm(states))
        return states


class _Attention(nn.Module):
    def __init__(self, config: LightConfig, parts: _Parts, place: str, number: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = number
        width = config.hidden_size
        own, shared = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = _linear(parts.take(f"{place}q_proj.weight", own, width))
        self.k_proj = _linear(parts.take(f"{place}k_proj.weight", shared, width))
        self.v_proj = _linear(parts.take(f"{place}v_proj.weight", shared, width))
        self.o_proj = _linear(parts.take(f"{place}o_proj.weight", width, own))

    def forward(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shape = (*states.shape[:-1], -1, self.config.head_dim)
        q, k, v = (project(states).view(shape).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj))
        attend = shared_prefix_attention if self.config._attn_implementation == ATTENTION_NAME else _causal
        out, _ = attend(self, _turned(q, cos, sin), _turned(k, cos, sin), v, None, self.config.head_dim**-0.5)
        result: Tensor = self.o_proj(out.reshape(*states.shape[:-1], -1).contiguous())
        return result


class _Gated(nn.Module):
    def __init__(self, config: LightConfig, parts: _Parts, place: str) -> None:
        super().__init__()
        inner, width = config.intermediate_size, config.hidden_size
        self.gate_proj = _linear(parts.take(f"{place}gate_proj.weight", inner, width))
        self.up_proj = _linear(parts.take(f"{place}up_proj.weight", inner, width))
        self.down_proj = _linear(parts.take(f"{place}down_proj.weight", width, inner))
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return out


class _RMSNorm(nn.Module):
    def __init__(self, config: LightConfig, parts: _Parts, name: str) -> None:
        super().__init__()
        self.weight = parts.take(name, config.hidden_size)
        self.variance_epsilon = config.rms_norm_eps

    def forward(self, states: Tensor) -> Tensor:
        wide = states.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(states.dtype)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864); ``cos`` and ``sin`` hold each angle twice."""
    first, second = x.chunk(2, dim=-1)
    sin = sin[..., : first.shape[-1]]
    turned = x * cos
    to_first, to_second = turned.chunk(2, dim=-1)
    to_first -= second * sin
    to_second += first * sin
    return turned


def _causal(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: None, scale: float) -> tuple[Tensor, None]:
    attended = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    return attended.transpose(1, 2), None


def light_llama(folder: Path, tensors: Mapping[str, Tensor]) -> LightLlama:
    """The model of a folder, frozen and in evaluation mode; arguments and errors as of :class:`LightLlama`.

    Raises:
        ValueError, KeyError: if the folder contains no plain Llama.
        OSError: if it cannot be read.
    """
    config = load_json(folder / "config.json")
    generation = folder / "generation_config.json"
    said = load_json(generation) if generation.is_file() else config
    return LightLlama(LightConfig.read(config), said.get("eos_token_id"), tensors)

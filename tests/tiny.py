"""Tiny random models and a small byte-level tokenizer, for tests: every forward pass takes a millisecond or two.

Weights are drawn wide (``initializer_range`` 0.2), so that logits differ between tokens and attention is far from uniform.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

Kind = Literal["llama", "qwen2", "qwen3", "gemma3", "gpt_neox", "gpt2", "gemma2", "gpt_oss", "mamba"]

FITTING: tuple[Kind, ...] = ("llama", "qwen2", "qwen3", "gemma3")
"""Architectures that the shared-prefix engine serves."""

UNFIT: tuple[Kind, ...] = ("gemma2", "gpt_oss", "mamba")
"""Architectures that it must refuse: soft-capped attention scores, attention sinks, no attention at all."""

WINDOW = 6
"""Sliding window of the gemma3 and gemma2 models, in tokens: shorter than any prompt."""

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_SENTENCES = (
    "How tall is the tower and who built it?",
    "Classify the question. Labels: person, place, number, description, other.",
    "Question: What is the capital of the country?\nAnswer: place",
    "Question: Who wrote the book about the river?\nAnswer: person",
    "Question: How many people live in the city?\nAnswer: number",
    "The card was not delivered, and I want my money back.",
    "My account is locked and the code does not arrive. Label: account",
    "card arrival card delivery card payment refund not showing up",
    "Read the message and name its topic with one word.",
    "<|im_start|>user\nsystem assistant user<|im_end|>",
)


@lru_cache(maxsize=2)
def tiny_tokenizer(chat: bool = True) -> Any:
    """Byte-level BPE with about 420 tokens, ``<|im_start|>`` and ``<|im_end|>``; without ``chat`` it has no template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(_SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@lru_cache(maxsize=1)
def merging_tokenizer() -> Any:
    """No chat template and no splitting before the merges: tokens reach across the border of cue and answer."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoders.Replace("▁", " ")
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False)
    cues = [f"Answer: {word}\n" for word in ("place", "person", "number", "place", "person")] * 3
    inner.train_from_iterator([*_SENTENCES[:-1], *cues, "abcdefghijklmnopqrstuvwxyz"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>")


def tiny_config(kind: Kind, **changes: Any) -> Any:
    """The configuration of a tiny model, with grouped key-value heads where the architecture has them."""
    import transformers as t

    common: dict[str, Any] = {
        "vocab_size": 448,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    windowed = {
        "head_dim": 8,
        "num_hidden_layers": 4,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "query_pre_attn_scalar": 8,
    }
    if kind == "llama":
        return t.LlamaConfig(**common | changes)
    if kind == "qwen2":
        return t.Qwen2Config(**common | changes)
    if kind == "qwen3":
        return t.Qwen3Config(**common | {"head_dim": 16, "tie_word_embeddings": True} | changes)
    if kind == "gemma3":
        return t.Gemma3TextConfig(**common | windowed | changes)
    if kind == "gemma2":
        return t.Gemma2Config(**common | windowed | {"attn_logit_softcapping": 0.5} | changes)
    if kind in ("gpt_neox", "gpt2"):
        common.pop("num_key_value_heads")
        if kind == "gpt_neox":
            return t.GPTNeoXConfig(**common | {"rotary_pct": 0.5} | changes)
        common.pop("intermediate_size")
        return t.GPT2Config(**common | changes)
    if kind == "gpt_oss":
        experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8, "sliding_window": 128}
        return t.GptOssConfig(**common | experts | changes)
    shape = {"vocab_size": 448, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2, "initializer_range": 0.2}
    return t.MambaConfig(**shape | {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0} | changes)


def tiny_model(kind: Kind = "llama", *, seed: int = 0, **changes: Any) -> Any:
    """A fresh random causal language model in fp32, in evaluation mode; the same seed gives the same weights."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(kind, **changes))
        if kind == "gpt_oss":
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name.endswith("sinks"):
                        parameter.fill_(2.0)
    return model.eval().requires_grad_(False)


def tiny_local(
    kind: Kind = "llama", *, seed: int = 0, chat: bool = True, cache: Any = None, settings: Any = None, **changes: Any
) -> Any:
    """A tiny model in a ``LocalModel``."""
    from cotune.model.local import LocalModel

    model = tiny_model(kind, seed=seed, **changes)
    return LocalModel(
        model, tiny_tokenizer(chat), fingerprint=f"tiny-{kind}-{seed}", settings=settings, cache=cache, name=f"tiny {kind}"
    )


def save_tiny(folder: Path, kind: Kind = "llama", *, seed: int = 0, chat: bool = True, **changes: Any) -> Path:
    """Write a tiny model and its tokenizer as a model folder."""
    tiny_model(kind, seed=seed, **changes).save_pretrained(folder)
    tiny_tokenizer(chat).save_pretrained(folder)
    return folder


def widen_lora(parameters: list[tuple[str, torch.nn.Parameter]], seed: int = 0) -> None:
    """Draw both LoRA factors at random: with the usual zero start half of the gradient would vanish."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)

"""Checks that the minimal model and tokenizer of a folder give bitwise the same results as transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotune.model.engine.plan import Tree, plan_pass
from cotune.model.engine.runner import PackedRunner
from cotune.model.layers.fused_layers import make_lean
from cotune.model.layers.packed_weights import plain_products
from cotune.model.loading.minimal_llama import LightLlama, light_llama
from cotune.model.loading.minimal_tokenizer import LightTokenizer

_TEXTS = (
    "",
    "a",
    "How tall is K2?",
    " two  spaces\n\ttab",
    "Zürich 東京 👍",
    "<|im_end|>",
    "</s>",
    "It's 1,000.50 – or \u00a0not?",
)
_TURNS = (
    ("system", "Be brief."),
    ("user", "Who?"),
    ("assistant", "person"),
    ("user", "How <b>tall</b>?\n"),
)
_ERRORS = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError)


def is_light(model: Any, tokenizer: Any, folder: Path, tensors: dict[str, Tensor]) -> bool:
    """Whether the minimal model and tokenizer of a folder can replace those of transformers, which were loaded from it.

    The model is supported by the shared-prefix engine and has faster layers installed; the files' tensors have its dtype.
    """
    from jinja2 import TemplateError

    try:
        return _same_tokenizer(tokenizer, LightTokenizer(folder)) and _same_model(
            model, light_llama(folder, tensors).to(model.device)
        )
    except (*_ERRORS, TemplateError):
        return False


def _same_model(model: Any, light: LightLlama) -> bool:
    make_lean(light)
    stops = getattr(model.generation_config, "eos_token_id", None)
    limit = model.config.get_text_config().max_position_embeddings
    if stops != light.generation_config.eos_token_id or limit != light.config.max_position_embeddings:
        return False
    # The minimal model need not be prepacked here, since equal weights are prepacked in the same way.
    with torch.inference_mode(), plain_products(model):
        own = dict(model.named_parameters(remove_duplicate=False))
        for name, parameter in light.named_parameters(remove_duplicate=False):
            if not torch.equal(own.pop(name), parameter):
                return False
        return not own and all(torch.equal(a, b) for a, b in zip(_passes(model), _passes(light), strict=True))


def _passes(model: Any) -> list[Tensor]:
    """Results of passes over random tokens at distant positions: a prefix, rows with trees, and states of every layer."""
    runner = PackedRunner(model)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, runner.vocabulary, (200,), generator=generator).tolist()
    prefix = runner.prefix(ids[:70])
    suffixes, tree = [ids[70:75], ids[75:110], ids[110:121]], Tree(tuple(ids[121:124]), (-1, 0, -1))
    plan = plan_pass(suffixes, prefix=prefix.length, trees=[tree] * 3, device=runner.device)
    states, keys = runner.hidden(plan, prefix, collect=True)
    layers = len(prefix.layers)
    results = [runner.hidden(plan, prefix, read=plan.last)[0]]
    results += [states, runner.logits(states[plan.last]), runner.states(plan, prefix, [None, *range(layers + 1)])]
    plan.positions += model.config.get_text_config().max_position_embeddings - int(plan.positions.max()) - 1
    results.append(runner.hidden(plan, prefix)[0])
    for pairs in (prefix.layers, keys):
        results += [part for _, pair in sorted(pairs.items()) for part in pair]
    return results


def _same_tokenizer(whole: Any, light: LightTokenizer) -> bool:
    if len(whole) != len(light) or _content(whole.backend_tokenizer) != _content(light.inner):
        return False
    return all(a == b for a, b in zip(_answers(whole), _answers(light), strict=True))


def _content(tokenizer: Any) -> dict[str, Any]:
    """The behaviour of a tokenizer on single texts, without truncation and padding."""
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    content |= {"truncation": None, "padding": None}
    after = content.pop("post_processor") or {}
    if after.get("type") != "TemplateProcessing" or after["single"] != [{"Sequence": {"id": "A", "type_id": 0}}]:
        content |= {"post_processor": after} if after else {}
    return content


def _answers(tokenizer: Any) -> list[Any]:
    """A tokenizer's results for every call of a renderer."""
    answers: list[Any] = [tokenizer.chat_template, tokenizer.eos_token_id]
    added = tokenizer.added_tokens_decoder
    answers.append([(number, str(token.content), token.special) for number, token in sorted(added.items())])
    answers += [tokenizer.convert_tokens_to_ids(token.content) for token in added.values()]
    for special in (True, False):
        answers.append(tokenizer(list(_TEXTS), add_special_tokens=special)["input_ids"])
    for ids in answers[-1]:
        answers += [tokenizer.decode(ids, skip_special_tokens=s, clean_up_tokenization_spaces=False) for s in (True, False)]
    one = tokenizer(_TEXTS[-1], add_special_tokens=False, return_offsets_mapping=True)
    answers.append([list(one["input_ids"]), list(map(tuple, one["offset_mapping"]))])
    if tokenizer.chat_template:
        messages = [{"role": role, "content": content} for role, content in _TURNS]
        for part in (messages, messages[1:], messages[1:2], messages[1:3], messages[3:]):
            for asked in (True, False):
                answers.append(tokenizer.apply_chat_template(part, tokenize=False, add_generation_prompt=asked))
    return answers

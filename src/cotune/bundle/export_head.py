"""A bundle's classification head outside of cotune: whoever only generates answers by words, whoever reads states has it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from cotune.bundle.manifest import Manifest
from cotune.bundle.predictor import Predictor
from cotune.errors import InputError
from cotune.evaluate.decision import rule_of_words
from cotune.model.local import LocalModel
from cotune.probe.readout import ABOUT, PROBE, Probe

EMBEDDING_PORT = 8081
"""Where llama.cpp's server is told to serve states, beside the one that generates."""


def in_words(predictor: Predictor, manifest: Manifest) -> tuple[Predictor, Manifest, Probe | None]:
    """The bundle as it answers by its labels' words, with the decision rule that goes with these.

    Returns:
        Predictor, manifest, and the head that is left out; the same two and None where the bundle has none.

    Raises:
        InputError: what the head says of the words is no decision rule.
    """
    model = predictor.scorer
    head = model.adapters.probe(predictor.adapter_id) if isinstance(model, LocalModel) else None
    if head is None or not isinstance(model, LocalModel):
        return predictor, manifest, None
    decision = rule_of_words(head.words)
    if decision.bias and len(decision.bias) != len(manifest.labels):
        raise InputError("the decision rule for words is not of these labels", where=manifest.task)
    other = copy.copy(predictor)
    other.adapter_id, other.decision = model.adapters.without_probe(predictor.adapter_id), decision
    return other, replace(manifest, adapter_id=other.adapter_id, decision=decision), head


def told_of(head: Probe) -> str:
    """What a page says of it, where it says how answers come about."""
    score = head.words.get("score")
    reached = f", which reached {score:.3f} on dev" if isinstance(score, float) else ""
    return (
        f"In cotune a classification head chooses among the labels (`{PROBE}`): a row of weights for each label, times the "
        "model's state after its last layer and norm, at the last token of the text above. A program that only generates has "
        f"no place for it: there the labels' words answer{reached}. Where a program tells states, the head answers as in "
        "cotune; see below."
    )


def batch_of(tokens: int) -> str:
    """Options with which llama.cpp's server takes a text of so many tokens in one piece, as a pooled state needs."""
    return f"-c {tokens} -b {tokens} -ub {tokens} -np 1"


def read_states(model: Sequence[str], ids: Sequence[str], imports: Sequence[str]) -> list[str]:
    """Python that answers by the head with transformers.

    Args:
        model: lines that make ``tokenizer`` and ``model``.
        ids: lines that make ``ids`` of ``prompt_text``.
        imports: further ones.
    """
    return [
        "import json",
        "",
        "import torch",
        *imports,
        "from safetensors import safe_open",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        *_read("pt"),
        *model,
        *ids,
        "with torch.no_grad():",
        "    state = model(**ids, output_hidden_states=True).hidden_states[-1][0, -1].float()",
        "print(labels[int((weight @ state + bias).argmax())])",
    ]


def ask_for_states() -> list[str]:
    """Python that answers by the head with llama.cpp's server."""
    return [
        "import json",
        "from urllib.request import Request, urlopen",
        "",
        "import numpy",
        "from safetensors import safe_open",
        "",
        *_read("numpy"),
        'asked = json.dumps({"content": prompt_text, "embd_normalize": -1}).encode()',
        f'request = Request("http://127.0.0.1:{EMBEDDING_PORT}/embedding", asked, {{"Content-Type": "application/json"}})',
        "with urlopen(request) as told:",
        '    (state,) = json.load(told)[0]["embedding"]',
        "print(labels[int((weight @ numpy.array(state) + bias).argmax())])",
    ]


def _read(framework: str) -> list[str]:
    return [
        'with open("FOLDER/example.json", encoding="utf-8") as file:',
        '    prompt_text = json.load(file)["prompt_text"]',
        f'with safe_open("FOLDER/{PROBE}", "{framework}") as head:',
        f'    labels = json.loads(head.metadata()["{ABOUT}"])["labels"]',
        '    weight, bias = head.get_tensor("weight"), head.get_tensor("bias")',
    ]

"""The README of an exported bundle: what it is and how other programs run it."""

from __future__ import annotations

from collections.abc import Sequence

from cotune.bundle.card import base_model_name
from cotune.bundle.export.gguf import MODELFILE, GgufExport
from cotune.bundle.export.request import OLLAMA, REQUEST, SCHEMA, Asking, vllm_rank
from cotune.bundle.manifest import Manifest
from cotune.bundle.snippets import code_block, model_lines, prompt_lines, python_block
from cotune.errors import counted


def export_card(
    manifest: Manifest, to: str, asking: Asking, *, words: Sequence[str] = (), rank: int = 0, gguf: GgufExport | None = None
) -> str:
    """The README in Markdown, for bundles with label words or generated answers.

    Args:
        to: ``peft``, ``merged``, ``gguf`` or ``gguf-merged``.
        words: label words, if answers are labels.
        rank: rank of the adapter; 0 if there is none.
        gguf: the writer of the GGUF files, for those two forms.
    """
    if gguf is not None:
        launch = _gguf(gguf, merged=to == "gguf-merged")
    else:
        launch = _merged(asking) if to == "merged" else _peft(asking, rank)
    parts = [
        f"# {manifest.task}, exported",
        f"From the cotune bundle `{manifest.id}`: {', '.join(manifest.input_fields)} in, "
        f"{_out(manifest)} out. "
        f"The base model is {base_model_name(manifest)}, with exactly the weights that the adapter was tuned on.",
        *asking.shown(),
        f"Generate greedily until the stop token, {counted(asking.tokens, 'token')} at most"
        + (f"; the answer is one of: {_named(manifest, words)}." if words else "."),
        "## How cotune and other programs answer",
        _rule(manifest, asking),
        "## Run it",
        *launch,
    ]
    return "\n\n".join(parts) + "\n"


def _out(manifest: Manifest) -> str:
    return (
        f"one of {len(manifest.labels)} labels" if manifest.written is None else f"an answer of the type {manifest.output.type}"
    )


def _named(manifest: Manifest, words: Sequence[str]) -> str:
    pairs = zip(manifest.labels, words, strict=True)
    return ", ".join(f"`{label}`" if label == word else f"`{word}` (which means `{label}`)" for label, word in pairs)


def _rule(manifest: Manifest, asking: Asking) -> str:
    if manifest.written is not None:
        if asking.schema is None:
            return "cotune generates greedily too; an answer that has not ended by then is cut."
        told = (
            f"cotune generates greedily too, but only tokens that the schema in `{SCHEMA}` allows, and always ends with a "
            "valid value. "
        )
        if asking.held is None:
            return told + (
                "This model's answers begin with a space, which servers that enforce a schema do not allow: generate without "
                f"the schema, strip the answer, and check it against `{SCHEMA}`."
            )
        return told + (
            "A server that is given the schema enforces it too, but cuts an answer that is too long, which may then be invalid."
        )
    told = (
        "cotune scores every label up to the token that tells it from the others, and takes the likeliest. Greedy generation "
        "takes the likeliest next token instead, which gives the same answer for nearly all rows; restrict generation to the "
        "labels if the server can."
    )
    if manifest.decision.kind != "raw":
        told += (
            " This bundle's decision rule also adds a fixed bias to each label's log-probability (`decision.json`). A program "
            "that only generates omits the bias and gives other answers for some rows. "
            "To apply it, read the labels' log-probabilities and add the bias before choosing."
        )
        told += (
            f" `{REQUEST}` contains it as `logit_bias` on the first token of each label."
            if asking.label_bias
            else " A server's `logit_bias` cannot replace it, since two of these labels begin with the same token."
        )
    return told


def _gguf(gguf: GgufExport, *, merged: bool) -> tuple[str, ...]:
    asking = gguf.asking
    bounds = {"grammar": ", restricted to the labels by a grammar", "json_schema": ", restricted to the schema"}
    held = next((told for key, told in bounds.items() if key in gguf.request()), "")
    return (
        "llama.cpp:",
        code_block("sh", f"llama-server {gguf.options(merged=merged)} --alias {asking.name}"),
        f"`{REQUEST}` is a request for it: the text above{held}, at temperature 0.",
        code_block("sh", f"curl http://127.0.0.1:8080/completion -d @FOLDER/{REQUEST}"),
        "The file also contains the chat template, but the text has it applied already, so send it unchanged to `/completion`, "
        "not to `/v1/chat/completions`.",
        *_ollama(gguf, asking, apart=bool(gguf.adapter_file) and not merged),
    )


def _ollama(gguf: GgufExport, asking: Asking, *, apart: bool) -> tuple[str, ...]:
    if apart:
        return ("Ollama does not support adapters since version 0.34.1: export with `--to gguf-merged` for it.",)
    if asking.held is not None:
        told = "`format` contains the schema"
    elif not asking.words:
        told = "It generates greedily"
    else:
        told = "Ollama supports neither a grammar of labels nor a bias: it only generates greedily"
        told += ", without the decision rule" if asking.bias else ""
    return (
        f"Ollama, with the `{MODELFILE}`:",
        code_block(
            "sh",
            f"ollama create {asking.name} -f FOLDER/{MODELFILE}",
            f"curl http://127.0.0.1:11434/api/generate -d @FOLDER/{OLLAMA}",
        ),
        f"{told}. Both files follow Ollama's documentation; they were not tested with Ollama.",
    )


def _peft(asking: Asking, rank: int) -> tuple[str, ...]:
    return (
        "transformers and PEFT:",
        *_python(asking, *model_lines("AutoModelForCausalLM", '"FOLDER/base"', adapter='"FOLDER/adapter"')),
        "vLLM serves the adapter under a separate name and caches it by that name, which therefore contains the content hash:",
        *_vllm(
            asking, f"FOLDER/base --enable-lora --max-lora-rank {vllm_rank(rank)} --lora-modules {asking.name}=FOLDER/adapter"
        ),
    )


def _merged(asking: Asking) -> tuple[str, ...]:
    return (
        "transformers:",
        *_python(asking, *model_lines("AutoModelForCausalLM", '"FOLDER/model"')),
        "vLLM:",
        *_vllm(asking, f"FOLDER/model --served-model-name {asking.name}"),
        "llama.cpp and Ollama read GGUF: export with `--to gguf`, or convert this folder with llama.cpp's "
        "`convert_hf_to_gguf.py`.",
    )


def _vllm(asking: Asking, served: str) -> tuple[str, ...]:
    told = f"`{REQUEST}` is a request for it: the text above, at temperature 0, with this model's name and stop tokens"
    if asking.words:
        told += '; `structured_outputs` restricts it to the labels (before vLLM 0.12: `"guided_choice": [...]`)'
    if asking.held is not None:
        told += (
            '; `response_format` enforces the schema, like `"structured_outputs": {"json": ...}` (before vLLM 0.12: '
            '`"guided_json": ...`)'
        )
    return (
        code_block(
            "sh",
            f"vllm serve {served}",
            f"curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' -d @FOLDER/{REQUEST}",
        ),
        f"{told}. It follows vLLM's documentation; it was not tested with vLLM.",
    )


def _python(asking: Asking, *model: str) -> tuple[str, ...]:
    """Python code for one answer with transformers; export formats differ in how the model is loaded."""
    code = python_block(
        *prompt_lines(asking.marks),
        *model,
        *asking.ids.lines(),
        f"stop = {list(asking.stop_ids)}",
        "# The model's generation_config.json may set sampling and penalties for chats.",
        'greedy = {"do_sample": False, "repetition_penalty": 1.0}',
        f"written = model.generate(**ids, **greedy, max_new_tokens={asking.tokens}, eos_token_id=stop)",
        'print(tokenizer.decode(written[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))',
    )
    if asking.schema is None:
        return (code,)
    return code, f"transformers does not enforce the schema: check the answer against `{SCHEMA}`."

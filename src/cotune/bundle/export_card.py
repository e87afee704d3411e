"""The page that goes with an exported bundle: what it is and how other programs run it."""

from __future__ import annotations

from collections.abc import Sequence

from cotune.bundle.card import base_model_name, without_prefix
from cotune.bundle.export_gguf import BASE, MERGED, MODELFILE, REQUEST, GgufExport
from cotune.bundle.manifest import Manifest
from cotune.files import slug


def export_card(
    manifest: Manifest,
    to: str,
    prompt_text: str,
    *,
    chat: bool,
    words: Sequence[str] = (),
    stands_for: int | None = None,
    gguf: GgufExport | None = None,
) -> str:
    """Markdown.

    Args:
        manifest: of the bundle.
        to: ``peft``, ``merged``, ``gguf`` or ``gguf-merged``.
        prompt_text: the whole text that the model reads for an example row.
        chat: whether a chat template, with its control tokens, is in that text.
        words: what the model says for each label, where answers are labels.
        stands_for: where the adapter is a trained prefix, how many of the text's first tokens it stands for.
        gguf: who wrote the GGUF files, for those two forms.
    """
    fields = ", ".join(f"THE {name.upper()}" for name in manifest.input_fields)
    parts = [
        f"# {manifest.task}, exported",
        f"From the cotune bundle `{manifest.id}`: {', '.join(manifest.input_fields)} in, "
        f"{_out(manifest)} out. "
        f"The base model is {base_model_name(manifest)}, the very weights that the adapter was tuned on.",
        "## What the model reads",
        f"Replace {fields} and keep every other character" + ("; the chat template is applied already." if chat else "."),
        f"````text\n{prompt_text}\n````",
        "Generate greedily until the stop token" + (f"; the answer is one of: {_told(manifest, words)}." if words else "."),
        "## How it answers here and there",
        _rule(manifest, gguf),
        "## Run it",
        *_launch(manifest, to, chat, stands_for, gguf),
    ]
    return "\n\n".join(parts) + "\n"


def _out(manifest: Manifest) -> str:
    return (
        f"one of {len(manifest.labels)} labels" if manifest.written is None else f"an answer of the type {manifest.output.type}"
    )


def _told(manifest: Manifest, words: Sequence[str]) -> str:
    pairs = zip(manifest.labels, words, strict=True)
    return ", ".join(f"`{label}`" if label == word else f"`{word}` (which means `{label}`)" for label, word in pairs)


def _rule(manifest: Manifest, gguf: GgufExport | None) -> str:
    if manifest.written is not None:
        held = "" if manifest.written.schema is None else ", held to the schema in `manifest.json` of the bundle"
        return f"cotune generates greedily too{held}. A server that bounds answers by a JSON Schema can do the same."
    told = (
        "cotune scores every label, as far as it differs from the others, and takes the likeliest. Greedy generation takes the "
        "likeliest next token instead, which is the same answer for nearly all rows; restrict generation to the labels where "
        "the server can."
    )
    if manifest.decision.kind != "raw":
        told += (
            " This bundle's decision rule also adds a fixed bias to each label's log-probability (`decision.json`): a program "
            "that only generates leaves it out, and answers some rows otherwise. "
            "To have it, read the labels' log-probabilities and add the bias before choosing."
        )
        if gguf is not None:
            told += (
                f" In `{REQUEST}` it stands as `logit_bias`, on the token that each label begins with."
                if gguf.label_bias
                else " llama.cpp's own `logit_bias` cannot stand for it, since two of these labels begin with one token."
            )
    return told


def _launch(manifest: Manifest, to: str, chat: bool, stands_for: int | None, gguf: GgufExport | None) -> tuple[str, ...]:
    name = f"{slug(manifest.task)}-{manifest.adapter_id}"
    if gguf is not None:
        return _gguf(gguf, merged=to == "gguf-merged")
    if to == "merged":
        return _merged(chat)
    return _peft(chat, name) if stands_for is None else _prefix(chat, stands_for)


def _gguf(gguf: GgufExport, *, merged: bool) -> tuple[str, ...]:
    lora = f" --lora FOLDER/{gguf.adapter_file}" if gguf.adapter_file and not merged else ""
    bounds = {"grammar": ", held to the labels by a grammar", "json_schema": ", held to the schema"}
    held = next((told for key, told in bounds.items() if key in gguf.request("")), "")
    return (
        "llama.cpp:",
        _code("sh", f"llama-server -m FOLDER/{MERGED if merged else BASE}{lora} --alias {gguf.name}"),
        f"`{REQUEST}` is a request for it: the text above{held}, at temperature 0.",
        _code("sh", f"curl http://127.0.0.1:8080/completion -d @FOLDER/{REQUEST}"),
        "The chat template is in the file too, but the text has it applied already, so it goes to `/completion` as it is, not "
        "to `/v1/chat/completions`.",
        f"Ollama, by the `{MODELFILE}`:",
        _code(
            "sh",
            f"ollama create {gguf.name} -f FOLDER/{MODELFILE}",
            "curl http://127.0.0.1:11434/api/generate \\",
            f"""  -d '{{"model": "{gguf.name}", "prompt": "THE TEXT ABOVE", "raw": true, "stream": false}}'""",
        ),
        "Ollama takes neither a grammar nor a bias: it only generates greedily"
        + (", so the decision rule is left out there." if gguf.manifest.decision.bias else "."),
    )


def _peft(chat: bool, name: str) -> tuple[str, ...]:
    return (
        "transformers and PEFT:",
        _python(
            chat,
            "base",
            "from peft import PeftModel",
            'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("FOLDER/base"), "FOLDER/adapter")',
        ),
        "vLLM, which serves the adapter under a name of its own, and keeps it by that name, so the content's hash is in it:",
        _code("sh", f"vllm serve FOLDER/base --enable-lora --max-lora-rank 64 --lora-modules {name}=FOLDER/adapter"),
        f"Send the text above to `/v1/completions` with the model `{name}` and temperature 0.",
    )


def _prefix(chat: bool, stands_for: int) -> tuple[str, ...]:
    return (
        f"transformers and PEFT. {without_prefix(stands_for)} Servers that hold several adapters mostly take LoRA alone.",
        _python(
            chat,
            "base",
            "from peft import PeftModel",
            'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("FOLDER/base"), "FOLDER/adapter")',
            skip=stands_for,
        ),
    )


def _merged(chat: bool) -> tuple[str, ...]:
    return (
        "transformers:",
        _python(chat, "model", "", 'model = AutoModelForCausalLM.from_pretrained("FOLDER/model")'),
        "vLLM:",
        _code("sh", "vllm serve FOLDER/model"),
        "Send the text above to `/v1/completions` with temperature 0. llama.cpp and Ollama read GGUF: export with "
        "`--to gguf`, or convert this folder with llama.cpp's own `convert_hf_to_gguf.py`.",
    )


def _python(chat: bool, folder: str, more_import: str, model: str, skip: int = 0) -> str:
    """One answer with transformers; how the model is made is what differs."""
    return _code(
        "python",
        *([more_import] if more_import else []),
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("FOLDER/{folder}")',
        model,
        f'ids = tokenizer(prompt_text, add_special_tokens={not chat}, return_tensors="pt")',
        *([f"ids = {{name: part[:, {skip}:] for name, part in ids.items()}}"] if skip else []),
        "print(tokenizer.decode(model.generate(**ids, max_new_tokens=16)[0, ids['input_ids'].shape[1]:]))",
    )


def _code(language: str, *lines: str) -> str:
    return f"```{language}\n" + "\n".join(lines) + "\n```"

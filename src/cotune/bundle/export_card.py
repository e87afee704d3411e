"""The page that goes with an exported bundle: what it is and how other programs run it."""

from __future__ import annotations

from cotune.bundle.card import base_model_name, without_prefix
from cotune.bundle.manifest import Manifest


def export_card(manifest: Manifest, to: str, prompt_text: str, *, chat: bool, stands_for: int | None = None) -> str:
    """Markdown.

    Args:
        manifest: of the bundle.
        to: ``peft`` or ``merged``.
        prompt_text: the whole text that the model reads for an example row.
        chat: whether a chat template, with its control tokens, is in that text.
        stands_for: where the adapter is a trained prefix, how many of the text's first tokens it stands for.
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
        "Generate greedily until the stop token"
        + (
            "." if manifest.written else "; the answer is one of: " + ", ".join(f"`{label}`" for label in manifest.labels) + "."
        ),
        "## How it answers here and there",
        _rule(manifest),
        "## Run it",
        *(_merged(chat) if to != "peft" else _peft(chat) if stands_for is None else _prefix(chat, stands_for)),
    ]
    return "\n\n".join(parts) + "\n"


def _out(manifest: Manifest) -> str:
    return (
        f"one of {len(manifest.labels)} labels" if manifest.written is None else f"an answer of the type {manifest.output.type}"
    )


def _rule(manifest: Manifest) -> str:
    if manifest.written is not None:
        held = "" if manifest.written.schema is None else ", held to the schema in `manifest.json` of the bundle"
        return f"cotune generates greedily too{held}. A server that bounds answers by a JSON Schema can do the same."
    told = (
        "cotune scores every label in full and takes the likeliest. Greedy generation takes the likeliest next token instead, "
        "which is the same answer for nearly all rows; restrict generation to the labels where the server can."
    )
    if manifest.decision.kind != "raw":
        told += (
            " This bundle's decision rule also adds a fixed bias to each label's log-probability (`decision.json`): a program "
            "that only generates leaves it out, and answers some rows otherwise. "
            "To have it, read the labels' log-probabilities and add the bias before choosing."
        )
    return told


def _peft(chat: bool) -> tuple[str, ...]:
    return (
        "transformers and PEFT:",
        _python(
            chat,
            "base",
            "from peft import PeftModel",
            'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("FOLDER/base"), "FOLDER/adapter")',
        ),
        "vLLM, which serves the adapter under a name of its own:",
        _code("sh", "vllm serve FOLDER/base --enable-lora --max-lora-rank 64 --lora-modules tuned=FOLDER/adapter"),
        "Send the text above to `/v1/completions` with the model `tuned` and temperature 0.",
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
        "llama.cpp and Ollama read GGUF; llama.cpp's own converter makes it from this folder:",
        _code("sh", "python convert_hf_to_gguf.py FOLDER/model --outfile tuned.gguf", "llama-server -m tuned.gguf"),
        "Send the text above to `/v1/completions` (llama.cpp: `/completion`) with temperature 0.",
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

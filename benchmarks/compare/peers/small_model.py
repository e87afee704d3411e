"""The small language model in plain transformers, for the peers that share it with cotune."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from contract import Job, batches

BATCH = 16


def load(job: Job) -> tuple[Any, Any]:
    """Tokenizer and model in float32, which is what transformers computes fastest in on a CPU without special units."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    tokenizer = load_tokenizer(job, padding_side="left")
    return tokenizer, AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32).eval()


def load_tokenizer(job: Job, **settings: Any) -> Any:
    """The model's tokenizer; where it names no token to pad with, it pads with the end token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.model, **settings)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def classification_question(text: str, labels: Sequence[str]) -> str:
    """What is asked about a text; the labels are named where there are any."""
    asked = f"Classify the text as one of: {', '.join(map(words, labels))}." if labels else "Classify the text."
    return f"{asked}\n\nText: {text}"


def json_question(text: str, schema: dict[str, Any]) -> str:
    """What is asked about a text whose fields are to be written as JSON."""
    return f"Write what the text says as JSON with the fields {', '.join(fields_of(schema))}.\n\nText: {text}"


def fields_of(schema: dict[str, Any], above: str = "") -> list[str]:
    """Names of a schema's fields, inner ones behind those that hold them."""
    found = []
    for name, inner in schema.get("properties", {}).items():
        deeper = fields_of(inner, f"{above}{name}.")
        found += deeper or [f"{above}{name}"]
    return found


def words(label: str) -> str:
    """A label as words."""
    return label.replace("_", " ")


def prompt_ids(tokenizer: Any, question: str) -> list[int]:
    """Token ids of a question in the model's chat template, up to where its answer begins."""
    text = tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def label_shares(tokenizer: Any, model: Any, questions: Sequence[str], labels: Sequence[str]) -> list[list[float]]:
    """``[questions, labels]`` probabilities of the labels' words and the end behind them, one adding up to a row.

    A question is run once; the labels then share its keys and values.
    """
    import torch

    ends = [[*tokenizer(words(label), add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for label in labels]
    width = max(map(len, ends))
    fed = torch.tensor([[*end, *[tokenizer.pad_token_id] * (width - len(end))] for end in ends])
    counted = torch.tensor([[1.0] * len(end) + [0.0] * (width - len(end)) for end in ends])
    found = []
    with torch.inference_mode():
        for question in questions:
            start = model(input_ids=torch.tensor([prompt_ids(tokenizer, question)]), use_cache=True, logits_to_keep=1)
            cache = start.past_key_values
            cache.batch_repeat_interleave(len(labels))
            after = model(input_ids=fed[:, :-1], past_key_values=cache, use_cache=True).logits
            logits = torch.cat([start.logits[:, -1:].expand(len(labels), -1, -1), after], dim=1)
            told = torch.log_softmax(logits.double(), dim=-1).gather(2, fed[:, :, None])[:, :, 0]
            found.append(torch.softmax((told * counted).sum(dim=1), dim=0).tolist())
    return found


def generated(tokenizer: Any, model: Any, questions: Sequence[str], most_tokens: int, processors: Any = None) -> list[str]:
    """Greedy answers, in batches of questions of like length.

    Args:
        tokenizer: of the model.
        model: who answers.
        questions: what is asked.
        most_tokens: of an answer.
        processors: makes the logits processors of a batch, given its padded prompts' width; None where any text will do.
    """
    import torch

    answers = [""] * len(questions)
    with torch.inference_mode():
        for part, ids, mask in padded_batches(tokenizer, questions):
            width = ids.shape[1]
            made = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=most_tokens,
                do_sample=False,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                logits_processor=None if processors is None else processors(width, len(part)),
            )
            for i, text in zip(part, tokenizer.batch_decode(made[:, width:], skip_special_tokens=True), strict=True):
                answers[i] = text.strip()
    return answers


def padded_batches(tokenizer: Any, questions: Sequence[str]) -> Iterator[tuple[list[int], Any, Any]]:
    """Questions of like length at a time: their places, and their prompts' ids and mask, padded on the left."""
    import torch

    prompts = [prompt_ids(tokenizer, question) for question in questions]
    for part in batches([len(prompt) for prompt in prompts], BATCH):
        width = max(len(prompts[i]) for i in part)
        ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(prompts[i])) + prompts[i] for i in part])
        mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in part])
        yield part, ids, mask

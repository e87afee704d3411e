"""What benchmarks run on: rows of labelled data, prompts whose shared prefix has a wanted length, made training rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from cotune.errors import InputError
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import RenderedRow, shared_prefix
from cotune.prompt.words import label_words
from cotune.tune.batches import TrainingRow

Row = dict[str, str]

_TEXT = (
    "Read the text below with care and decide which of the groups it belongs to . Look at what is asked for and not at "
    "single words , for the same word can stand in many texts . If two groups seem right , choose the one that fits better . "
    "Do not explain the choice and do not add anything to it . Spelling and case do not matter here . Answer with the name of "
    "one group and nothing else , even where the text is short or odd ."
)
_SMALL = (" so", " a", ".", "!", "a", "b")


@dataclass(frozen=True)
class ScoringWork:
    """Rows to score under a prompt.

    Attributes:
        prompt: how it is asked.
        rows: the inputs.
        labels: what to choose from.
        prefix: tokens that all rows' prompts share.
    """

    prompt: Prompt
    rows: list[Row]
    labels: tuple[str, ...]
    prefix: int

    def rendered(self, local: LocalModel, places: Sequence[int] | None = None) -> list[RenderedRow]:
        """Token ids of all rows, or of those at ``places``."""
        rows = self.rows if places is None else [self.rows[place] for place in places]
        return local.renderer.render(self.prompt, rows, self.labels)


@dataclass(frozen=True)
class TuningWork:
    """A batch to train on: rows that share ``prefix`` prompt tokens and run ``own`` tokens each of their own, on average."""

    rows: list[TrainingRow]
    prefix: int
    own: float


def read_rows(folder: Path, limit: int, seed: int = 0) -> tuple[list[Row], tuple[str, ...]]:
    """A seeded draw of inputs from ``train.jsonl`` and the labels of ``labels.json``.

    Raises:
        InputError: a file is missing or is not what it should be.
    """
    try:
        names = json.loads((folder / "labels.json").read_text(encoding="utf-8"))["labels"]
        lines = (folder / "train.jsonl").read_text(encoding="utf-8").split("\n")
        inputs = [json.loads(line)["input"] for line in lines if line.strip()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"the benchmark's data cannot be read ({error})",
            where=str(folder),
            hint='It takes train.jsonl with a key "input" in each line, and labels.json with a list "labels".',
        ) from error
    order = np.random.default_rng(seed).permutation(len(inputs))[:limit]
    return [{"input": inputs[i]} for i in order], tuple(names)


def scoring_work(
    local: LocalModel, rows: list[Row], labels: tuple[str, ...], prefix: int, *, one_token: bool = False
) -> ScoringWork:
    """A task whose prompts share exactly ``prefix`` tokens, or as nearly as the tokenizer lets them.

    Args:
        local: whose renderer is used.
        rows: the inputs.
        labels: what to choose from.
        prefix: the wanted number of shared tokens.
        one_token: say a letter for each label where some label is more than one token.

    Raises:
        InputError: the chat template alone is longer than ``prefix``, or even letters are more than one token.
    """
    prompt = Prompt(instruction="Name the group", cue="Label:", label_words=label_words(labels, "human"))
    if one_token and not _all_one_token(local, prompt, rows, labels):
        letters = tuple((label, chr(ord("A") + i)) for i, label in enumerate(labels))
        prompt = prompt.edit(label_words=letters)
        if not _all_one_token(local, prompt, rows, labels):
            raise InputError("the tokenizer has no tokens for single letters", where="model")
    prompt = _grown(local, prompt, rows, labels, prefix)
    return ScoringWork(prompt, rows, labels, _prefix(local, prompt, rows, labels))


def _grown(local: LocalModel, prompt: Prompt, rows: list[Row], labels: tuple[str, ...], wanted: int) -> Prompt:
    length = _prefix(local, prompt, rows, labels)
    if length > wanted:
        raise InputError(f"the shortest prompt shares {length} tokens, more than {wanted}", where="model")
    words, count = tuple(islice(cycle(_TEXT.split()), 4 * wanted)), 0
    base = prompt.instruction
    step = max(1, wanted // 8)
    # Ever fewer words at once, then single characters.
    while step:
        longer = prompt.edit(instruction=" ".join([base, *words[: count + step]]))
        if _prefix(local, longer, rows, labels) <= wanted:
            count += step
        else:
            step //= 2
    grown = prompt.edit(instruction=" ".join([base, *words[:count]]))
    length = _prefix(local, grown, rows, labels)
    tried = 0
    while length < wanted and tried < len(_SMALL):
        longer = grown.edit(instruction=grown.instruction + _SMALL[tried])
        found = _prefix(local, longer, rows, labels)
        if length < found <= wanted:
            grown, length, tried = longer, found, 0
        else:
            tried += 1
    return grown


def _prefix(local: LocalModel, prompt: Prompt, rows: list[Row], labels: tuple[str, ...]) -> int:
    return shared_prefix([row.prompt_ids for row in local.renderer.render(prompt, rows, labels)])


def _all_one_token(local: LocalModel, prompt: Prompt, rows: list[Row], labels: tuple[str, ...]) -> bool:
    rendered = local.renderer.render(prompt, rows[:1], labels)
    return all(len(completion) == 2 for completion in rendered[0].completions)


def middle_of_strides(lengths: Sequence[int], count: int) -> list[int]:
    """``count`` places spread evenly over the sorted lengths, so that their mean is near the mean of all."""
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    count = min(count, len(order))
    return [order[int((i + 0.5) * len(order) / count)] for i in range(count)]


def tuning_work(vocabulary: int, prefix: int, own: int, rows: int = 16, seed: int = 0) -> TuningWork:
    """Random tokens of these numbers: own lengths differ by up to six around ``own``; an answer is one token and a stop.

    What is said has no influence on the time, only how long it is. Own tokens are those that run for a row alone: the rest of
    its prompt and the first token of its answer; the stop is predicted and never fed.
    """
    draw = np.random.default_rng(seed)
    spread = np.round(np.linspace(-6, 6, rows)).astype(int)
    head = tuple(draw.integers(8, vocabulary, prefix).tolist())
    made = []
    for i, offset in enumerate(draw.permutation(spread)):
        # The first own token tells the rows apart, so that they share the prefix and nothing more.
        suffix = (8 + i, *draw.integers(8, vocabulary, own + int(offset) - 2).tolist())
        made.append(TrainingRow((*head, *suffix), (8 + i % 6, 2)))
    mean = float(np.mean([len(row.prompt_ids) - prefix + 1 for row in made]))
    return TuningWork(made, prefix, mean)

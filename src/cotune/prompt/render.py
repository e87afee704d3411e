"""The one renderer from prompts and rows to token ids, used by tuning, evaluation, prediction and serving."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from typing import Any

from cotune.errors import InputError
from cotune.prompt.abridge import Abridger
from cotune.prompt.messages import Chooser, Turns, settled, turns_of
from cotune.prompt.prompt import FIELD_NAME, Prompt
from cotune.prompt.reads import Read, Words, words_in_copy
from cotune.prompt.truncate import PromptTooLongError, Spans, Truncation, shorten
from cotune.task.words import text_of, words_of

# Private-use characters: no chat template or data set gives them a meaning.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
_MARK = re.compile(rf"{_OPEN}({FIELD_NAME}){_CLOSE}")
_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_DATE = date(2024, 7, 26)
"""The day that chat templates print as today's: the one that Llama's templates take where none is given."""
_RARE = "\U0010ffff é 的 a"
UNLIKE = ("a", "Z", "7", "#", "é", "\n", " x", "的")
"""Texts that begin with different kinds of characters: tokens that a prompt shares with all of them belong to the prompt."""


@dataclass(frozen=True)
class RenderedRow:
    """One row, ready for the model.

    Attributes:
        prompt_ids: everything before the answer.
        completions: for each label, in order, the answer's ids including the stop token; for free text the reference answer, or
            nothing.
        truncated: whether the row's text had to be shortened.
        looked_up: tokens that were run to choose this row's demonstrations.
        start: position of the first of ``prompt_ids`` that depends on the row's fields; those before are the same for all rows.
        words: the tokens of each word, and of all words, if a probe reads words.
    """

    prompt_ids: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    truncated: bool
    looked_up: int = 0
    start: int = 0
    words: Words = ()

    @property
    def read(self) -> Read:
        """What a probe reads: the words, or the whole row."""
        return self.words or self.start


class Renderer:
    """Turns prompts and rows into token ids with one tokenizer.

    Args:
        tokenizer: a fast Hugging Face tokenizer. Its chat template is used if it has one, otherwise plain text.
        max_tokens: longest prompt in tokens. Longer rows lose a part of their text, never of the prompt; of several input
            fields the longest are shortened to the same length.
        truncate: ``middle`` removes the middle of a text that is too long and shows "…" instead; ``end`` removes its end.

    Attributes:
        chooser: chooses nearest demonstrations; without one, prompts that need them are refused.

    Raises:
        InputError: the tokenizer has no end token, the prompt alone is longer than ``max_tokens``, or it is empty.
    """

    def __init__(self, tokenizer: Any, *, max_tokens: int = 1024, truncate: Truncation = "middle") -> None:
        self.tokenizer = tokenizer
        self.chooser: Chooser | None = None
        self.max_tokens = max_tokens
        self._abridger = Abridger(tokenizer, max_tokens)
        template = getattr(tokenizer, "chat_template", None)
        self.chat = bool(template)
        self._settled = _settled(template) if isinstance(template, str) else {}
        self._special = sorted(
            (t.content for t in tokenizer.added_tokens_decoder.values() if t.special and len(t.content) > 1),
            key=len,
            reverse=True,
        )
        self._special_pattern = re.compile("|".join(map(re.escape, self._special))) if self._special else None
        self._skeleton = lru_cache(maxsize=256)(self._build_skeleton)
        self._label_tails = lru_cache(maxsize=1024)(self._complete)
        self._start = lru_cache(maxsize=256)(self._find_start)
        # A tokenizer that leaves out unknown characters gives wrong places for all tokens behind them.
        places = self._spans(_RARE)
        self.truncate: Truncation = truncate if places and places[-1][1] == len(_RARE) else "end"
        self.stop_id = self._find_stop()

    def text(self, prompt: Prompt, fields: Mapping[str, str], labels: Sequence[str]) -> str:
        """The whole text the model reads before it answers."""
        if prompt.nearest:
            prompt = settled(prompt, [fields], self.chooser)[0][0]
        skeleton = self._skeleton(prompt, tuple(fields), tuple(labels))
        return self._fill(skeleton, {name: self.harmless(value) for name, value in fields.items()})

    def render(self, prompt: Prompt, rows: Sequence[Mapping[str, str]], labels: Sequence[str]) -> list[RenderedRow]:
        """Token ids of many rows under one prompt.

        The whole text is tokenized at once, never in parts. A completion is what follows the longest common ids of the prompt
        and all prompt-and-answer texts, which also works for a tokenizer that merges across the border.

        Raises:
            CotuneError: the prompt has nearest demonstrations, and there is no :attr:`chooser`.
        """
        if not rows:
            return []
        if prompt.nearest:
            own_prompts = settled(prompt, rows, self.chooser)
            return [
                replace(self.render(own, [row], labels)[0], looked_up=tokens)
                for row, (own, tokens) in zip(rows, own_prompts, strict=True)
            ]
        skeleton = self._skeleton(prompt, tuple(rows[0]), tuple(labels))
        answers = tuple(self._answer_text(skeleton, self.harmless(word)) for word in prompt.words(labels))
        tail = self._barrier(skeleton)
        rendered = []
        for row, row_ids, truncated in self._fitted(skeleton, rows):
            context = tail if tail is not None else self._fill(skeleton, row)
            cut, completions = self._label_tails(context, answers)
            if len(row_ids) <= cut:
                raise InputError(
                    "the prompt has no text before the answer in some row",
                    where="prompt",
                    hint="Give the prompt an instruction or a cue.",
                )
            kept = tuple(row_ids[: len(row_ids) - cut])
            start = min(self._start(skeleton), len(kept) - 1)
            rendered.append(RenderedRow(kept, completions, truncated, start=start))
        return rendered

    def render_twice(self, prompt: Prompt, rows: Sequence[Mapping[str, str]], labels: Sequence[str]) -> list[RenderedRow]:
        """Token ids like :meth:`render`, and behind the prompt each row's text again, whose words are read.

        In the copy, the state of each word depends on the whole text instead of the part before it (echo embeddings, arXiv
        2402.15449). Words whose tokens are cut, because the text is longer than ``max_tokens``, read the whole copy.
        """
        if not rows:
            return []
        lead, rendered = self.lead(prompt, tuple(rows[0])), self.render(prompt, rows, labels)
        texts = [text_of(fields) for fields in rows]
        return [self._with_copy(row, lead, text) for row, text in zip(rendered, texts, strict=True)]

    def _with_copy(self, row: RenderedRow, lead: str, text: str) -> RenderedRow:
        shown, before = self.harmless(text), len(row.prompt_ids)
        # Read only as much of a very long text as is needed.
        encoded = self.tokenizer(lead + self._abridger.abridged(shown), add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = (encoded[name][: self.max_tokens] for name in ("input_ids", "offset_mapping"))
        words = words_in_copy(len(words_of(text)), words_of(shown), offsets, lead=len(lead), before=before)
        return replace(row, prompt_ids=(*row.prompt_ids, *ids), words=words)

    def render_answers(
        self, prompt: Prompt, rows: Sequence[Mapping[str, str]], answers: Sequence[str] | None
    ) -> list[RenderedRow]:
        """Token ids of rows with generated answers: one completion per row, or none without ``answers``.

        ``prompt_ids`` do not depend on the answers, so tuning, evaluation and generation use the same ids. If the tokenizer
        would merge across the border, the answer's text is tokenized separately.

        Args:
            prompt: the prompt; ``{labels}`` is replaced by nothing.
            answers: the reference answer of each row; None to render none.

        Raises:
            CotuneError: as for :meth:`render`.
        """
        if not rows:
            return []
        if prompt.nearest:
            references = [None] * len(rows) if answers is None else [[answer] for answer in answers]
            return [
                replace(self.render_answers(own, [row], answer)[0], looked_up=tokens)
                for row, answer, (own, tokens) in zip(rows, references, settled(prompt, rows, self.chooser), strict=True)
            ]
        skeleton = self._skeleton(prompt, tuple(rows[0]), ())
        fitted = self._fitted(skeleton, rows)
        ids = [row_ids for _, row_ids, _ in fitted]
        completions: list[tuple[tuple[int, ...], ...]] = [()] * len(rows)
        if answers is not None:
            texts = [self._answer_text(skeleton, self.harmless(answer)) for answer in answers]
            tail = self._barrier(skeleton)
            if tail is not None:
                alone = self._encode([tail]) * len(rows)
                whole = self._encode([tail + text for text in texts])
            else:
                alone = ids
                whole = self._encode(
                    [self._fill(skeleton, row) + text for (row, _, _), text in zip(fitted, texts, strict=True)]
                )
            for i, (before, both, text) in enumerate(zip(alone, whole, texts, strict=True)):
                own = both[len(before) :] if both[: len(before)] == before else self._bare(text)
                completions[i] = ((*own, self.stop_id),)
        return [RenderedRow(tuple(own), made, cut) for (_, own, cut), made in zip(fitted, completions, strict=True)]

    def shortened(self, prompt: Prompt, row: Mapping[str, str], labels: Sequence[str]) -> dict[str, str] | None:
        """A shortened copy of a row with a very long text, which renders to the same ids without tokenizing that text again.

        None for all other rows, and for prompts with nearest demonstrations.
        """
        if prompt.nearest or max(map(len, row.values())) < self._abridger.least:
            return None
        skeleton = self._skeleton(prompt, tuple(row), tuple(labels))
        values, _, truncated = self._fitted(skeleton, [row])[0]
        again = {name: self.harmless(value) for name, value in values.items()}
        return values if truncated and again == values else None

    def lead(self, prompt: Prompt, fields: Sequence[str]) -> str:
        """The separator between a prompt and every answer: a space, or nothing."""
        return self._answer_text(self._skeleton(prompt.edit(demonstrations=(), nearest=0), tuple(fields), ()), "")

    @property
    def ends(self) -> int:
        """Tokens that the tokenizer adds to the end of a text; prompts do not have them."""
        ids = self.tokenizer("a", add_special_tokens=not self.chat)["input_ids"]
        return len(ids) - len(self._encode(["a"])[0])

    def read(self, ids: Sequence[int], lead: str = "") -> str:
        """The text of an answer's ids, without control tokens and the ``lead``."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.removeprefix(lead)

    # What the model reads -----------------------------------------------------------------------------------------

    def _build_skeleton(self, prompt: Prompt, names: tuple[str, ...], labels: tuple[str, ...]) -> str:
        """The full text with markers in place of the row's fields."""
        marks = {name: f"{_OPEN}{name}{_CLOSE}" for name in names}
        made = turns_of(prompt, marks, labels, self.harmless)
        system, turns = made.system, made.turns
        if self.chat:
            return self._chat_text(system, turns)
        blocks = [system] if system else []
        for body, answer in turns:
            blocks.append(body if answer is None else body + self._answer_text(body, answer))
        text = "\n\n".join(blocks)
        # An answer right after the input would read as its continuation.
        return text if prompt.cue or prompt.order == "input_first" else text + "\n"

    def _chat_text(self, system: str | None, turns: Sequence[tuple[str, str | None]]) -> str:
        from jinja2 import TemplateError

        messages = Turns(system, tuple(turns)).messages
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self._settled
            )
            if system is None or system.strip() in text:
                return text
        except TemplateError:
            if system is None:
                raise
        # Templates without a system role, which refuse or drop it: put its text at the start of the first message.
        (body, answer), *rest = turns
        return self._chat_text(None, [(f"{system}\n\n{body}" if system else body, answer), *rest])

    def _answer_text(self, before: str, word: str) -> str:
        return word if self.chat or before.endswith((" ", "\n")) else f" {word}"

    def _fill(self, skeleton: str, row: Mapping[str, str]) -> str:
        text = _MARK.sub(lambda match: row[match[1]], skeleton)
        pattern = self._special_pattern
        if pattern is None or len(pattern.findall(text)) == len(pattern.findall(skeleton)):
            return text
        # A control token can arise where a field meets its neighbour.
        return _MARK.sub(lambda match: f" {row[match[1]]} ", skeleton)

    def harmless(self, value: str) -> str:
        """Field text without the tokenizer's control tokens and the renderer's own markers."""
        value = value.replace(_OPEN, "").replace(_CLOSE, "")
        if self._special_pattern is None:
            return value
        return self._special_pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", value)

    # Ids ----------------------------------------------------------------------------------------------------------

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=not self.chat)["input_ids"]
        end = self.tokenizer.eos_token_id
        return [x[:-1] if not self.chat and len(x) > 1 and x[-1] == end else x for x in ids]

    def _bare(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _barrier(self, skeleton: str) -> str | None:
        """The constant text from the last control token on; text before it cannot change its tokens."""
        last = max((skeleton.rfind(token) for token in self._special), default=-1)
        return None if last < 0 or _MARK.search(skeleton, last) else skeleton[last:]

    def _complete(self, context: str, answers: tuple[str, ...]) -> tuple[int, tuple[tuple[int, ...], ...]]:
        """Number of ids of ``context`` that already belong to the answers, and each answer's ids with the stop token."""
        alone, *whole = self._encode([context, *(context + answer for answer in answers)])
        common = min(common_length(alone, ids) for ids in whole)
        return len(alone) - common, tuple((*ids[common:], self.stop_id) for ids in whole)

    def _find_start(self, skeleton: str) -> int:
        """Number of ids that all rows of a prompt share at the beginning."""
        texts = [_MARK.sub(lambda _, text=text: text, skeleton) for text in UNLIKE]  # type: ignore[misc]
        return len(common_start(self._encode(texts)))

    def _fitted(self, skeleton: str, rows: Sequence[Mapping[str, str]]) -> list[tuple[dict[str, str], list[int], bool]]:
        """For each row the shown fields, the prompt's ids, and whether it was shortened."""
        values = [{name: self.harmless(value) for name, value in row.items()} for row in rows]
        # Read only as much of a very long text as is needed to find the cut.
        abridged = [{name: self._abridger.abridged(value) for name, value in row.items()} for row in values]
        ids = self._encode([self._fill(skeleton, row) for row in abridged])
        fitted = []
        for row, seen, row_ids in zip(values, abridged, ids, strict=True):
            shown, shown_ids = self._truncate(skeleton, row, seen, row_ids)
            fitted.append((shown, shown_ids, shown != row))
        return fitted

    def _truncate(
        self, skeleton: str, values: dict[str, str], abridged: dict[str, str], ids: list[int]
    ) -> tuple[dict[str, str], list[int]]:
        """The row and its ids, shortened if it is too long.

        Args:
            skeleton: full text of the prompt with markers.
            abridged: the same fields, with very long ones abridged.
            ids: token ids of ``abridged``.
        """
        shown = Counter(_MARK.findall(skeleton))
        if len(ids) <= self.max_tokens and any(abridged[name] != values[name] for name in shown):
            # What was left out might have fitted.
            abridged, ids = values, self._encode([self._fill(skeleton, values)])[0]
        if len(ids) <= self.max_tokens:
            return values, ids
        try:
            cut, ids = shorten(
                abridged,
                shown,
                self.max_tokens,
                self.truncate,
                lambda texts: self._encode([self._fill(skeleton, texts)])[0],
                self._spans,
            )
        except PromptTooLongError as error:
            raise InputError(
                f"the prompt alone is {error.tokens} tokens long and the limit is {self.max_tokens}",
                where="engine.max_tokens",
                hint="Shorten the prompt or raise the limit.",
            ) from error
        return values | {name: cut[name] for name in shown}, ids

    def _spans(self, text: str) -> Spans:
        found: Spans = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return found

    def _find_stop(self) -> int:
        end: int | None = self.tokenizer.eos_token_id
        if self.chat:
            mark = f"{_OPEN}answer{_CLOSE}"
            text: str = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}], tokenize=False, **self._settled
            )
            after = text[text.rfind(mark) + len(mark) :]
            match = self._special_pattern.search(after) if self._special_pattern else None
            if match:
                return int(self.tokenizer.convert_tokens_to_ids(match[0]))
        if end is None:
            raise InputError("the model's tokenizer has no end-of-text token", hint="Set eos_token in tokenizer_config.json.")
        return end


def _settled(template: str) -> dict[str, Any]:
    """Further arguments under which a chat template gives the same ids on every day, and asks for an answer without thinking.

    Empty for most templates.
    """
    # In the template's own text, since transformers passes no functions on to templates.
    dated = _TODAY.sub(lambda match: f"{match[1]}{_DATE.strftime(match[2])}{match[1]}", template)
    thinking = {"enable_thinking": False} if "enable_thinking" in template else {}
    return thinking if dated == template else {"chat_template": dated, **thinking}


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning of two sequences."""
    for place, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return place
    return min(len(left), len(right))


def common_start(sequences: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The leading tokens that all sequences have in common."""
    first, *others = sequences
    return tuple(first[: min((common_length(first, other) for other in others), default=len(first))])


def shared_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Length of the longest common prefix of token id sequences, at most one short of the shortest.

    Every row keeps at least one token of its own, because its logits are needed.
    """
    if not rows:
        return 0
    ordered = sorted(map(tuple, rows))
    low, high = ordered[0], ordered[-1]
    return min(common_length(low, high), min(map(len, rows)) - 1)

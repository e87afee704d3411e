"""Label probabilities from an endpoint's answer: by its first tokens' log-probabilities, or by matching its text."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cotune.files import decode_json

Alternatives = Sequence[tuple[str, float]]
"""Alternative tokens at one position of an answer, the chosen one first, each with its log-probability."""

FLOOR = 1e-6
"""Minimum share of a label that the server does not name, before renormalising: 13.8 nats below 1."""
_LEAST_SUPPORT = 0.01
"""Probability of all tokens that support a label below which the answer is about something else: its text decides then."""
NAMED = 0.9
"""Probability of the named label if the server returns no probabilities; the other labels share the rest."""

_OPENING = " \t\r\n\"'`*_([{<“‘«-•:>#"
_THINKING = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL | re.IGNORECASE)


def label_log_probs(
    positions: Sequence[Alternatives], words: Sequence[str], named: int | None = None
) -> NDArray[np.float64] | None:
    """``[labels]`` log-probabilities among the labels, from a server's alternatives for an answer's first tokens.

    A token supports every label word that begins with the text so far. If there is one such word, it gets the token's
    probability. If there are several, the next position decides between them if the answer continues with this token; otherwise
    they share the probability equally, unless the whole text names one of them. A word without support gets an equal part of
    the probability that the alternatives leave, at most that of the last alternative and of the least supported label, and
    otherwise at least :data:`FLOOR`. The result is renormalised over the labels.

    Args:
        positions: positions of the answer, at least the first.
        words: label words; two may have a common beginning, but none may be equal.
        named: the label that the answer's whole text names, see :func:`match_label`; it decides where the positions end while
            several labels are possible.

    Returns:
        None if the alternatives support no label, or hardly any.
    """
    read = _reader(words)
    shares = _walk(positions, 0, "", [read(word) for word in words], range(len(words)), read, named)
    if shares is None:
        return None
    found = np.array([shares[i] for i in range(len(words))])
    result: NDArray[np.float64] = np.log(found / found.sum())
    return result


def named_log_probs(label: int | None, labels: int) -> NDArray[np.float64]:
    """``[labels]`` log-probabilities that rank the named label first, without knowing its probability; uniform if None."""
    if label is None:
        return np.full(labels, -math.log(labels))
    result = np.full(labels, math.log((1 - NAMED) / max(1, labels - 1)))
    result[label] = math.log(NAMED)
    return result


def spoken(text: str) -> str:
    """An answer without the text between ``<think>`` marks."""
    return _THINKING.sub(" ", text).strip()


def match_label(text: str, words: Sequence[str], *, cut: bool = False) -> int | None:
    """The label that an answer's text names; None if it names none, or several and none at its start.

    Case and punctuation are ignored, unless labels differ in these alone, as ``-1`` and ``1`` do. The answer must be a label
    word or a JSON object with one as its value, begin with a label word, or contain exactly one as whole words (a word inside a
    longer label that is also there does not count).

    Args:
        text: text of the answer; anything between ``<think>`` marks is ignored.
        cut: whether the answer was cut at its end; a label word there may be the beginning of a longer one.
    """
    text = spoken(text)
    inner = _json_text(text)
    fold = _folding(words)
    split = _words if len({*map(_words, map(fold, words))} - {()}) == len(words) else partial(_words, pattern=r"\w+|[^\w\s]")
    targets = [split(fold(word)) for word in words]
    if cut and _may_go_on(fold(text), [fold(word) for word in words]):
        return None
    for found in (text, inner) if inner is not None else (text,):
        said = split(fold(found))
        whole = [i for i, target in enumerate(targets) if said == target]
        if len(whole) == 1:
            return whole[0]
        first = [i for i, target in enumerate(targets) if target and said[: len(target)] == target]
        if first:
            return max(first, key=lambda i: len(targets[i]))
        standing = [i for i, target in enumerate(targets) if target and _stands(target, said, targets)]
        if len(standing) == 1:
            return standing[0]
    return None


def _may_go_on(said: str, words: Sequence[str]) -> bool:
    """Whether an answer ends with a label word that is the beginning of a longer one."""
    ends = [word for word in words if word and re.search(rf"(?<!\w){re.escape(word)}$", said)]
    return any(len(other) > len(word) and other.startswith(word) for word in ends for other in words)


def _walk(
    positions: Sequence[Alternatives],
    place: int,
    said: str,
    targets: Sequence[str],
    left: Sequence[int],
    read: Callable[[str], str],
    named: int | None,
) -> dict[int, float] | None:
    """Shares of the labels ``left`` given the text so far; None if this position supports hardly any of them."""
    shares = dict.fromkeys(left, 0.0)
    shown, last, support = 0.0, 1.0, 0.0
    for number, (token, log_prob) in enumerate(positions[place]):
        probability = math.exp(min(0.0, log_prob))
        shown, last = shown + probability, min(last, probability)
        so_far = said + token
        meant = _meant(so_far, token, targets, left, read)
        chosen, more = number == 0, place + 1 < len(positions)
        deeper = None
        if chosen and more and (len(meant) > 1 or not read(so_far)):
            deeper = _walk(positions, place + 1, so_far, targets, meant or left, read, named)
        elif not read(so_far):
            # A blank that was not chosen says nothing about the text after it.
            continue
        if deeper is None:
            meant = [named] if chosen and named in meant else meant
            deeper = {i: 1.0 / len(meant) for i in meant}
        support += probability if deeper else 0.0
        for i, share in deeper.items():
            shares[i] += probability * share
    if support < _LEAST_SUPPORT:
        return None
    missing = [i for i in left if shares[i] <= 0.0]
    if missing:
        each = max(min(last, max(0.0, 1.0 - shown) / len(missing)), FLOOR)
        shares |= dict.fromkeys(missing, min(each, *(share for share in shares.values() if share > 0.0)))
    total = sum(shares.values())
    return {i: share / total for i, share in shares.items()}


def _meant(so_far: str, token: str, targets: Sequence[str], left: Sequence[int], read: Callable[[str], str]) -> list[int]:
    """Labels that an answer may still name, given its beginning."""
    text = read(so_far)
    if not text:
        return []
    ended = not token or "\n" in token or (token.startswith("<") and token.endswith(">"))
    body = read(so_far[: len(so_far) - len(token)]) if ended else text
    open_ = [] if ended else [i for i in left if targets[i].startswith(text)]
    done = [i for i in left if targets[i] and body.startswith(targets[i]) and not body[len(targets[i]) :][:1].isalnum()]
    # After a label's last letter the answer may be over, or go on to a longer label: "Yes, because" is not "Yes, partly".
    longest = [max(done, key=lambda i: len(targets[i]))] if done else []
    return list(dict.fromkeys((*open_, *longest)))


def _reader(words: Sequence[str]) -> Callable[[str], str]:
    """A function that removes what may stand before a label and folds the rest, see :func:`_folding`."""
    # A mark that a label begins with, as in -1, >50K or **, is part of it.
    opening = "".join(mark for mark in _OPENING if mark not in {word.strip()[:1] for word in words})
    fold = _folding(words)
    return lambda text: fold(text.lstrip(opening))


def _folding(words: Sequence[str]) -> Callable[[str], str]:
    """Return a function that ignores case and underscores in place of blanks, unless two words differ in these alone."""
    plain = [word.strip() for word in words]
    for fold in (_fold_all, _fold_case):
        if len(set(map(fold, plain))) == len(set(plain)):
            return fold
    return _fold_form


def _fold_form(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _fold_case(text: str) -> str:
    return _fold_form(text).casefold()


def _fold_all(text: str) -> str:
    return _fold_case(text).replace("_", " ")


def _words(text: str, pattern: str = r"\w+") -> tuple[str, ...]:
    return tuple(re.findall(pattern, text.replace("_", " ")))


def _stands(target: tuple[str, ...], said: tuple[str, ...], targets: Sequence[tuple[str, ...]]) -> bool:
    """Whether the words of a label occur together outside of a longer label that also occurs."""
    for start in range(len(said) - len(target) + 1):
        if said[start : start + len(target)] == target and not any(
            len(other) > len(target) and said[at : at + len(other)] == other
            for other in targets
            for at in range(max(0, start + len(target) - len(other)), start + 1)
        ):
            return True
    return False


def _json_text(text: str) -> str | None:
    """The only text value of a JSON object in the answer; None if there is no such object or value."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return None
    try:
        value = decode_json(text[start : end + 1])
    except ValueError:
        return None
    texts = [item for item in value.values() if isinstance(item, str)] if isinstance(value, dict) else []
    return texts[0] if len(texts) == 1 else None

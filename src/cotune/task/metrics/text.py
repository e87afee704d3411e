"""Metrics of free text, from 0 to 1 per row."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from functools import lru_cache
from typing import Any

from cotune.errors import InputError

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WORD = re.compile(r"\w+")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised_text(text: str) -> str:
    """The text without case, punctuation, English articles and runs of white space, as SQuAD compares answers.

    Source: the evaluation script of SQuAD (arXiv 1606.05250); Unicode is also normalised (NFKC).
    """
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", folded).split())


def normalised_match(reference: str, answer: str) -> float:
    """1 if the texts are equal after normalisation; see :func:`normalised_text`."""
    return float(normalised_text(reference) == normalised_text(answer))


def token_f1(reference: str, answer: str) -> float:
    """F1 of the words of both texts after :func:`normalised_text`; 1 for two texts without words.

    Source: the evaluation script of SQuAD (arXiv 1606.05250).
    """
    right, answered = normalised_text(reference).split(), normalised_text(answer).split()
    if not right or not answered:
        return float(right == answered)
    common = sum((Counter(right) & Counter(answered)).values())
    return 2 * common / (len(right) + len(answered))


def rouge_l(reference: str, answer: str) -> float:
    """F1 of the longest common subsequence of words, by the library ``rouge-score``; letters of any script make words.

    Raises:
        InputError: the library is not installed.

    Source: Lin, ROUGE (2004).
    """
    right, answered = _words(reference), _words(answer)
    if not right or not answered:
        return float(right == answered)
    return float(_scorer().score(reference, answer)["rougeL"].fmeasure)


class _Words:
    """Words as the library's own tokenizer splits them, but for all scripts instead of a to z only."""

    def tokenize(self, text: str) -> list[str]:
        return _words(text)


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


@lru_cache(maxsize=1)
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise InputError(
            "the metric rouge_l needs the package rouge-score",
            where="metric",
            hint="Install it: pip install 'cotune[rouge]'.",
        ) from error
    return RougeScorer(["rougeL"], tokenizer=_Words())

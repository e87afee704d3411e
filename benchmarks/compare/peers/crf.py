"""Conditional random field of word features (sklearn-crfsuite), for JSON whose values stand in the text.

A part of the answer whose values mostly stand in the text is tagged, word by word; any other is chosen from the values of the
labelled rows by TF-IDF with logistic regression. Lists of objects are not handled.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from contract import Answers, Job, Row, Trained, serve
from logistic import GRID, fit_chosen

# Features and penalties of its tutorial: https://sklearn-crfsuite.readthedocs.io/en/latest/tutorial.html
SETTINGS = {"algorithm": "lbfgs", "c1": 0.1, "c2": 0.1, "max_iterations": 100, "all_possible_transitions": True}
TOLD = {**SETTINGS, "page": "sklearn-crfsuite, tutorial"}
_WORD = re.compile(r"\w+|[^\w\s]")
_MOSTLY = 0.75
"""Share of a part's values that stand in the text from which it is tagged."""
_ABSENT = "absent"

Path = tuple[str, ...]


def values_of(answer: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Single values with their paths; the items of a list have the same path."""
    if isinstance(answer, Mapping):
        for name, inner in answer.items():
            yield from values_of(inner, (*path, name))
    elif isinstance(answer, list):
        for inner in answer:
            yield from values_of(inner, path)
    else:
        yield path, answer


def words_of(text: str) -> list[tuple[int, int]]:
    """Start and end of each word."""
    return [match.span() for match in _WORD.finditer(text)]


def features(words: Sequence[str], at: int) -> dict[str, Any]:
    """Features of a word and of its neighbours."""
    word = words[at]
    found = {"bias": 1.0, "lower": word.lower(), "-3": word[-3:], "-2": word[-2:], **_shape("", word), "digit": word.isdigit()}
    for name, place in (("before ", at - 1), ("after ", at + 1)):
        if 0 <= place < len(words):
            found |= {f"{name}lower": words[place].lower(), **_shape(name, words[place])}
        else:
            found[f"{name}end"] = True
    return found


def _shape(name: str, word: str) -> dict[str, Any]:
    return {f"{name}title": word.istitle(), f"{name}upper": word.isupper()}


def tags_of(text: str, values: Sequence[tuple[Path, str]], names: Mapping[Path, str]) -> tuple[list[str], int]:
    """The tag of each word, and how many values stand in the text; the longest are placed first."""
    spans = words_of(text)
    starts, ends = {start: i for i, (start, _) in enumerate(spans)}, {end: i for i, (_, end) in enumerate(spans)}
    tags, placed = ["O"] * len(spans), 0
    for path, value in sorted(values, key=lambda pair: -len(pair[1])):
        for match in re.finditer(re.escape(value), text):
            first, last = starts.get(match.start()), ends.get(match.end())
            if value and first is not None and last is not None and set(tags[first : last + 1]) == {"O"}:
                tags[first : last + 1] = [f"B {names[path]}", *[f"I {names[path]}"] * (last - first)]
                placed += 1
                break
    return tags, placed


def train(job: Job) -> Trained:
    """Fit the tagger and a classifier for each part that is not tagged."""
    import sklearn_crfsuite
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    answers = [json.loads(output) for output in job.outputs]
    rows = [list(values_of(answer)) for answer in answers]
    paths = list(dict.fromkeys(path for row in rows for path, _ in row))
    kinds = {path: {isinstance(_at(answer, path), list) for answer in answers if _has(answer, path)} for path in paths}
    names = {path: json.dumps(path) for path in paths}
    texts = {
        path: [
            (row.text, [(path, str(value)) for known, value in own if known == path])
            for row, own in zip(job.train, rows, strict=True)
        ]
        for path in paths
    }
    copied = []
    for path in paths:
        count = sum(len(own) for _, own in texts[path])
        if sum(tags_of(text, own, names)[1] for text, own in texts[path]) >= _MOSTLY * count:
            copied.append(path)
    inputs, tags = [], []
    for row, own in zip(job.train, rows, strict=True):
        if spans := words_of(row.text):
            words = [row.text[start:end] for start, end in spans]
            inputs.append([features(words, i) for i in range(len(words))])
            tags.append(tags_of(row.text, [(path, str(value)) for path, value in own if path in copied], names)[0])
    tagger = sklearn_crfsuite.CRF(**SETTINGS).fit(inputs, tags)

    def make(strength: float) -> Any:
        return make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=strength, max_iter=1000)
        )

    chosen: dict[Path, Any] = {}
    for path in (path for path in paths if path not in copied):
        found = [json.dumps(_at(answer, path)) if _has(answer, path) else _ABSENT for answer in answers]
        usual = Counter(found).most_common(1)[0][0]
        chosen[path] = usual if len(set(found)) == 1 else fit_chosen(make, job.texts, found, job.seed)[0]
    textual = {path: not any(isinstance(_at(answer, path), (int, float)) for answer in answers) for path in paths}
    empty: dict[Path, list[Any]] = {
        path: [] for path in paths if True in kinds[path] and all(_has(answer, path) for answer in answers)
    }

    def answer(asked: Sequence[Row]) -> Answers:
        return Answers([json.dumps(_answer(row.text), ensure_ascii=False) for row in asked])

    def _answer(text: str) -> Any:
        found: dict[str, Any] = {}
        for path, value in empty.items():
            _put(found, path, list(value))
        for path, model in chosen.items():
            usual = model if isinstance(model, str) else str(model.predict([text])[0])
            if usual != _ABSENT:
                _put(found, path, json.loads(usual))
        spans = words_of(text)
        words = [text[start:end] for start, end in spans]
        said = tagger.predict([[features(words, i) for i in range(len(words))]])[0] if words else []
        copies: dict[str, list[list[int]]] = {}
        for i, tag in enumerate(said):
            kind, name = (tag[0], tag[2:]) if tag != "O" else ("O", "")
            if kind == "B":
                copies.setdefault(name, []).append([i, i])
            elif kind == "I" and name in copies and copies[name][-1][1] == i - 1:
                copies[name][-1][1] = i
        for path in copied:
            own = [text[spans[first][0] : spans[last][1]] for first, last in copies.get(names[path], [])]
            values = (
                own if textual[path] else [float(value) if "." in value else int(value) for value in own if _is_number(value)]
            )
            if values:
                _put(found, path, values if kinds[path] == {True} or (len(values) > 1 and True in kinds[path]) else values[0])
        return found

    return Trained(answer, told={**TOLD, "C": list(GRID), "tagged": len(copied), "chosen": len(chosen)})


def _at(answer: Any, path: Path) -> Any:
    for name in path:
        answer = answer.get(name) if isinstance(answer, Mapping) else None
    return answer


def _has(answer: Any, path: Path) -> bool:
    inner = _at(answer, path[:-1]) if path else None
    return isinstance(inner, Mapping) and path[-1] in inner


def _put(answer: dict[str, Any], path: Path, value: Any) -> None:
    for name in path[:-1]:
        answer = answer.setdefault(name, {})
    answer[path[-1]] = value


def _is_number(value: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", value) is not None


if __name__ == "__main__":
    serve(train, ["sklearn-crfsuite", "scikit-learn"])

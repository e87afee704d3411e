"""Embedding a file of texts, and opening an embedder by a model's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from cotune.cache import cache_folder
from cotune.embed.embedder import IdentifiedEmbedder
from cotune.embed.encoder import named_encoder
from cotune.embed.named import named_embedder
from cotune.embed.standardize import Standard, Standardizer, Vectors
from cotune.embed.text import EmbedSettings, Pooling
from cotune.embed.texts import FORMATS, TABLES, read_texts, texts_of_table, write_vectors
from cotune.errors import InputError
from cotune.files import check_ending, check_not_input, check_place, content_hash, read_standard_input, read_text
from cotune.model.engine.score_cache import ScoreCache
from cotune.task.reading.read import read_table

_TEXTS_AT_ONCE = 512
"""Texts between two writings of vectors into the cache; enough for batches of equal length."""

ENOUGH_TO_WHITEN = 300


class CachedEmbedder:
    """An embedder with a cache on disk.

    The key contains everything that could change a vector, see ``identity`` of the embedder. In bfloat16, rounding makes a
    vector depend on the batch as well; the first vector that was computed is stored.

    Args:
        embedder: a :class:`TextEmbedder` or an :class:`cotune.embed.Encoder`.
        path: the database file; created if missing.

    Attributes:
        found: number of texts found in the cache so far.
    """

    def __init__(self, embedder: IdentifiedEmbedder, path: Path) -> None:
        self.embedder, self.found = embedder, 0
        self._cache = ScoreCache(path)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts, ``[texts, width]``; equal texts are embedded once."""
        keys = [content_hash(self.embedder.identity(text), 40) for text in texts]
        known: dict[str, NDArray[np.float32]] = {}
        for key in dict.fromkeys(keys):
            if (entry := self._cache.get(key)) is not None:
                known[key] = entry[0][0].astype(np.float32)
        self.found += len(known)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        left = list(missing.items())
        # Stored part by part, so that an interrupted command loses a few.
        for start in range(0, len(left), _TEXTS_AT_ONCE) if texts else (0,):
            part = left[start : start + _TEXTS_AT_ONCE]
            for (key, _), vector in zip(part, self.embedder.embed([text for _, text in part]), strict=True):
                self._cache.put(key, vector[None].astype(np.float64), 0)
                known[key] = vector
        return np.stack([known[key] for key in keys])


def open_embedder(model: str = "smollm2-135m", settings: EmbedSettings | None = None) -> CachedEmbedder:
    """Open an embedder by its model's name, with vectors cached in the cache folder.

    Args:
        model: the bundled model, a folder or a hub id of a language model; or ``sentence-transformers:FOLDER`` or
            ``model2vec:FOLDER`` for an encoder, which accepts no settings.
        settings: how a language model embeds; None takes the defaults.

    Raises:
        InputError: the model cannot be found, has fewer layers than the settings need, or accepts no settings.
    """
    return CachedEmbedder(named_embedder(model, settings), cache_folder() / "vectors.sqlite")


@dataclass(frozen=True)
class EmbedTask:
    """The validated arguments of ``cotune embed``, read before any model is loaded.

    Attributes:
        settings: how a language model embeds; None for the defaults.
        others: texts that the standardisation is fitted on; None for the texts themselves.
        standard: how vectors are standardised.
        skipped: number of rows without text that were left out.
    """

    out: Path
    model: str
    settings: EmbedSettings | None
    texts: Sequence[str]
    others: Sequence[str] | None
    standard: Standard
    skipped: int = 0

    @classmethod
    def read(
        cls,
        source: Path,
        out: Path,
        *,
        model: str,
        column: str | None,
        settings: Mapping[str, Any],
        standard: str | None = None,
        fit_on: Path | None = None,
        on_blank: str = "error",
    ) -> EmbedTask:
        """Check all arguments and read the texts.

        Args:
            source: file with one text per line, JSON lines, or a table; ``-`` is standard input.
            out: output file: ``.npy``, ``.parquet`` or ``.jsonl``.
            model: as :func:`open_embedder` takes it.
            column: column of a table, or key of a JSON line, that holds the text; None takes ``text``, or a table's only
                column.
            settings: some attributes of :class:`EmbedSettings`; None values take the defaults.
            standard: how vectors are standardised; None chooses by the number of texts.
            fit_on: a file of texts to fit the standardisation on; None fits it on ``source``.
            on_blank: rows with a blank text: an error (``error``), or left out and counted (``skip``).

        Raises:
            InputError: an argument or a text is wrong.
        """
        known = (
            ("--pooling", settings.get("pooling"), get_args(Pooling)),
            ("--standard", standard, get_args(Standard)),
            ("--on-blank", on_blank, ("error", "skip")),
        )
        for name, value, names in known:
            if value is not None and value not in names:
                raise InputError(f"unknown value {value!r}", where=name, hint=f"Use {', '.join(names)}.")
        given = {name: value for name, value in settings.items() if value is not None}
        chosen = EmbedSettings(**given) if given else None
        check_ending(out, FORMATS, "vectors")
        check_not_input(out, source, "vectors")
        if fit_on is not None:
            check_not_input(out, fit_on, "vectors")
        check_place(out)
        texts, skipped = _texts_of(source, column, blank=on_blank == "skip")
        others = None if fit_on is None else _texts_of(fit_on, column, blank=on_blank == "skip")[0]
        encodes = named_encoder(model) is not None
        kind = _standard(standard, others or texts, encodes and others is None, str(fit_on or source))
        return cls(out, model, chosen, texts, others, kind, skipped)

    @property
    def different(self) -> list[str]:
        """All different texts, in order."""
        return list(dict.fromkeys([*self.texts, *(self.others or ())]))

    def write(self, vectors: Vectors, others: Callable[[], Vectors]) -> dict[str, Any]:
        """Standardise and write the vectors; returns facts for a message.

        Args:
            others: computes the vectors of :attr:`others`; called only if they are needed.
        """
        if self.standard != "none":
            vectors = Standardizer.fit(vectors if self.others is None else others(), self.standard).apply(vectors)
        write_vectors(self.out, self.texts, vectors)
        most = None if named_encoder(self.model) is not None else (self.settings or EmbedSettings()).max_chars
        return {
            "out": str(self.out),
            "texts": len(self.texts),
            "blank_rows_skipped": self.skipped,
            "width": int(vectors.shape[1]),
            "from_cache": 0,
            "standard": self.standard,
            "max_chars": most,
            "cut": 0 if most is None else sum(len(text) > most for text in self.texts),
        }


def embed_here(task: EmbedTask) -> dict[str, Any]:
    """Embed a file's texts in this process and write their vectors; returns facts for a message.

    Raises:
        InputError: the model cannot be found or used.
    """
    embedder = open_embedder(task.model, task.settings)
    vectors = embedder.embed(task.texts)
    found = embedder.found
    return {**task.write(vectors, lambda: embedder.embed(task.others or ())), "from_cache": found}


def _texts_of(source: Path, column: str | None, *, blank: bool) -> tuple[list[str], int]:
    """The texts in a file, and the number of rows that were left out because their text is blank."""
    piped = str(source) == "-"
    where = "standard input" if piped else str(source)
    if source.suffix.lower() in TABLES:
        found = texts_of_table(read_table(source), column, blank=blank)
    else:
        content = read_standard_input() if piped else read_text(source, "the file")
        found = read_texts(content, where, column=column or "text", blank=blank)
    texts = [text for text in found if text]
    if not texts:
        raise InputError("every row has a blank text", where=where, hint="Name another column with --column.")
    return texts, len(found) - len(texts)


def _standard(asked: str | None, texts: Sequence[str], as_they_are: bool, where: str) -> Standard:
    """The standardisation to use, depending on the number of texts that it is fitted on."""
    different = len(set(texts))
    if asked is None:
        if as_they_are or different < 2:
            return "none"
        # Fewer texts do not determine the directions in which texts vary.
        return "half_whiten" if different >= ENOUGH_TO_WHITEN else "centre"
    if asked != "none" and different < 2:
        raise InputError(
            "standardising needs at least two different texts",
            where=where,
            hint="Use --standard none, or give a file with more texts: --fit-on FILE.",
        )
    return cast(Standard, asked)

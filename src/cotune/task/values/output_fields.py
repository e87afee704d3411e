"""Fields of an output: its parts that are read off hidden states, closed or copied, and the answers that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cotune.task.values.grouping import Grouping
from cotune.task.values.json_value import json_text


@dataclass(frozen=True, eq=False)
class FieldAnswers:
    """Answers with probabilities.

    Attributes:
        outputs: the answers.
        shares: ``[rows, shown]`` probabilities of what :attr:`AnswerFields.shown` names.
        confidence: ``[rows]`` probability that the whole answer is right; None for answers that can be nearly right.
    """

    outputs: tuple[str, ...]
    shares: NDArray[np.float64]
    confidence: NDArray[np.float64] | None


class AnswerFields(Protocol):
    """Fields with a few values each, by which an answer is read off hidden states instead of being generated.

    Attributes:
        words: whether each word of a row has a state that is read, and then the whole row; False if only the row has one.
    """

    words: ClassVar[bool]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all fields' values, in order."""
        ...

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each field."""
        ...

    def places(self, output: str, text: str) -> NDArray[np.int64] | None:
        """``[states, fields]`` places in :attr:`names` of the values in an output for a row's text, at each state that is read.

        None if the output has another form or value.
        """
        ...

    def answers(self, log_probs: NDArray[np.float64], texts: Sequence[str]) -> tuple[str, ...]:
        """The outputs of rows with these texts, given ``[states, values]`` log-probabilities of :attr:`names`, row by row."""
        ...

    @property
    def shown(self) -> tuple[str, ...]:
        """Names of what has a probability in an answer: values, or parts of which one value is answered."""
        ...

    def judged(self, log_probs: NDArray[np.float64], texts: Sequence[str]) -> FieldAnswers:
        """The outputs of :meth:`answers`, with probabilities."""
        ...


class _Absent:
    def __repr__(self) -> str:
        return "absent"

    def __reduce__(self) -> str:
        # Copies are the same object, by whose identity it is known.
        return "ABSENT"


ABSENT: Final = _Absent()
"""The value of an optional property that an object does not have."""


def text_of(value: Any) -> str:
    """The text of a value, by which equal ones are known."""
    return repr(value) if value is ABSENT else json_text(value)


@dataclass(frozen=True)
class ClosedField:
    """A field with its possible values.

    Attributes:
        path: where it stands in the output, such as ``flags.urgent``, or ``topics[]`` for one item of a list.
        values: the possible values; for an item of a list False and True, whether the list has it.
        item: the item; None for other fields.
        bounds: of an item, how many items its list may have at least and at most; None for other fields.
    """

    path: str
    values: tuple[Any, ...]
    item: Any = None
    bounds: tuple[int, int] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each value that no other field has: ``mood="angry"``, ``topics[]="billing": true``."""
        start = self.path if self.item is None else f"{self.path}={json_text(self.item)}"
        return tuple(f"{start}{':' if self.item is not None else '='}{text_of(value)}" for value in self.values)


Blank = Literal["absent", "null", "empty", "never"]
Spelling = Literal["same", "lower", "upper", "title", "capitalised", "number"]


@dataclass(frozen=True)
class CopiedField:
    """A part of an output that is copied from the row's text.

    Attributes:
        path: where it stands in the output, such as ``slots.city``, ``people[]`` for the items of a list, or ``people[].name``
            for a list of objects.
        type: ``string``, ``integer`` or ``number``.
        blank: what is written if nothing is copied: ``absent`` (no such property), ``null``, ``empty`` (a text or list), or
            ``never`` if something must be copied; a text without a fitting word then gives an empty text or 0. In a list of
            objects with several copied values, this is about one object, which without a fitting word is not answered.
        most: maximum number of values. Of a part that is no list, several are written as a list and one by itself.
        given: names and values of the other properties of a list's objects, such as ``role="guest"``, or :data:`ABSENT`; other
            values are another part.
        spelling: how a text is written, see :mod:`cotune.task.values.spelling`.
        grouping: how the values of a list of objects with several copied ones are grouped; None for all other parts.
    """

    path: str
    type: str
    blank: Blank
    most: int = 1
    given: tuple[tuple[str, Any], ...] = ()
    spelling: Spelling = "same"
    grouping: Grouping | None = None

    def to_json(self) -> dict[str, Any]:
        """For bundles, journals and summaries; without the spelling where texts are copied as they stand.

        A property that objects do not have is its name alone.
        """
        record = asdict(self)
        record["given"] = [[name] if value is ABSENT else [name, value] for name, value in self.given]
        if self.spelling == "same":
            del record["spelling"]
        if self.grouping is None:
            del record["grouping"]
        return record

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CopiedField:
        """Inverse of :meth:`to_json`.

        Raises:
            TypeError, ValueError, AttributeError: it is not of this form.
        """
        given = tuple((name, *(own or [ABSENT])) for name, *own in data.get("given", ()))
        if not all(len(pair) == 2 for pair in given):
            raise ValueError("other properties need a name and a value each")
        grouping = None if data.get("grouping") is None else Grouping.from_json(data["grouping"])
        return cls(**{**data, "given": given, "grouping": grouping})

    @property
    def many(self) -> bool:
        """Whether it is a list, which may have several values."""
        return self.path.endswith("[]")

    @property
    def within(self) -> tuple[str, str]:
        """The path of the list whose objects have it and its name there; two empty texts if it is in no such list."""
        place, mark, name = self.path.rpartition("[].")
        return (place, name) if mark else ("", "")

    @property
    def name(self) -> str:
        """Its path, with the values beside it."""
        beside = ", ".join(f"{name}={text_of(value)}" for name, value in self.given)
        return f"{self.path} with {beside}" if beside else self.path

    def is_of(self, item: Mapping[str, Any]) -> bool:
        """Whether an object of the list has the other properties that are :attr:`given`."""
        return all(text_of(item.get(name, ABSENT)) == text_of(value) for name, value in self.given)

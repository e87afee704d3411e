"""Which parts of a JSON output can be copied from the rows' texts, learnt from labelled rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from cotune.errors import shortened
from cotune.task.values.closed import open_parts
from cotune.task.values.grouping import Empty, Grouping, Spot, marked_words
from cotune.task.values.json_value import json_in
from cotune.task.values.learnt_grouping import LEAST_GROUPED, MOST_ROWS, GroupedRow, learnt_grouping
from cotune.task.values.output_fields import ABSENT, Blank, CopiedField, Spelling
from cotune.task.values.schema import LEAST_TEXT, half_again
from cotune.task.values.spelling import gives, learnt_spelling, usual_spelling
from cotune.task.values.tags import Tags, answer_fields, blanks_of, copied_parts, placed_values, value_at
from cotune.task.words import words_of

LEAST_COPIED, _LEAST_EACH = 0.9, 0.75
"""Minimum share of values that stand in their text, over all parts and of each part. Values that do not are never answered."""
LEAST_OPENED, _LEAST_VALUES = 0.97, 5
"""Minimum share of an enumeration's values that stand in their text, and minimum of its values, from which it is copied."""
_SHOWN = 40


@dataclass
class Standing:
    """How the values of a part that could be copied stand in the rows' texts.

    Attributes:
        usual: how the values are written, if labelled ones do not clearly say otherwise.
        values: number of values. One that several objects share counts for each of them.
        copies: those that stand in their text, if also in another letter case: what stands there, and the value.
        lost: those that do not.
        blanks: what the outputs without a value have instead, with counts.
    """

    usual: Spelling = "same"
    values: int = 0
    copies: list[tuple[str, str]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    blanks: Counter[Blank] = field(default_factory=Counter)

    @cached_property
    def spelling(self) -> Spelling:
        """How values are written."""
        return learnt_spelling(self.copies, self.usual)

    @cached_property
    def _misspelled(self) -> list[tuple[str, str]]:
        return [pair for pair in self.copies if not gives(self.spelling, *pair)]

    @property
    def found(self) -> int:
        """Number of values that can be answered."""
        return self.values - len(self.lost) - len(self._misspelled)

    @property
    def cased(self) -> int:
        """Number of values that stand in their text, but are answered in another letter case."""
        return sum(copy.casefold().split() == value.casefold().split() for copy, value in self._misspelled)

    @property
    def missing(self) -> str:
        """A value that cannot be answered; empty if all can."""
        return next(iter((*self.lost, *(value for _, value in self._misspelled))), "")

    @property
    def enough(self) -> bool:
        """Whether so many values can be answered that the part can be copied."""
        # A single value may be missing wherever there are few.
        return self.found + 1 >= _LEAST_EACH * self.values


def values_in_texts(
    schema: Mapping[str, Any] | None,
    outputs: Sequence[str],
    texts: Sequence[str],
    usual: Mapping[str, Spelling] = MappingProxyType({}),
) -> dict[str, Standing]:
    """How the values of each part that could be copied, by path, stand in the rows' texts.

    ``usual`` are the spellings of parts in an earlier bundle, by path.
    """
    parts = [one for one, _ in copied_parts(schema or {}, "", required=True)]
    standing = {one.path: Standing() for one in parts}
    for output, text in zip(outputs, texts, strict=True):
        value, empty, words = json_in(output), {one.path: one for one in parts}, words_of(text)
        objects: dict[str, bool] = {}
        for number, own, place, _ in placed_values(text, value, parts):
            part = standing[parts[number].path]
            part.values += 1
            empty.pop(parts[number].path, None)
            if place is None:
                part.lost.append(own)
            elif parts[number].type == "string":
                part.copies.append((text[words[place[0]][0] : words[place[1]][1]], own))
        for one in parts:
            if one.grouping is not None:
                # What the objects have instead is counted for each.
                empty.pop(one.path, None)
                standing[one.path].blanks.update(map(_blank_of, blanks_of(value, one)))
        for path, one in empty.items():
            whole = one.within[0] if one.within[1] else path
            outer, there = whole.rpartition(".")[0], value_at(value, whole)
            if outer not in objects:
                objects[outer] = value_at(value, outer) is not ABSENT
            # An absent object lacks no part.
            if there is not ABSENT or objects[outer]:
                standing[path].blanks[_blank_of(there)] += 1
    # Parts with few values, or only such as are written alike in several ways, follow the others.
    common = learnt_spelling([pair for part in standing.values() for pair in part.copies])
    for path, part in standing.items():
        part.usual = usual.get(path) or usual_spelling(part.copies, common)
    return standing


def copied_fields(
    schema: Mapping[str, Any] | None, outputs: Sequence[str], texts: Sequence[str], known: Sequence[CopiedField] = ()
) -> tuple[CopiedField, ...]:
    """The parts of labelled outputs whose values stand in the rows' texts; empty unless all parts that are not closed do.

    ``known`` are those of an earlier bundle, whose spellings remain usual.
    """
    fields = answer_fields(schema, tuple(one for one, _ in copied_parts(schema or {}, "", required=True)))
    if not isinstance(fields, Tags):
        return ()
    standing = values_in_texts(schema, outputs, texts, {one.path: one.spelling for one in known})
    if not _stand(standing) or not all(one.enough for one in standing.values()):
        return ()
    usual = {one.within[0]: one.grouping for one in known if one.grouping is not None}
    groups = _groups(fields.copied, outputs, texts, usual)
    if not all(one.enough for one in groups.values()):
        return ()

    def learnt(one: CopiedField) -> CopiedField:
        part = standing[one.path]
        blanks, spelling = part.blanks.most_common(1), part.spelling if one.type == "string" else "same"
        grouping = groups[one.within[0]].grouping if one.grouping is not None else None
        return replace(one, blank=blanks[0][0] if blanks else one.blank, spelling=spelling, grouping=grouping)

    return tuple(map(learnt, fields.copied))


@dataclass(frozen=True)
class _Grouped:
    """How the values of a list of objects are grouped, if by any rule.

    Attributes:
        grouping: the best grouping.
        rows: number of rows with objects whose values all stand in their text, of those that were looked at.
        right: those whose objects it makes of their values, cross-checked.
    """

    grouping: Grouping
    rows: int
    right: int

    @property
    def enough(self) -> bool:
        """Whether it makes the objects of nearly all rows."""
        return self.right >= LEAST_GROUPED * self.rows


def _groups(
    parts: Sequence[CopiedField], outputs: Sequence[str], texts: Sequence[str], usual: Mapping[str, Grouping]
) -> dict[str, _Grouped]:
    """How the values of each list of objects with several copied ones are grouped, by its path."""
    found: dict[str, _Grouped] = {}
    for path in dict.fromkeys(one.within[0] for one in parts if one.grouping is not None):
        own = [one for one in parts if one.grouping is not None and one.within[0] == path]
        names, default = tuple(dict.fromkeys(one.within[1] for one in own)), own[0].grouping or Grouping()
        lists, blanks = [], Counter[Empty]()
        for output, text in zip(outputs, texts, strict=True):
            value = json_in(output)
            if (listed := value_at(value, path)) and isinstance(listed, list):
                lists.append((value, text, len(listed)))
            else:
                blanks[_blank_of(listed)] += 1
        step = max(1, -(-len(lists) // MOST_ROWS))
        rows = [_grouped_row(parts, path, *one) for one in lists[::step]]
        whole = [row for row in rows if row is not None]
        known = usual.get(path)
        grouping, right = default, 0
        if whole:
            grouping, right = learnt_grouping(tuple(whole), names, known if known is not None and known.fits(names) else None)
        blank = blanks.most_common(1)[0][0] if blanks else default.blank
        found[path] = _Grouped(replace(grouping, blank=blank), len(whole) or len(rows), right)
    return found


def _grouped_row(parts: Sequence[CopiedField], path: str, value: Any, text: str, count: int) -> GroupedRow | None:
    """The values of a list's objects with their places in the text; None if some stand nowhere."""
    found: dict[Spot, tuple[str, set[int]]] = {}
    for part, own, place, owner in placed_values(text, value, parts):
        if owner is not None and owner.path == path:
            if place is None:
                return None
            spot = Spot(*place, parts[part].within[1])
            found.setdefault(spot, (" ".join(own.casefold().split()), set()))[1].add(owner.number)
    spots = sorted(found)
    members = tuple(frozenset(found[spot][1]) for spot in spots)
    return GroupedRow(tuple(spots), tuple(found[spot][0] for spot in spots), members, marked_words(text), count)


def with_copied_values(
    schema: Mapping[str, Any],
    outputs: Sequence[str],
    texts: Sequence[str],
    *,
    least: float = LEAST_OPENED,
    objects: bool = False,
) -> Mapping[str, Any]:
    """An inferred schema whose enumerations are open where nearly all values stand in the rows' texts, such as cities.

    Other values can then be copied too. The same object if there are none.

    Args:
        least: minimum share of values that stand in their text.
        objects: whether those in the objects of lists are opened too.
    """
    found = values_in_texts(_opened(schema, "", None, objects), outputs, texts)
    chosen = {path for path, one in found.items() if one.values and one.found >= least * one.values}
    opened = _opened(schema, "", chosen, objects)
    return schema if opened == schema else opened


def _opened(schema: Mapping[str, Any], path: str, chosen: set[str] | None, objects: bool) -> dict[str, Any]:
    """A schema without the enumerations of several texts or numbers at the ``chosen`` paths; None chooses all."""
    found = dict(schema)
    values, options = schema.get("enum"), schema.get("anyOf")
    if isinstance(values, list) and len(values) >= _LEAST_VALUES:
        if path and (chosen is None or path in chosen):
            del found["enum"]
            if schema.get("type") == "string":
                found["maxLength"] = half_again(values, LEAST_TEXT)
    elif isinstance(options, list):
        # The items of one value or a list of them have the path of the one value.
        single = any(option.get("type") not in ("array", "null") for option in options)
        found["anyOf"] = [
            {**option, "items": _opened(option["items"], path, chosen, objects)}
            if single and "items" in option
            else _opened(option, path, chosen, objects)
            for option in options
        ]
    elif isinstance(schema.get("properties"), Mapping):
        parts = schema["properties"].items()
        found["properties"] = {name: _opened(part, f"{path}.{name}" if path else name, chosen, objects) for name, part in parts}
    elif isinstance(schema.get("items"), Mapping) and (objects or "properties" not in schema["items"]):
        found["items"] = _opened(schema["items"], f"{path}[]", chosen, objects)
    return found


def obstacles(schema: Mapping[str, Any] | None, outputs: Sequence[str], texts: Sequence[str]) -> list[str]:
    """What keeps an output from being read off hidden states, in words: the parts that are neither closed nor copied."""
    standing, found = values_in_texts(schema, outputs, texts), []
    most = _stand(standing)
    groups = _groups([one for one, _ in copied_parts(schema or {}, "", required=True)], outputs, texts, {})
    for path in open_parts(schema):
        name = repr(path) if path else "the output"
        # A list of objects has its values in one of their properties.
        own = {inner: one for inner, one in standing.items() if inner in (path, f"{path}[]") or inner.startswith(f"{path}[].")}
        if not own:
            found.append(f"{name} may have many values, and such a part is never copied")
        for inner, one in own.items():
            name = repr(inner) if path in groups else name
            if not one.enough or (not most and one.found < LEAST_COPIED * one.values):
                share = f"{one.found:,} of {one.values:,} stand in the text as they are written"
                cased = f"; {one.cased:,} in another letter case" if one.cased else ""
                found.append(f"{name} may have many values, of which {share} (not {shortened(one.missing, _SHOWN)!r}{cased})")
        group = groups.get(path)
        if group is not None and not group.enough and all(one.enough for one in own.values()):
            found.append(
                f"no rule groups the values of {repr(path) if path else 'the list'} into the labelled objects: the best is "
                f"right in {group.right:,} of {group.rows:,} rows"
            )
    return found


def _stand(standing: Mapping[str, Standing]) -> bool:
    """Whether there are values, and nearly all of them stand in their texts."""
    values = sum(one.values for one in standing.values())
    return values > 0 and sum(one.found for one in standing.values()) >= LEAST_COPIED * values


def _blank_of(value: Any) -> Empty:
    return "absent" if value is ABSENT else "null" if value is None else "empty"

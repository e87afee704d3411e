"""Letters of different scripts that look the same: Cyrillic and Greek ones beside Latin ones."""

from __future__ import annotations

# Those of Unicode's confusables (UTS 39) that look the same in nearly every font, beside the Latin letters that they look like.
_CYRILLIC = ("аеорсухіјѕһԁԛԝАВЕКМНОРСТУХІЈЅ", "aeopcyxijshdqwABEKMHOPCTYXIJS")
_GREEK = ("ονΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ovABEZHIKMNOPTYX")
_SAME = str.maketrans(_CYRILLIC[0] + _GREEK[0], _CYRILLIC[1] + _GREEK[1])


def looks(text: str) -> str:
    """How a text looks: equal for texts that differ in such letters alone."""
    return text.translate(_SAME)

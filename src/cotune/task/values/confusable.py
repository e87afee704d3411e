"""Texts that look the same because of letters of other scripts (Cyrillic, Greek) or invisible characters."""

from __future__ import annotations

# Unicode's confusables (UTS 39) that look the same in nearly every font, with the Latin letters that they resemble.
_CYRILLIC = ("аеорсухіјѕһԁԛԝАВЕКМНОРСТУХІЈЅ", "aeopcyxijshdqwABEKMHOPCTYXIJS")
_GREEK = ("ονΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ovABEZHIKMNOPTYX")
# Zero-width spaces, soft hyphen, word joiner, direction marks; not the joiners of emoji and scripts, which are visible.
_UNSEEN = "\u00ad\u200b\u200e\u200f\u2060\ufeff"
_SAME = str.maketrans(_CYRILLIC[0] + _GREEK[0], _CYRILLIC[1] + _GREEK[1], _UNSEEN)


def looks(text: str) -> str:
    """A normal form that is equal for texts that differ only in such letters or characters."""
    return text.translate(_SAME)

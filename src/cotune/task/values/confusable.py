"""Texts that look the same: by letters of other scripts (Cyrillic, Greek) or by characters that show nothing."""

from __future__ import annotations

# Those of Unicode's confusables (UTS 39) that look the same in nearly every font, beside the Latin letters that they look like.
_CYRILLIC = ("аеорсухіјѕһԁԛԝАВЕКМНОРСТУХІЈЅ", "aeopcyxijshdqwABEKMHOPCTYXIJS")
_GREEK = ("ονΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ovABEZHIKMNOPTYX")
# Spaces of no width, a soft hyphen, a word joiner, marks of direction. The joiners inside emoji and scripts do show.
_UNSEEN = "\u00ad\u200b\u200e\u200f\u2060\ufeff"
_SAME = str.maketrans(_CYRILLIC[0] + _GREEK[0], _CYRILLIC[1] + _GREEK[1], _UNSEEN)


def looks(text: str) -> str:
    """How a text looks: equal for texts that differ in such letters or characters alone."""
    return text.translate(_SAME)

"""HOW GOOD, honestly: decision rules, intervals, paired tests, racing, attribution of gains."""

from __future__ import annotations

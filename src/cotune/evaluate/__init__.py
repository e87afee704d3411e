"""Evaluation: decision rules, intervals, paired tests, races, attribution of gains."""

from __future__ import annotations

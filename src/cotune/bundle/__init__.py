"""WHAT is shipped: saving, loading and using prompt + adapter + decision rule as one folder."""

from __future__ import annotations

"""``python -m cotune``: the command line."""

from __future__ import annotations

import runpy

runpy.run_module("cotune.cli", run_name="__main__", alter_sys=True)

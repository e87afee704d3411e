"""``python -m cotune.cli``."""

from __future__ import annotations

from cotune.cli.entry import main

main()

"""``python -m cotune.cli``."""

from __future__ import annotations

from cotune.cli.entry import main

try:
    main()
finally:
    # Python remembers an interrupt during the execution of a string, as dataclasses do on import, even if it was handled.
    # After `python -m` it would then end by SIGINT instead of with the exit code. Executing another string resets that.
    exec("pass")

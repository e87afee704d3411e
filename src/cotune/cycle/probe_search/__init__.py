"""The search for label tasks on a local model: races prompts by probes on hidden states, then tunes a window of layers.

``loop`` holds the whole search. Its steps are ``first_race`` (which ``limit`` cuts on slow machines), ``race`` for all other
races, ``label_names``, ``tfidf``, ``plan``, and ``held_out`` for prompts judged frozen and tuned; ``confirm`` fits the arms at
the end.
"""

from __future__ import annotations

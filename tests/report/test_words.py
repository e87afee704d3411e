"""Terminal, page, notebook and model card use the same words for arms and gains."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from probe_runs import probe_folder

from cotune.bundle.card import results
from cotune.bundle.manifest import Manifest
from cotune.evaluate.words import capitalised, gain_rows
from cotune.report.html import render_report
from cotune.report.terminal.notebook import summary_html
from cotune.report.terminal.verdict import verdict_text
from manifests import small_manifest


def shown_text(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).replace("’", "'").replace("−", "-").split())


@pytest.mark.parametrize("copied", [{}, {"best_tuned": "best_prompt"}, {"seed_tuned": "seed_prompt"}], ids=str)
def test_arms_and_gains_have_the_same_words_everywhere(tmp_path: Path, copied: dict[str, str]) -> None:
    folder = probe_folder(tmp_path / "run")
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for name, source in copied.items():
        summary["arms"][name] = summary["arms"][source]
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    words, block = verdict_text(summary, width=160), shown_text(summary_html(summary))
    page, card = shown_text(render_report(folder)), "\n".join(results(Manifest.from_json(small_manifest()), summary))
    rows = gain_rows(summary)
    assert len(rows) >= 4
    for name, value, interval, p, reading in rows:
        assert f"| {name} | {value} | {interval} | {p} | {reading} |" in card
        assert re.search(rf"{re.escape(name)} +{re.escape(value)} +{re.escape(interval)} +{p} +{reading}", words)
        assert f"{name} {value} {interval} {p} {reading}" in block
        # The page has the log-loss in a sentence.
        if not name.endswith("log-loss"):
            row = f"{capitalised(name)} .{{5,80}} {re.escape(f'{value} {interval} {reading}')} ?, p = {p}"
            assert re.search(row, page)
    for meaning in re.findall(r"(?:first|winner's) prompt, (?:base|tuned) model", card):
        assert meaning in words and meaning in page

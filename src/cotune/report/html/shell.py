"""The frame of a page: head, content security policy, styles and scripts, offline or served."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files

from cotune.report.html.markup import embedded_json, esc

_ICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><circle cx='5.5' cy='8' r='4.5' fill='none' "
    "stroke='%231f6fb5' stroke-width='2'/><circle cx='10.5' cy='8' r='4.5' fill='%23d9730d'/></svg>"
)
MARK = _ICON.replace("%23", "#").replace("<svg ", "<svg width='22' height='22' aria-hidden='true' ")
"""The project's logo as an inline image."""


@dataclass(frozen=True)
class Live:
    """The additional parts of a served page.

    Attributes:
        script: refreshes the page; it may send requests to the page's own server only.
        version: version of the run's files that the page was made from.
    """

    script: str
    style: str
    version: str


def asset(name: str) -> str:
    """Read a style sheet or script of the page."""
    return (package_files("cotune.report.html") / "assets" / name).read_text(encoding="utf-8")


def framed(
    title: str,
    main: str,
    *,
    links: Mapping[str, str],
    source: str,
    data: object,
    scripts: Sequence[str],
    finished: bool = True,
    live: Live | None = None,
) -> str:
    """Build a whole page with the logo, links to its sections and a panel, from trusted markup; the title is escaped.

    Args:
        links: names of the sections' elements, with their titles.
        source: files that the page was made from, for the last line.
        scripts: names of the page's scripts among the assets.
    """
    nav = "".join(f'<a href="#{name}">{shown}</a>' for name, shown in links.items())
    body = (
        f'<header><div class="bar"><a class="brand" href="#{next(iter(links))}">{MARK} cotune</a>'
        f'<nav aria-label="Sections">{nav}</nav><button type="button" id="theme" hidden>Dark</button></div></header>'
        f"<main>{main}</main><footer>Made by cotune from {source}. Nothing on this page is loaded from elsewhere.</footer>"
        '<dialog id="panel" aria-labelledby="panel-title"></dialog><div id="tip" role="tooltip" hidden></div>'
        f'<script type="application/json" id="data">{embedded_json(data)}</script>'
    )
    return shell(title, body, script="".join(map(asset, scripts)), finished=finished, live=live)


def shell(title: str, body: str, *, script: str = "", finished: bool = False, live: Live | None = None) -> str:
    """Build a whole page from a title, which is escaped, trusted markup, and its script, which runs after that of ``live``.

    The content security policy allows exactly these scripts and styles. Without ``live`` the page may send no requests.
    """
    # The live script comes first: it must see the sections as served, before other scripts fill them.
    scripts = [text for text in (live.script if live else "", script) if text]
    styles = [asset("page.css"), *([live.style] if live else [])]
    policy = (
        f"default-src 'none'; script-src {_sources(scripts)}; style-src {_sources(styles)}; img-src data:; "
        + ("connect-src 'self'; " if live else "")
        + "base-uri 'none'; form-action 'none'"
    )
    state = f' data-version="{esc(live.version)}" data-finished="{"yes" if finished else "no"}"' if live else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{esc(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">'
        f'<title>{esc(title)}</title><link rel="icon" href="data:image/svg+xml,{esc(_ICON)}">'
        + "".join(f"<style>{text}</style>" for text in styles)
        + f"</head><body{state}>{body}"
        + "".join(f"<script>{text}</script>" for text in scripts)
        + "</body></html>\n"
    )


def _sources(texts: list[str]) -> str:
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts)

"""The page at ``/docs``: the OpenAPI document as HTML without scripts or external files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape
from typing import Any

PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; overflow-wrap: anywhere; }
code, pre { font: 14px/1.45 ui-monospace, monospace; }
pre { border: 1px solid var(--line); border-radius: 6px; overflow-x: auto; padding: .75rem; overflow-wrap: normal; }
section { border-top: 1px solid var(--line); margin-top: 1.5rem; }
summary { cursor: pointer; padding: .25rem 0; }
h2 code { font-size: 1.1rem; }
table { border-collapse: collapse; }
th { overflow-wrap: normal; }
td, th { border-bottom: 1px solid var(--line); padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; }
"""


def docs_page(document: Mapping[str, Any], address: str) -> str:
    """The page for an OpenAPI document; its examples call the server at ``address``."""
    info, schemas = document["info"], document["components"]["schemas"]
    secured = "security" in document
    parts = [f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>", f"<p>{_words(info['description'])}</p>"]
    if secured:
        header = "<code>Authorization: Bearer TOKEN</code>"
        parts.append(f"<p>Requests need the header {header}, except those to <code>/health</code>.</p>")
    parts.append('<p>This page as an OpenAPI document: <a href="/openapi.json">openapi.json</a>.</p>')
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            parts.append(_operation(path, method, about, address, secured=secured))
    parts.append("<section><h2>Schemas</h2>")
    for name, schema in schemas.items():
        title = schema.get("title", name)
        shown = name if title == name else f"{name}: {title}"
        parts.append(f'<details id="{escape(name)}"><summary><code>{escape(shown)}</code></summary>{_pre(schema)}</details>')
    parts.append("</section>")
    body = "\n".join(parts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>cotune API</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body>{body}</body></html>"
    )


def _operation(path: str, method: str, about: Mapping[str, Any], address: str, *, secured: bool) -> str:
    rows = "".join(
        f"<tr><td><code>{status}</code></td><td>{_words(answer['description'])}</td><td>{_kinds(answer)}</td></tr>"
        for status, answer in about["responses"].items()
    )
    parameters = "".join(
        f"<p>Parameter <code>{escape(each['name'])}</code> ({each['in']}{', required' if each.get('required') else ''})"
        f"{': ' if each.get('description') else ''}"
        f"{_words(each.get('description', ''))}</p>{_pre(each['schema'])}"
        for each in about.get("parameters", ())
    )
    sent = f"<p>Body: {_links(about['requestBody'])}</p>" if "requestBody" in about else ""
    call = ["curl", f"{address}{path}"]
    if secured and about.get("security") != []:
        call.append('-H "Authorization: Bearer $TOKEN"')
    if "requestBody" in about:
        call.append("-H 'Content-Type: application/json' -d @body.json")
    return (
        f"<section><h2><code>{method.upper()} {escape(path)}</code></h2><p>{_words(about['summary'])}</p>{sent}{parameters}"
        f"<pre>{escape(' '.join(call))}</pre>"
        f"<table><thead><tr><th>status</th><th>when</th><th>body</th></tr></thead><tbody>{rows}</tbody></table></section>"
    )


def _kinds(answer: Mapping[str, Any]) -> str:
    return _links(answer) + (", or events" if "text/event-stream" in answer["content"] else "")


def _links(holder: Mapping[str, Any]) -> str:
    schema = holder["content"]["application/json"]["schema"]
    names = [each["$ref"].rsplit("/", 1)[1] for each in schema.get("anyOf", [schema])]
    return " or ".join(f'<a href="#{escape(name)}"><code>{escape(name)}</code></a>' for name in names)


def _words(text: str) -> str:
    """A description as HTML; OpenAPI's descriptions are Markdown, of which ours use backticks only."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _pre(schema: Any) -> str:
    return f"<pre>{escape(json.dumps(schema, indent=1, ensure_ascii=False))}</pre>"

"""A session to answer, and somebody at a terminal or a page of it."""

from __future__ import annotations

import contextlib
import csv
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cotune.labelling.page import label_on_page
from cotune.labelling.picking import Pick
from cotune.labelling.session import Earlier, Session
from cotune.labelling.terminal import ask_in_terminal


def session_of(out: Path, labels: Sequence[str], texts: Sequence[str], guess: int = 1) -> Session:
    """The model's guess is the label of that number for every row; the others share the rest."""
    order = [labels[guess], *(label for i, label in enumerate(labels) if i != guess)]
    shares = {label: 0.6 if label == labels[guess] else round(0.4 / (len(labels) - 1), 6) for label in order}
    picks = [Pick(i + 2, {"text": text}, {"text": text}, shares) for i, text in enumerate(texts)]
    return Session(out, "label", labels, picks, Earlier(), {"bundle": "b"})


def answers(out: Path) -> list[str]:
    with out.open(encoding="utf-8", newline="") as stream:
        return [row["label"] for row in csv.DictReader(stream)]


def typed(session: Session, keys: str) -> str:
    """Type keys into a terminal that asks; returns what it showed."""
    terminal, other = os.openpty()
    shown: list[str] = []
    try:
        asking = threading.Thread(target=ask_in_terminal, args=(session, other, shown.append), daemon=True)
        asking.start()
        # Before it asks, the terminal would take Ctrl-C for itself.
        deadline = time.monotonic() + 120
        while not shown and time.monotonic() < deadline:
            time.sleep(0.005)
        os.write(terminal, keys.encode())
        asking.join(120)
        assert not asking.is_alive(), "".join(shown)
    finally:
        os.close(terminal)
        os.close(other)
    return "".join(shown)


@contextlib.contextmanager
def on_page(session: Session) -> Iterator[str]:
    """The address of a page that asks, with its token."""
    up, address = threading.Event(), list[str]()

    def ready(found: str) -> None:
        address.append(found)
        up.set()

    server = threading.Thread(target=label_on_page, args=(session,), kwargs={"ready": ready}, daemon=True)
    server.start()
    assert up.wait(120)
    yield address[0]

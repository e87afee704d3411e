"""Asking for labels in a terminal, by single keys."""

from __future__ import annotations

import codecs
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

from cotune.labelling.keys import QUIT, SKIP, UNDO, label_keys, matching
from cotune.labelling.picking import Pick
from cotune.labelling.session import Session
from cotune.plain import harmless, one_line
from cotune.streams import terminal_without

_ENTER, _BACK, _TAB, _END = ("\r", "\n"), ("\x7f", "\b"), "\t", ("\x03", "\x04", "")
_UP, _DOWN = "up", "down"
_MOST_TEXT = 4000
_ARROWS = {"A": _UP, "B": _DOWN}


def ask_in_terminal(session: Session, handle: int, write: Callable[[str], None]) -> None:
    """Ask for the label of every remaining row, until all are done or the person quits.

    Args:
        handle: file descriptor of the terminal; in character mode until this returns.
        write: prints a text without buffering.
    """
    with _key_by_key(handle):
        keys = _keys(handle)
        keyed = label_keys(session.labels)
        while (pick := session.current) is not None:
            write(_question(session, pick, keyed))
            done = _one_key(keys, pick, keyed, write) if keyed is not None else _typed(keys, pick, write)
            if done == QUIT:
                write("quit\n")
                return
            if done == UNDO:
                write("undo\n" if session.undo() else "there is nothing to undo\n")
            elif done == SKIP:
                session.give(None)
                write("skipped\n")
            else:
                label = done.removeprefix("=")
                session.give(label)
                write(f"{harmless(label)}\n")


def _question(session: Session, pick: Pick, keyed: Mapping[str, str] | None) -> str:
    """A row as text: progress, input fields, and the labels with keys and probabilities."""
    told = f"Row {session.at + 1} of {len(session.picks)}"
    if session.at:
        told += f", {session.labelled} labelled, {session.skipped} skipped, the model was right on {session.agreed}"
    lines = ["", f"--- {told} ---"]
    for name, text in pick.fields.items():
        shown = harmless(text[:_MOST_TEXT]) + (" ..." if len(text) > _MOST_TEXT else "")
        lines.append(f"{name}: {shown}" if len(pick.fields) > 1 else shown)
    lines.append("")
    if keyed is not None:
        width = min(40, max(len(one_line(label, 40)) for label in keyed.values()))
        for key, label in keyed.items():
            mark = "  <- the model's guess, Enter accepts it" if label == pick.guess else ""
            lines.append(f"  {key}  {one_line(label, 40):<{width}}  {pick.shares.get(label, 0.0):4.2f}{mark}")
        lines.append(f"  {SKIP} skip   {UNDO} undo   {QUIT} quit")
    else:
        lines.append(
            f"The model's guess: {one_line(pick.guess, 60)} ({pick.shares[pick.guess]:.2f}). Type a part of the label,"
        )
        lines.append("Enter accepts the one in brackets, arrow keys change it. Tab skips, Backspace undoes, Ctrl-D quits.")
    return "\n".join([*lines, "label> "])


def _one_key(keys: Iterator[str], pick: Pick, keyed: Mapping[str, str], write: Callable[[str], None]) -> str:
    for key in keys:
        if key in _END or key == QUIT:
            return QUIT
        if key == UNDO or key in _BACK:
            return UNDO
        if key in (SKIP, _TAB):
            return SKIP
        if key in _ENTER:
            return f"={pick.guess}"
        if key in keyed:
            return f"={keyed[key]}"
        write("\a")
    return QUIT


def _typed(keys: Iterator[str], pick: Pick, write: Callable[[str], None]) -> str:
    text, place = "", 0
    write(_choices(text, matching(text, pick.shares), place, pick))
    for key in keys:
        found = matching(text, pick.shares)
        if key in _END:
            return QUIT
        if key == _TAB:
            return SKIP
        if key in _ENTER and found:
            write("\r\x1b[K")
            return f"={found[place]}"
        if key in _BACK:
            if not text:
                return UNDO
            text, place = text[:-1], 0
        elif key in (_UP, _DOWN):
            place = (place + (1 if key == _DOWN else -1)) % max(1, len(found))
        elif len(key) == 1 and key.isprintable():
            if not matching(text + key, pick.shares):
                write("\a")
                continue
            text, place = text + key, 0
        write(_choices(text, matching(text, pick.shares), place, pick))
    return QUIT


def _choices(text: str, found: list[str], place: int, pick: Pick) -> str:
    """The input line: the typed text and the labels that match it, the selected one in brackets."""
    width = shutil.get_terminal_size().columns - 1
    line = f"label> {harmless(text)} "
    # Scroll so that the selected label is visible.
    for number, label in enumerate(found[place:] + found[:place]):
        shown = f"{one_line(label, 40)} {pick.shares[label]:.2f}"
        more = f" [{shown}]" if number == 0 else f"  {shown}"
        if len(line) + len(more) > width and number:
            break
        line += more
    return f"\r\x1b[K{line[:width]}"


def _keys(handle: int) -> Iterator[str]:
    """Typed keys: characters, ``up``, ``down``, and an empty text at end of input."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    text = ""
    while True:
        try:
            data = os.read(handle, 1024)
        except OSError:
            # The terminal was closed.
            data = b""
        if not data:
            yield ""
            return
        text += decode(data)
        while text:
            if text[:2] in ("\x1b[", "\x1bO"):
                # The escape sequence of a special key ends with its first letter.
                end = next((i for i, character in enumerate(text[2:], 2) if character.isalpha() or character == "~"), None)
                if end is None:
                    # The rest of the sequence comes with the next read.
                    break
                if text[end] in _ARROWS and end == 2:
                    yield _ARROWS[text[end]]
                text = text[end + 1 :]
                continue
            if text == "\x1b":
                break
            first, text = text[0], text[1:]
            if first != "\x1b":
                yield first


def _key_by_key(handle: int) -> AbstractContextManager[None]:
    """Switch the terminal to single keys without echo, until the block ends.

    Ctrl-C comes as a key, so that it cannot interrupt the writing of files.
    """
    import termios

    return terminal_without(handle, termios.ICANON | termios.ECHO | termios.ISIG, termios.TCSADRAIN)

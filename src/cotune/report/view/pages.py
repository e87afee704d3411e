"""The served page, rebuilt only when the run's files change."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from importlib.resources import files as package_files
from pathlib import Path

from cotune.errors import CotuneError, no_run
from cotune.files import content_hash
from cotune.report.html import Live, render_report
from cotune.report.html.markup import esc
from cotune.report.html.shell import MARK, shell
from cotune.run_files import CONFIG, DEV_ROWS, JOURNAL, LOCK, SUMMARY, TEST_ROWS, run_folder

_SHOWN = (JOURNAL, SUMMARY, CONFIG, TEST_ROWS, DEV_ROWS)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shown:
    """A state of the page.

    Attributes:
        version: version of the run's files behind the page; empty if there is nothing to show yet.
        error: a sentence why the page is not up to date; empty if it is.
    """

    version: str
    html: str
    error: str = ""


class RunPage:
    """A run's page, kept up to date with its files. Thread-safe.

    Args:
        folder: the run's folder; the journal may not exist yet.
        pause: minimum seconds between two builds of the page. It grows to nine times the duration of the last build, so that
            watching takes at most a tenth of one core.

    Raises:
        InputError: if the folder holds no run and no run is about to begin there.
    """

    def __init__(self, folder: Path, *, pause: float = 1.0) -> None:
        folder = run_folder(folder)
        if not any((folder / name).is_file() for name in (*_SHOWN[:3], LOCK)):
            raise no_run(folder)
        self._folder, self._pause = folder, pause
        self._lock = threading.Lock()
        self._seen: object = None
        self._not_before = 0.0
        self._shown = self._notice("Nothing has been written yet.", "The run is about to begin; this page renews itself.")

    def current(self) -> Shown:
        """The current page, or the last good one with the reason if a newer one cannot be built."""
        with self._lock:
            if time.monotonic() >= self._not_before:
                self._renew()
            return self._shown

    def _renew(self) -> None:
        stamp = [_stamp(self._folder / name) for name in _SHOWN]
        begun = stamp[0] is not None or stamp[1] is not None
        if stamp == self._seen or not (begun or self._shown.version):
            return
        self._seen = stamp
        started = time.monotonic()
        version = content_hash(stamp)
        try:
            self._shown = Shown(version, render_report(self._folder, _live(version)))
        except (CotuneError, OSError) as error:
            self._fail(str(error))
        except Exception as error:
            _LOG.exception("the page of %s cannot be made", self._folder)
            self._fail(f"{type(error).__name__}: {error}")
        ended = time.monotonic()
        self._not_before = ended + max(self._pause, 9 * (ended - started))

    def _fail(self, why: str) -> None:
        if self._shown.version:
            # Keep the page that readers have.
            self._shown = replace(self._shown, error=f"The page cannot be renewed: {why}")
        else:
            self._shown = self._notice("The page cannot be made.", "It is tried again when the run's files change.", why)

    def _notice(self, headline: str, more: str, error: str = "") -> Shown:
        body = (
            f'<header><div class="bar"><span class="brand">{MARK} cotune</span></div></header>'
            f'<main><p class="about"><b>{esc(self._folder)}</b></p>'
            f'<h1 class="headline">{esc(headline)}</h1><p>{esc(more)}</p></main>'
        )
        return Shown("", shell("cotune report", body, live=_live("")), error)


def _stamp(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_mtime_ns, status.st_size, status.st_ino]


def _live(version: str) -> Live:
    folder = package_files("cotune.report.view") / "assets"
    return Live((folder / "live.js").read_text("utf-8"), (folder / "live.css").read_text("utf-8"), version)

"""Answers of a bundle's endpoint, stored on disk until the command that asked for them is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from cotune.bundle.predictor import Predictor
from cotune.cache import cache_folder
from cotune.errors import counted
from cotune.files import content_hash, locked

if TYPE_CHECKING:
    from cotune.model.remote.model import RemoteModel

FOLDER = "answers"
"""Folder of the stored answers in the cache folder."""


@contextmanager
def stored_answers(predictor: Predictor, rows: Sequence[Mapping[str, str]]) -> Iterator[None]:
    """Store the answers to rows in the cache folder while the block runs, and remove them if it ends without an error.

    After a failure or a kill, the next block with the same bundle and rows uses them instead of asking, and paying, again. Does
    nothing for a model on this machine.

    Raises:
        BusyError: another process is asking about the same rows.
        EndpointError: the block raised it; the message also says how many answers are stored.
        InputError: the answers cannot be stored.
    """
    if not predictor.scorer.capabilities.endpoint:
        yield
        return
    from cotune.endpoint import AnswerCache, EndpointError

    key = content_hash({"bundle": predictor.bundle_id, "rows": [dict(row) for row in rows]}, 40)
    path = cache_folder(FOLDER) / f"{key}.sqlite"
    lock, model = path.with_suffix(".lock"), cast("RemoteModel", predictor.scorer)
    with locked(lock, "another command is asking the endpoint about the same rows. Wait for it, then try again."):
        answers = model.answers = AnswerCache(path)
        finished = False
        try:
            yield
            finished = True
        except EndpointError as error:
            if not (count := len(answers)):
                raise
            number = f"{counted(count, 'answer')} of {counted(len(rows), 'row')} {'is' if count == 1 else 'are'} stored"
            raise EndpointError(
                f"{str(error).rstrip('.')}. {number}; the same command asks for the others only.",
                requests=error.requests,
                lost=error.lost,
                usage=error.usage,
                status=error.status,
            ) from error
        finally:
            model.answers = None
            removed = finished or not len(answers)
            answers.close()
            if removed:
                for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                    path.with_name(name).unlink(missing_ok=True)
            lock.unlink(missing_ok=True)

"""The commonest label for every row, with the labels' shares as probabilities; of numbers their mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from contract import Answers, Job, Row, Trained, most_likely, serve
from ridge import constant


def train(job: Job) -> Trained:
    """Count."""
    if job.kind == "number":
        return constant(job)
    counts = Counter(job.outputs)
    # Half a row more for each label, or one that no labelled row has would be ruled out.
    whole = len(job.train) + 0.5 * len(job.labels)
    shares = [(counts[label] + 0.5) / whole for label in job.labels]

    def answer(rows: Sequence[Row]) -> Answers:
        return most_likely([shares] * len(rows), job.labels)

    return Trained(answer, shipped=sum(map(len, job.labels)), told={"smoothing": "half a row a label"})


if __name__ == "__main__":
    serve(train, [])

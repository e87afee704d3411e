"""promptolution's CAPO on the small model behind a server."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from contract import Answers, Job, Row, Trained, serve
from served_model import NAME, start_server

# The library's own experiment settings (promptolution/experiment/conf/optimizer/capo.yaml, promptolution.yaml: 10 steps) and
# starting prompts as in its tutorial (https://automl.github.io/promptolution/examples/getting_started).
STEPS = 10
MOST_TOKENS = 200
STARTS = (
    "Classify this text as one of: {labels}.",
    "Which of these labels fits the text: {labels}? Think about what it says and decide.",
    "Read the text and give the label that describes it best. The labels are: {labels}.",
    "You are an expert at sorting texts. Sort this one into one of: {labels}.",
    "Determine the label of the following text. It is one of: {labels}.",
)
TOLD = {
    "optimizer": "CAPO, library defaults",
    "n_steps": STEPS,
    "predictor": "MarkerBasedPredictor",
    "max_tokens": MOST_TOKENS,
    "page": "promptolution: getting started; experiment/conf",
}


def train(job: Job) -> Trained:
    """Search a prompt."""
    import numpy as np
    import pandas as pd
    from promptolution.llms import APILLM
    from promptolution.optimizers import CAPO
    from promptolution.predictors import MarkerBasedPredictor
    from promptolution.tasks import ClassificationTask

    random.seed(job.seed)
    np.random.seed(job.seed)
    model = APILLM(
        api_url=start_server(job),
        model_id=NAME,
        api_key="none",
        max_tokens=MOST_TOKENS,
        # The server answers one after the other; a batch waits for all of its rows.
        max_concurrent_calls=1,
        gather_timeout_s=3600.0,
        call_kwargs={"seed": job.seed},
    )
    own = {label.lower(): label for label in job.labels}
    listed = ", ".join(own)
    asked_in = " Put the label between <final_answer> and </final_answer>."
    task = ClassificationTask(
        df=pd.DataFrame({"x": job.texts, "y": [output.lower() for output in job.outputs]}),
        task_description=f"Classify texts. The labels are: {listed}.{asked_in}",
        n_subsamples=30,
        eval_strategy="sequential_block",
        seed=job.seed,
    )
    predictor = MarkerBasedPredictor(model, classes=list(own))
    starts = [start.format(labels=listed) + asked_in for start in STARTS]
    # A tenth of the rows is kept for demonstrations; below 50 labelled rows that is fewer than the default of 5.
    shots = min(5, round(0.1 * len(job.train)))
    optimizer = CAPO(predictor=predictor, task=task, meta_llm=model, initial_prompts=starts, upper_shots=shots)
    best = optimizer.optimize(n_steps=STEPS)[0].construct_prompt()
    saved = job.folder / "prompt.txt"
    saved.write_text(best, encoding="utf-8")

    def answer(asked: Sequence[Row]) -> Answers:
        found, _ = predictor.predict([best] * len(asked), [row.text for row in asked])
        return Answers([own.get(label, "") for label in found])

    return Trained(answer, shipped=[saved], base=[Path(job.extra["gguf"])], told=TOLD)


if __name__ == "__main__":
    serve(train, ["promptolution", "openai"])

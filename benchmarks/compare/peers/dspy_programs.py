"""DSPy: a one-step program whose prompt BootstrapFewShot, MIPROv2 or GEPA optimizes, on the small model behind a server."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from contract import Answers, Job, Row, Trained, serve
from served_model import NAME, start_server

# BootstrapFewShot with its defaults; MIPROv2 and GEPA with auto="light", the smallest of the budgets that they name, as in
# https://dspy.ai/learn/optimization/optimizers. A fifth of the labelled rows is what MIPROv2 and GEPA choose on where none is
# named for them (MIPROv2 itself would take four fifths; GEPA's page recommends to keep the larger part for training).
DEV_SHARE = 0.2
# A label in DSPy's chat form takes some 20 tokens; what rewrites instructions may write more. A small model that runs on would
# otherwise spend the time limit on text that nobody reads.
MOST_TOKENS, MOST_PROPOSED = 48, 500
TOLD = {
    "program": "dspy.Predict over text -> label, a Literal of the labels",
    "max_tokens": MOST_TOKENS,
    "max_tokens_of_proposals": MOST_PROPOSED,
    "temperature": 0.0,
    "adapter": "ChatAdapter without its fallback to JSON",
    "page": "dspy.ai: optimizers, BootstrapFewShot, MIPROv2, GEPA",
}


def train(job: Job) -> Trained:
    """Optimize the program."""
    import dspy

    url = start_server(job)
    # Under "openai/" DSPy names the limit max_completion_tokens, which the server does not know: a small model that
    # repeats itself would write until its context is full. Under "hosted_vllm/" the same requests say max_tokens.
    model = dspy.LM(
        f"hosted_vllm/{NAME}", api_base=url, api_key="none", temperature=0.0, max_tokens=MOST_TOKENS, cache=False, num_retries=1
    )
    # Asking again for JSON where an answer cannot be read, the adapter's default, costs two more requests a row, undoes the
    # server's reuse of the prompt, and this model writes objects with fields of its choice then.
    dspy.configure(lm=model, max_errors=100 * len(job.train), adapter=dspy.ChatAdapter(use_json_adapter_fallback=False))
    signature = dspy.Signature(
        {
            "text": (str, dspy.InputField()),
            "label": (Literal[tuple(job.labels)], dspy.OutputField()),  # type: ignore[misc]
        },
        "Classify the text.",
    )
    program = dspy.Predict(signature)
    rows = [dspy.Example(text=row.text, label=row.output).with_inputs("text") for row in job.train]
    random.Random(job.seed).shuffle(rows)
    optimized = _optimized(job, program, rows, model)
    saved = job.folder / "program.json"
    optimized.save(str(saved))
    failed = 0

    def answer(asked: Sequence[Row]) -> Answers:
        nonlocal failed
        found = []
        for row in asked:
            try:
                found.append(str(optimized(text=row.text).label))
            except Exception as error:
                # What a model of this size writes is often no answer in DSPy's form; such a row is answered wrong.
                if not failed:
                    print(f"an answer that cannot be read: {type(error).__name__}: {error}"[:500], flush=True)
                failed += 1
                found.append("")
        print(f"{failed} of {len(asked)} answers could not be read", flush=True)
        return Answers(found)

    return Trained(answer, shipped=[saved], base=[Path(job.extra["gguf"])], told=TOLD | {"optimizer": job.options["optimizer"]})


def _optimized(job: Job, program: Any, rows: list[Any], model: Any) -> Any:
    import dspy

    def right(example: Any, prediction: Any, trace: Any = None) -> bool:
        return bool(example.label == getattr(prediction, "label", None))

    def feedback(example: Any, prediction: Any, trace: Any = None, name: Any = None, one: Any = None) -> Any:
        good = right(example, prediction)
        said = "Right." if good else f"Wrong: the label is {example.label}, not {getattr(prediction, 'label', 'nothing')}."
        return dspy.Prediction(score=float(good), feedback=said)

    dev = max(1, round(DEV_SHARE * len(rows)))
    optimizer = job.options["optimizer"]
    if optimizer == "bootstrap":
        # An answer that cannot be read is no demonstration, and no reason to give up: the optimizer raises at its last allowed
        # error, and shows labelled rows alone if no answer can be read.
        return dspy.BootstrapFewShot(metric=right, max_errors=len(rows) + 1).compile(program, trainset=rows)
    writer = model.copy(temperature=1.0, max_tokens=MOST_PROPOSED)
    if optimizer == "mipro":
        made = dspy.MIPROv2(
            metric=right, auto="light", prompt_model=writer, num_threads=1, max_errors=100 * len(rows), seed=job.seed
        )
        return made.compile(program, trainset=rows[dev:], valset=rows[:dev])
    made = dspy.GEPA(metric=feedback, auto="light", reflection_lm=writer, num_threads=1, seed=job.seed)
    return made.compile(program, trainset=rows[dev:], valset=rows[:dev])


if __name__ == "__main__":
    serve(train, ["dspy", "gepa", "litellm"])

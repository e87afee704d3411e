"""PEFT's LoRA under a classification head on the small model, trained by transformers' Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import small_model
from contract import Answers, Job, Row, Trained, batches, most_likely, serve, trainer_arguments

# PEFT's own notebook for LoRA and sequence classification:
# https://github.com/huggingface/peft/blob/main/examples/sequence_classification/LoRA.ipynb
RANK, ALPHA, DROPOUT = 8, 16, 0.1
EPOCHS, BATCH, RATE, WARM_UP = 20, 32, 3e-4, 0.06
LONGEST = 256
TOLD = {
    "r": RANK,
    "lora_alpha": ALPHA,
    "lora_dropout": DROPOUT,
    "epochs": EPOCHS,
    "batch": BATCH,
    "learning_rate": RATE,
    "warm_up": WARM_UP,
    "schedule": "linear",
    "target_modules": "PEFT's default of the model: q_proj, v_proj",
    "page": "peft, examples/sequence_classification/LoRA.ipynb",
}


def train(job: Job) -> Trained:
    """Tune."""
    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import (
        AutoModelForSequenceClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    torch.set_num_threads(job.threads)
    set_seed(job.seed)
    tokenizer = small_model.load_tokenizer(job)
    base = AutoModelForSequenceClassification.from_pretrained(job.model, num_labels=len(job.labels), dtype=torch.float32)
    base.config.pad_token_id = tokenizer.pad_token_id
    model = get_peft_model(
        base, LoraConfig(task_type=TaskType.SEQ_CLS, r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, inference_mode=False)
    )
    place = {label: i for i, label in enumerate(job.labels)}
    rows = [{**tokenizer(row.text, truncation=True, max_length=LONGEST), "labels": place[row.output]} for row in job.train]
    collator = DataCollatorWithPadding(tokenizer)
    steps = EPOCHS * -(-len(rows) // BATCH)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            **trainer_arguments(job),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            warmup_steps=round(WARM_UP * steps),
            lr_scheduler_type="linear",
            logging_strategy="no",
        ),
        train_dataset=rows,
        data_collator=collator,
    )
    trainer.train()
    model.eval()
    model.save_pretrained(job.folder / "adapter")

    def answer(asked: Sequence[Row]) -> Answers:
        fed = [tokenizer(row.text, truncation=True, max_length=LONGEST) for row in asked]
        shares: list[list[float]] = [[]] * len(fed)
        with torch.inference_mode():
            for part in batches([len(row["input_ids"]) for row in fed], BATCH):
                logits = model(**collator([fed[i] for i in part])).logits
                for i, row in zip(part, torch.softmax(logits.double(), dim=-1).tolist(), strict=True):
                    shares[i] = row
        return most_likely(shares, job.labels)

    return Trained(answer, shipped=[job.folder / "adapter"], base=[Path(job.model)], told=TOLD)


if __name__ == "__main__":
    serve(train, ["torch", "transformers", "peft"])

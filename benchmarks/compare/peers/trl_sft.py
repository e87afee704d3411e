"""TRL's SFTTrainer with LoRA on the small model: label words, or JSON under cotune's grammar."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import small_model
from contract import Answers, Job, Row, Trained, most_likely, serve, trainer_arguments
from held_to_grammar import writer

# TRL's page on PEFT (https://huggingface.co/docs/trl/peft_integration): r 32, alpha 16, dropout 0.05 and ten times the default
# rate. Batches of 8 and three epochs are SFTConfig's defaults.
RANK, ALPHA, DROPOUT, RATE, EPOCHS, BATCH = 32, 16, 0.05, 2e-4, 3, 8
TOLD = {
    "r": RANK,
    "lora_alpha": ALPHA,
    "lora_dropout": DROPOUT,
    "learning_rate": RATE,
    "epochs": EPOCHS,
    "batch": BATCH,
    "loss": "on the completion alone",
    "page": "trl: PEFT integration; SFTConfig",
}


def train(job: Job) -> Trained:
    """Tune."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    tokenizer, model = small_model.load(job)
    rows = [
        {
            "prompt": [{"role": "user", "content": _question(job, row.text)}],
            "completion": [{"role": "assistant", "content": _completion(job, row.output)}],
        }
        for row in job.train
    ]
    # Checkpointing of gradients saves memory that this model does not need and costs a third more time; bfloat16, the
    # trainer's default, is slow on processors without units for it.
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            **trainer_arguments(job),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            completion_only_loss=True,
            gradient_checkpointing=False,
            bf16=False,
            fp16=False,
            logging_strategy="no",
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, bias="none", task_type="CAUSAL_LM"),
    )
    trainer.train()
    tuned = trainer.model.eval()
    tuned.save_pretrained(job.folder / "adapter")
    tokenizer.padding_side = "left"
    answer = _labels(job, tokenizer, tuned) if job.kind == "label" else writer(job, tokenizer, tuned)
    return Trained(answer, shipped=[job.folder / "adapter"], base=[Path(job.model)], told=TOLD)


def _labels(job: Job, tokenizer: Any, model: Any) -> Any:
    def answer(rows: Sequence[Row]) -> Answers:
        questions = [_question(job, row.text) for row in rows]
        return most_likely(small_model.label_shares(tokenizer, model, questions, job.labels), job.labels)

    return answer


def _question(job: Job, text: str) -> str:
    """Labels are not named: they are learnt, and a list of 77 in every row would take most of the time."""
    if job.kind == "label":
        return small_model.classification_question(text, [])
    return small_model.json_question(text, job.extra["schema"])


def _completion(job: Job, output: str) -> str:
    return small_model.words(output) if job.kind == "label" else output


if __name__ == "__main__":
    serve(train, ["torch", "transformers", "trl", "peft", "llguidance"])

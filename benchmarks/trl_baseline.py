"""TRL's SFTTrainer as a baseline of tuning, where it is installed."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from cotune.model.local import LocalModel
from cotune.tune.settings import TuneSettings
from measure import seconds_of, summary, wait_for
from tuning import Stepper, batch_of, shared


def installed() -> bool:
    """Whether TRL can be imported."""
    return importlib.util.find_spec("trl") is not None


def compare(local: LocalModel, folder: Path, *, repeats: int) -> tuple[float, dict[str, Any]]:
    """How many times as long a step of SFTTrainer takes on the same 16 rows of 60 shared and 20 own tokens.

    The trainer gets a copy of the base model in the engine's number type, without autocast and without gradient
    checkpointing, the same LoRA shape, and a loss on completions alone. A step of the engine follows each of its steps; a
    trainer's step is counted from its start to its optimizer's end, without the loading of data. The first is a warm-up.
    """
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    work, stepper, settings = batch_of(local, 60, 20), Stepper(local), TuneSettings()
    device = local.runner.device
    engine: list[float] = []
    baseline: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            wait_for(device)
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait_for(device)
            baseline.append(time.perf_counter() - self.start)
            engine.append(seconds_of(lambda: stepper.step(work.rows, shared(work)), device))

    rows = [
        {
            "input_ids": [*row.prompt_ids, *row.answer_ids],
            "completion_mask": [0] * len(row.prompt_ids) + [1] * len(row.answer_ids),
        }
        for row in work.rows
    ]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, local.settings.dtype), use_safetensors=True)
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as output:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=output,
                per_device_train_batch_size=len(rows),
                max_steps=repeats + 1,
                learning_rate=settings.learning_rate,
                max_grad_norm=settings.clip,
                lr_scheduler_type="constant",
                completion_only_loss=True,
                bf16=False,
                fp16=False,
                use_cpu=device.type == "cpu",
                gradient_checkpointing=False,
                max_length=None,
                packing=False,
                save_strategy="no",
                logging_strategy="no",
                eval_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=0,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=local.tokenizer,
            peft_config=LoraConfig(
                r=settings.lora.rank,
                lora_alpha=settings.lora.alpha,
                lora_dropout=0.0,
                target_modules=settings.lora.target,
                task_type="CAUSAL_LM",
            ),
            callbacks=[Clock()],
        )
        trainer.train()
    if torch.get_num_threads() != threads:
        raise RuntimeError("the trainer changed the number of threads; its steps and the engine's cannot be compared")
    engine, baseline = engine[1:], baseline[1:]
    return statistics.median(baseline) / statistics.median(engine), {
        "trl": trl.__version__,
        "engine": summary(engine),
        "baseline": summary(baseline),
        "ratio_of_minima": round(min(baseline) / min(engine), 3),
    }

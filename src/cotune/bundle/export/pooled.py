"""The classifier in this folder: transformers' decoder, and a linear map of its states.

    from transformers import pipeline

    classify = pipeline("text-classification", model="FOLDER", trust_remote_code=True)

Its input is the whole text that the model reads. ``pipeline.py`` in this folder fills a row into the prompt.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModel, LlamaConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class PooledForSequenceClassification(PreTrainedModel):  # type: ignore[misc]
    """A classifier on the state at a text's last token and the mean of the states from ``config.pool_from`` on.

    The tokens before ``pool_from`` belong to the prompt and are the same for all rows.
    """

    config_class = LlamaConfig
    base_model_prefix = "model"
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = AutoModel.from_config(config)
        self.score = torch.nn.Linear(2 * config.get_text_config().hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Logits ``[rows, labels]`` of texts that are padded on the right."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = self.model(input_ids=input_ids, attention_mask=mask, use_cache=False).last_hidden_state
        places, ends = torch.arange(mask.shape[1], device=mask.device)[None], mask.sum(1, keepdim=True) - 1
        last = states[torch.arange(len(states), device=mask.device), ends[:, 0]]
        own = (((places >= self.config.pool_from) & mask.bool()) | (places == ends)).to(states.dtype)[..., None]
        mean = (states * own).sum(1) / own.sum(1)
        return SequenceClassifierOutput(logits=self.score(torch.cat([last, mean], dim=1).to(self.score.weight.dtype)))

"""Prompts: the Prompt value object, the starting bank, and the one renderer to token ids."""

from __future__ import annotations

from cotune.prompt.prompt import Demonstration, Prompt, parse_prompt, substitute
from cotune.prompt.render import RenderedRow, Renderer, shared_prefix

__all__ = ["Demonstration", "Prompt", "RenderedRow", "Renderer", "parse_prompt", "shared_prefix", "substitute"]

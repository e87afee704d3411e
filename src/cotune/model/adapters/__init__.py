"""Adapters: LoRA weights, in memory and in their folders."""

"""Adapters: LoRA weights and trained prefixes, in memory and in their folders."""

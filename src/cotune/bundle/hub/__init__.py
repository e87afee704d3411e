"""Bundles on the Hugging Face hub: what is uploaded, uploading it, and fetching it again."""

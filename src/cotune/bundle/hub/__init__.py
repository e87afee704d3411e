"""Bundles on the Hugging Face hub: preparing, uploading and fetching."""

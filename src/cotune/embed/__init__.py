"""Embeddings of prompts and inputs: vectors from the model itself, distances, farthest-first order."""

from __future__ import annotations

from cotune.embed.embedder import Embedder, HashedEmbedder, centred, whole_texts
from cotune.embed.encoder import Encoder
from cotune.embed.neighbours import Neighbours
from cotune.embed.remote import EndpointEmbedder
from cotune.embed.select import closest_pairs, distances, farthest_first, without_near_duplicates
from cotune.embed.standardize import Standardizer
from cotune.embed.static import StaticEmbedder
from cotune.embed.text import EmbedSettings, TextEmbedder

__all__ = [
    "EmbedSettings",
    "Embedder",
    "Encoder",
    "EndpointEmbedder",
    "HashedEmbedder",
    "Neighbours",
    "Standardizer",
    "StaticEmbedder",
    "TextEmbedder",
    "centred",
    "closest_pairs",
    "distances",
    "farthest_first",
    "whole_texts",
    "without_near_duplicates",
]

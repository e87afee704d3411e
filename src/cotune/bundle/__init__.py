"""Bundles: folders with prompt, adapter and decision rule, and how they are saved, loaded and used."""

from __future__ import annotations

from cotune.bundle.load import load, load_several
from cotune.bundle.predictor import Prediction, Predictor
from cotune.bundle.save import save_bundle
from cotune.bundle.stream import predict_stream

__all__ = ["Prediction", "Predictor", "load", "load_several", "predict_stream", "save_bundle"]

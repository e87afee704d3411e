"""WHAT is shipped: saving, loading and using prompt + adapter + decision rule as one folder."""

from __future__ import annotations

from cotune.bundle.load import load, load_several
from cotune.bundle.predictor import Prediction, Predictor
from cotune.bundle.save import save_bundle
from cotune.bundle.stream import predict_stream

__all__ = ["Prediction", "Predictor", "load", "load_several", "predict_stream", "save_bundle"]

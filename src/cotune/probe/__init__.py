"""Probes: multinomial logistic regression on hidden states, with layer and penalty chosen by cross-fitting."""

from __future__ import annotations

from cotune.probe.cross_fitting import CrossFit, LayerFit, cross_fit
from cotune.probe.folds import fold_numbers
from cotune.probe.logistic import Weights, fit_logistic

__all__ = ["CrossFit", "LayerFit", "Weights", "cross_fit", "fit_logistic", "fold_numbers"]

"""An MLflow pyfunc that answers rows with the bundle in the same folder, written by ``cotune.bundle.export.mlflow_folder``.

MLflow runs this file ("models from code"), so that nothing is pickled.
"""

from __future__ import annotations

import threading
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class CotuneModel(PythonModel):  # type: ignore[misc]
    """A predictor that takes frames and lists of rows.

    The model config may contain the arguments ``base``, ``endpoint`` and ``key_env`` of :func:`cotune.load`::

        mlflow.pyfunc.load_model("models:/support/1", model_config={"base": "hub"})
    """

    def load_context(self, context: Any) -> None:
        """Load the bundle, with the base model in the same folder if there is one."""
        from cotune.bundle.load import load

        config, artifacts = context.model_config or {}, context.artifacts
        given = {name: config[name] for name in ("base", "endpoint", "key_env") if config.get(name)}
        if "base" in artifacts:
            given.setdefault("base", artifacts["base"])
        self._predictor = load(artifacts["bundle"], **given)
        # Servers call this from several threads.
        self._lock = threading.Lock()

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def] # MLflow would take hints for a schema
        """Answer rows; with the parameter ``probabilities``, returns objects with ``answer`` and ``probabilities``."""
        with self._lock:
            if not (params or {}).get("probabilities"):
                return self._predictor.predict(model_input)
            found = self._predictor.predict(model_input, probabilities=True)
        return [{"answer": one.answer, "probabilities": {str(k): p for k, p in one.probabilities.items()}} for one in found]


set_model(CotuneModel())

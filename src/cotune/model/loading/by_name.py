"""Loading a model by name with the best settings for this machine."""

from __future__ import annotations

from cotune.model.engine.settings import EngineSettings
from cotune.model.local import LocalModel


def open_model(
    name: str = "smollm2-135m",
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    light: bool = False,
) -> LocalModel:
    """Load the bundled model, a folder or a hub id; device, dtype and threads are measured unless given.

    ``light`` says that nothing will be trained, as in :meth:`LocalModel.load`.

    Raises:
        InputError: the model, the device or the dtype is not available.
    """
    from cotune.model.hardware.capability import check_capability
    from cotune.model.loading.bundled import resolve_model

    folder = resolve_model(name)
    capability = check_capability(device, dtype, threads)
    settings = EngineSettings(capability.device, capability.dtype, capability.threads)
    return LocalModel.load(folder, settings=settings, name=name, light=light)

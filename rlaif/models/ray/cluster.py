"""The cluster: the one at `$RAY_ADDRESS`, or one on this machine, started for as long as a model needs it."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
from typing import Any

from rlaif.errors import ModelError, one_line

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "false",  # a busy machine may take longer to begin it than Ray waits
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a worker that was promised no GPU sees what its machine has
}
PROBE_S = 10.0
_models: list[bool] = []
"""For each model that is open whether it found Ray connected by somebody else."""


def connect() -> Any:
    """Ray, connected. ModelError where it is not installed, or where no cluster is at `$RAY_ADDRESS`."""
    if importlib.util.find_spec("ray") is None:
        raise ModelError('Ray is not installed: pip install "rlaif[ray]"')
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray  # noqa: PLC0415 (an extra, and slow to import)

    if ray.is_initialized():
        _models.append(_models[0] if _models else True)
        return ray
    address = os.environ.get("RAY_ADDRESS") or "local"
    if (cause := _nobody_at(address)) is not None:
        raise ModelError(f"RAY_ADDRESS={address}: {cause}")
    own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # whatever it is, it is Ray's
        raise ModelError(f"Ray (RAY_ADDRESS={address}): {one_line(error)}") from None
    _models.append(False)
    return ray


def leave() -> None:
    """A model is closed: with the last one the connection ends, and the cluster if it was started for it."""
    import ray  # noqa: PLC0415 (as above)

    found = _models.pop()
    if not _models and not found:
        ray.shutdown()


def _nobody_at(address: str) -> str | None:
    """Why no cluster is there, where that can be said in seconds; Ray itself would try for minutes."""
    if address in {"local", "auto"}:
        return None
    if "://" in address:
        return "Ray's client protocol is not used here: say host:port, or start this command by `ray job submit`"
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return "must be host:port, `auto` or `local`"
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_S).close()
    except (OSError, OverflowError) as error:
        return f"no Ray cluster answers there ({one_line(error)})"
    return None

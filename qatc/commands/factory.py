"""A model from a user's own code, and its weights from a file of tensors."""

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qatc.errors import CheckpointError, ConfigError, first_line
from qatc.tracing.frames import place_of

_REMEDY = "name a callable without arguments that returns a torch.nn.Module: --model package.module:factory"


def made_by(name: str) -> nn.Module:
    """Return what `package.module:factory` gives, found from the current folder too; that code runs.

    Raises:
        ConfigError: there is no such module or factory, its code fails (the message names the place), or it gives no
            `nn.Module`.

    """
    place, _, attribute = name.partition(":")
    if not place or not attribute:
        raise ConfigError(f"--model {name}: no place of a factory", remedy=_REMEDY)
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(place)
        for part in attribute.split("."):
            found = getattr(found, part)
        model = found if isinstance(found, nn.Module) else found()
    except Exception as error:
        raise ConfigError(
            f"--model {name} gives no model: {type(error).__name__}: {first_line(error)}",
            where=place_of(error),
            remedy=_REMEDY,
        ) from error
    finally:
        sys.path.remove(here)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"--model {name} gives a {type(model).__name__}, no torch.nn.Module", remedy=_REMEDY)
    return model


def with_weights(model: nn.Module, path: Path) -> nn.Module:
    """Return the model with the tensors of a file, which must be its own and all of them.

    A dict with a `state_dict`, as training scripts save one beside the optimizer's, counts as that.

    Raises:
        CheckpointError: the file cannot be read, or holds more than tensors and plain values.
        ConfigError: its tensors are not those of the model.

    """
    state = _state(path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise ConfigError(
            f"the weights are not those of {type(model).__name__}: {' '.join(lines)[:400]}",
            where=str(path),
            remedy="give the file that model.state_dict() was saved to",
        ) from error
    return model


def _state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError("there is no such file", where=str(path), remedy="check the path of --state-dict")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # noqa: PLC0415  (only who has such files needs it)

            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise CheckpointError(
            "safetensors is not there to read it", where=str(path), remedy="pip install safetensors"
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"this is no file of tensors alone: {first_line(error)[:200]}",
            where=str(path),
            remedy="write one with torch.save(model.state_dict(), file)",
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(
            "this is no state_dict", where=str(path), remedy="write one with torch.save(model.state_dict(), file)"
        )
    return content

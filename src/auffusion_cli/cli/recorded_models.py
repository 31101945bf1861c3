"""The models that made files, by what these record of it."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from auffusion_cli.model import Model
    from auffusion_cli.requests.provenance import Provenance


class RecordedModels:
    """Models by the records of files: the `named` one, or the one recorded if it is a known one.

    One is kept loaded.
    """

    def __init__(self, named: str | None, device: str, *, yes: bool) -> None:
        self.named, self.device, self.yes = named, device, yes
        self._fingerprint = cache(self._find_fingerprint)
        self._loaded = lru_cache(maxsize=1)(self._load)

    def identity(self, recorded: Provenance, path: Path) -> str:
        """See `evaluate_attention.Models`."""
        from auffusion_cli.device import choose_device

        name = self._name(recorded, path)
        device = choose_device(self.device).type
        return " ".join((name, self._fingerprint(name), device, recorded.dtype, recorded.vocoder))

    def load(self, recorded: Provenance, path: Path) -> Model:
        """See `evaluate_attention.Models`."""
        return self._loaded(self._name(recorded, path), recorded.dtype, recorded.vocoder)

    def _name(self, recorded: Provenance, path: Path) -> str:
        from auffusion_cli.cli.recorded import recorded_model

        return self.named or recorded_model(recorded, path)

    def _find_fingerprint(self, name: str) -> str:
        from auffusion_cli.cli.resolve import fetch
        from auffusion_cli.tasks.sweep import weights_of

        return weights_of(fetch(name, yes=self.yes).folder)

    def _load(self, name: str, dtype: str, vocoder: str) -> Model:
        from auffusion_cli.checkpoints.load import load_model

        return load_model(name, engine="torch", device=self.device, dtype=dtype, vocoder=vocoder)

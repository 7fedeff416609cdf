"""All that one run measured, as it is kept in JSON."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.peers.bench import Figures
from tests.peers.figure import Figure


@dataclass(frozen=True, slots=True)
class Measured:
    """One peer."""

    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    standing_mib: float = 0.0
    """What a server takes before anybody asks, its pool included."""
    figures: Figures = dataclasses.field(default_factory=dict)
    absent: str = ""
    """Why there are no figures."""


@dataclass(frozen=True, slots=True)
class Run:
    """One machine, one time."""

    date: str
    command: str
    machine: str
    cores: int
    memory_gib: float
    versions: Mapping[str, str]
    """Of what all of them stand on."""
    seconds: int
    peers: Mapping[str, Measured]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Run":
        told: dict[str, Any] = json.loads(text)
        return cls(**told | {"peers": {name: _measured(peer) for name, peer in told["peers"].items()}})


def _measured(told: dict[str, Any]) -> Measured:
    figures = {name: Figure(**figure | {"values": tuple(figure["values"])}) for name, figure in told["figures"].items()}
    return Measured(**told | {"figures": figures})

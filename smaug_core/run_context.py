"""Where and how a stage runs."""

from dataclasses import dataclass
from pathlib import Path

from smaug_core.distributed import World
from smaug_core.stage_protocol import Watch


@dataclass(frozen=True, kw_only=True, slots=True)
class RunContext:
    """What a stage is given besides its settings and data; only the seed and the weights decide its result."""

    seed: int | None
    """Of the random draws; none for a stage that draws nothing."""
    weights: Path | None
    """The folder of the weights it starts from; none for the first stage."""
    out: Path
    """Folder to write to; may hold checkpoints of an earlier attempt."""
    device: str
    """As torch names it, `cpu` or `cuda`."""
    watch: Watch
    """Receives progress, and says when to stop."""
    world: World = World()
    """The processes that share the work."""
    recompute_layers: bool = False
    """Compute layers again in the backward pass instead of keeping what they made: less memory, the same numbers."""

    @property
    def drawing_seed(self) -> int:
        """The seed of a stage that draws."""
        assert self.seed is not None
        return self.seed

    @property
    def starting_weights(self) -> Path:
        """The weights of a stage that continues another."""
        assert self.weights is not None
        return self.weights

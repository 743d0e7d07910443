"""Context of a stage's run: its folders, device, seed and processes."""

from dataclasses import dataclass
from pathlib import Path

from smaug_core.distributed import World
from smaug_core.stage_protocol import Watch


@dataclass(frozen=True, kw_only=True, slots=True)
class RunContext:
    """Inputs of a stage besides its settings and data; only the seed and the weights affect its result."""

    seed: int | None
    """Seed of the random numbers; None for a stage that draws none."""
    weights: Path | None
    """Folder of the weights it starts from; None for the first stage."""
    out: Path
    """Folder to write to; may hold checkpoints of an earlier attempt."""
    device: str
    """As torch names it, `cpu` or `cuda`."""
    watch: Watch
    """Receives progress, and requests a stop."""
    world: World = World()
    """The processes that share the work."""
    recompute_layers: bool = False
    """Recompute activations in the backward pass instead of keeping them: less memory, the same numbers."""
    loader_workers: int = 0
    """Processes that read media ahead, for each process that computes; 0 reads in that process. The same results."""

    @property
    def pins_memory(self) -> bool:
        """True if loader processes put batches in page-locked memory, for copies to a GPU that nothing waits for."""
        return self.device == "cuda" and self.loader_workers > 0

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

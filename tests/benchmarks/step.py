"""Times a training step for the rows of Tables 4 to 8 and 11, interleaved, beside the closed form and the paper.

    python -m tests.benchmarks.step --scale tiny
    python3 -m tests.benchmarks.step --scale paper --device cuda --out step.json

Synthetic batches, new weights, nothing is read or downloaded. It needs torch, timm, transformers, einops, jaxtyping
and numpy, not the platform, so that it runs where only those are. Prints JSON.

On a CPU a second is one of process time at one thread, so that a busy machine disturbs it less; on a GPU it is wall
time of a step that has ended. Rows with several frames are the sum of their two stages, as the published hours.
"""

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from smaug_core.cost.flops import TRAINING, StepShape, step_cost, total_macs
from smaug_core.cost.token_counts import num_visible
from smaug_core.data.batch import Batch, places_of_words
from smaug_core.model.smaug import SMAUG
from smaug_core.patches import split_patches
from tests.benchmarks.rows import DEFAULT, ROWS, SIZES, Case, Size

WARM_UP = 2
"""Steps of each case that are not counted."""


@dataclass
class Trained:
    """A model with its optimiser, shared by all cases whose weights have the same shapes."""

    model: SMAUG
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, case: Case, size: Size, device: str) -> "Trained":
        model = SMAUG(case.model, size.vocab_size, case.clip).to(device).train()
        return cls(model, torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True))

    def resident_bytes(self) -> int:
        """Weights and moments, which stay on the device between the steps of other cases."""
        moments = (m for state in self.optimizer.state.values() for m in state.values())
        return sum(t.numel() * t.element_size() for t in (*self.model.parameters(), *moments))


@dataclass
class Measured:
    """What the steps of one case took."""

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0


def weights_of(case: Case) -> tuple[Any, ...]:
    """Equal for cases that can share a model."""
    return replace(case.model, keep_rate=1.0), case.clip.frames, case.clip.selects


def batch_of(case: Case, batch: int) -> int:
    """Samples of a step: clips weigh more than single frames."""
    return batch if case.clip.frames == 1 else max(2, batch // 4)


def synthetic_batch(case: Case, size: Size, num: int) -> Batch:
    """A batch of noise with the shapes of a pre-training step."""
    model, frames = case.model, case.clip.frames
    visible, hidden = split_patches(torch.rand(num, model.num_patches), num_visible(model.num_patches, case.mask_ratio))
    words = torch.randint(5, size.vocab_size, (num, size.text_tokens))
    targets = torch.full_like(words, -100)
    targets[:, 1 : 1 + size.hidden_words] = words[:, 1 : 1 + size.hidden_words]
    word_places, word_targets = places_of_words(targets)
    return Batch(
        images=torch.randn(num, frames, 3, model.image_size, model.image_size),
        media=torch.arange(num),
        words=words,
        word_mask=torch.ones_like(words, dtype=torch.bool),
        negative_draws=torch.rand(num, 2),
        selection_draws=torch.rand(num, 3, frames) if frames > 1 else None,
        hidden_words=words,
        word_places=word_places,
        word_targets=word_targets,
        visible=visible if case.mask_ratio else None,
        hidden=hidden if case.mask_ratio else None,
    )


def take_step(trained: Trained, case: Case, batch: Batch, device: str) -> None:
    """Forward, backward and optimiser; on a GPU in bf16, until the device has finished."""
    trained.model.config, trained.model.shape = case.model, case.clip
    trained.optimizer.zero_grad()
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        losses = trained.model(batch, negatives_group=len(batch.media))
    loss = torch.stack(list(losses.values())).sum()
    loss.backward()
    trained.optimizer.step()
    if not math.isfinite(value := loss.item()):  # waits for the device
        raise RuntimeError(f"{case.name}: the loss is {value}; a step without numbers measures nothing")
    trained.optimizer.zero_grad()


def now(device: str) -> float:
    """Seconds: wall time once a GPU is idle, process time on a CPU."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def measure(cases: list[Case], size: Size, *, batch: int, repeats: int, device: str) -> dict[Case, Measured]:
    """Steps of all cases in turn, so that what drifts on the machine drifts for all."""
    pool: dict[tuple[Any, ...], Trained] = {}
    for case in cases:
        if weights_of(case) not in pool:
            pool[weights_of(case)] = Trained.of(case, size, device)
    measured = {case: Measured() for case in cases}
    batches = {case: synthetic_batch(case, size, batch_of(case, batch)) for case in cases}
    for repeat in range(WARM_UP + repeats):
        for case, found in measured.items():
            held, trained = batches[case].to(device), pool[weights_of(case)]
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            began = now(device)
            take_step(trained, case, held, device)
            seconds = now(device) - began
            if repeat >= WARM_UP:
                found.seconds.append(seconds)
            if device == "cuda":
                others = sum(other.resident_bytes() for other in pool.values() if other is not trained)
                found.peak_bytes = torch.cuda.max_memory_allocated() - others
    return measured


def matmul_flops(device: str) -> float:
    """FLOP/s of a large matrix product on this device, in the precision of the steps: the median of ten."""
    num, kind = (8192, torch.bfloat16) if device == "cuda" else (512, torch.float32)
    left, right = (torch.randn(num, num, device=device, dtype=kind) for _ in range(2))
    seconds = []
    for _ in range(13):
        began = now(device)
        left @ right
        seconds.append(now(device) - began)
    return 2 * num**3 / statistics.median(seconds[3:])


def forward_macs(case: Case, size: Size) -> int:
    """Multiply-accumulates of the forward pass of one sample."""
    shape = StepShape(
        mask_ratio=case.mask_ratio,
        text_tokens=size.text_tokens,
        hidden_words=size.hidden_words,
        vocab_size=size.vocab_size,
        clip=case.clip,
    )
    return total_macs(step_cost(case.model, shape))


def told_case(case: Case, found: Measured, size: Size, batch: int, matmul: float) -> dict[str, Any]:
    """One kind of step."""
    num, seconds = batch_of(case, batch), statistics.median(found.seconds)
    quartiles = statistics.quantiles(found.seconds, n=4) if len(found.seconds) > 1 else [seconds] * 3
    flops = 2 * TRAINING * forward_macs(case, size) * num / seconds
    return {
        "case": case.name,
        "samples": num,
        "ms_per_step": round(1000 * seconds, 3),
        "ms_quartiles": [round(1000 * quartiles[0], 3), round(1000 * quartiles[2], 3)],
        "samples_per_s": round(num / seconds, 2),
        "peak_mib": round(found.peak_bytes / 2**20) or None,
        "forward_mmac": round(forward_macs(case, size) / 1e6, 2),
        "tflops": round(flops / 1e12, 4),
        "share_of_matmul": round(flops / matmul, 4),
    }


def told_rows(
    rows: Iterable[tuple[str, str]], measured: dict[Case, Measured], size: Size, batch: int
) -> list[dict[str, Any]]:
    """Each row's stages together, relative to the default row: measured, in closed form, published."""

    def seconds(key: tuple[str, str]) -> float:
        parts = ROWS[key].stages(size)
        return sum(n * statistics.median(measured[c].seconds) / batch_of(c, batch) for c, n in parts)

    def macs(key: tuple[str, str]) -> float:
        return sum(n * forward_macs(c, size) for c, n in ROWS[key].stages(size))

    return [
        {
            "table": key[0],
            "row": key[1],
            "cases": [case.name for case, _ in ROWS[key].stages(size)],
            "device_hours": round(seconds(key) / 3600, 3),
            "measured_ratio": round(seconds(key) / seconds(DEFAULT), 3),
            "closed_form_ratio": round(macs(key) / macs(DEFAULT), 3),
            "published_ratio": round(ROWS[key].hours / ROWS[DEFAULT].hours, 3),
        }
        for key in rows
    ]


def chosen_rows(wanted: list[str]) -> list[tuple[str, str]]:
    """Rows named as `TABLE` or `TABLE:ROW`; all if none is named. The default row is always among them."""
    known = [*dict.fromkeys(table for table, _ in ROWS), *(f"{table}:{row}" for table, row in ROWS)]
    if unknown := [name for name in wanted if name not in known]:
        raise SystemExit(f"--rows {' '.join(unknown)}: is unknown; expected some of {', '.join(known)}")
    return [key for key in ROWS if not wanted or key == DEFAULT or key[0] in wanted or f"{key[0]}:{key[1]}" in wanted]


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=SIZES, default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, help="single frames of a step; clips are a quarter (default: the scale's)")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--rows", nargs="*", default=[], help="TABLE or TABLE:ROW, e.g. 4 6:8→4 (default: all)")
    parser.add_argument("--out", type=Path, help="write the JSON to this file")
    options = parser.parse_args(arguments)
    if options.device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    size = SIZES[options.scale]
    batch = options.batch or size.batch
    rows = chosen_rows(options.rows)
    cases = list(dict.fromkeys(case for key in rows for case, _ in ROWS[key].stages(size)))
    measured = measure(cases, size, batch=batch, repeats=options.repeats, device=options.device)
    matmul = matmul_flops(options.device)
    is_gpu = options.device == "cuda"
    document = {
        "scale": options.scale,
        "device": torch.cuda.get_device_name() if is_gpu else f"{platform.processor() or platform.machine()}, 1 thread",
        "torch": torch.__version__,
        "precision": "bf16" if is_gpu else "fp32",
        "text_tokens": size.text_tokens,
        "repeats": options.repeats,
        "matmul_tflops": round(matmul / 1e12, 4),
        "cases": [told_case(case, found, size, batch, matmul) for case, found in measured.items()],
        "rows": told_rows(rows, measured, size, batch),
    }
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

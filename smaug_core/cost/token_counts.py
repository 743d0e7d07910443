"""Numbers of tokens seen and kept: the arithmetic that the model and its cost share."""


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """Patches left visible, rounded down as in MAE: 36 patches at 10 % leave 32, 196 leave 176.

    Raises:
        ValueError: nothing would be left, or `mask_ratio` is outside [0, 1).
    """
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"mask_ratio must be in [0, 1), got {mask_ratio}")
    visible = int(num_patches * (1 - mask_ratio) + 1e-9)  # 1e-9: 100 * (1 - 0.9) is 9.999...
    if visible < 1:
        raise ValueError(f"mask_ratio {mask_ratio} leaves no visible patch of {num_patches}")
    return visible


def num_kept(num_tokens: int, keep_rate: float) -> int:
    """Tokens kept of `num_tokens`, rounded up, counted in integers: 55 of 100 at 0.55, not 56.

    Raises:
        ValueError: `keep_rate` is outside (0, 1].

    Source: EViT's rule, ceil(rate x tokens), [CLS] not counted and an earlier fused token counted.
    """
    if not 0 < keep_rate <= 1:
        raise ValueError(f"keep_rate must be in (0, 1], got {keep_rate}")
    return -(-round(keep_rate * 10_000) * num_tokens // 10_000)

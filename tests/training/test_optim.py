"""The learning rate's course."""

import pytest

from smaug_core.config import ScheduleConfig
from smaug_core.training.optim import learning_rate

SCHEDULE = ScheduleConfig(
    epochs=1, batch_size=4, lr=1.0, min_lr=0.1, warmup_epochs=0.5, beta2=0.999, precision="fp32",
    text_length=8, negatives_group=4,
)  # fmt: skip


def test_warm_up_is_linear_and_the_cosine_ends_at_the_floor():
    rates = [learning_rate(step, 13, 4, SCHEDULE) for step in range(13)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[8] == pytest.approx(0.55)  # half way down
    assert rates[12] == pytest.approx(0.1)


def test_without_warm_up_it_starts_at_the_peak():
    assert learning_rate(0, 10, 0, SCHEDULE) == 1.0

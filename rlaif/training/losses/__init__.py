"""The mathematics of training: pure functions of tensors, nothing else. `losses.<name>` is how the loops use them."""

from rlaif.training.losses.policy import *  # noqa: F403

"""The model of `reconciler demo`, and how it is trained.

    model/         the checkpoint, as `make demo-model` writes it
    questions.py   the questions that it is trained and examined on
    train.py       the training; imports MLX

Nothing here is imported by the worker, and the daemon and the commands import the path alone.
"""

from pathlib import Path

DEMO_MODEL = Path(__file__).with_name("model")
"""The directory of the checkpoint."""

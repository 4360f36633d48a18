"""The model of `reconciler demo`, and its training.

    model/         the checkpoint, as `make demo-model` writes it
    questions.py   the questions that it is trained and tested on
    train.py       the training; imports MLX

The worker imports nothing from here; the daemon and the commands import only the path.
"""

from pathlib import Path

DEMO_MODEL = Path(__file__).with_name("model")
"""The directory of the checkpoint."""

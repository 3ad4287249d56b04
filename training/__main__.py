"""`python -m training RECIPE`: what `accelerate launch -m training` starts on each process."""

from __future__ import annotations

import typer

from training.commands.train import train

if __name__ == "__main__":
    typer.run(train)

"""The program that a sweep starts to keep its W&B runs up to date: `python -m scalesweep.commands.follow RUN_DIR MODE`."""

from __future__ import annotations

import sys

from scalesweep.report.wandb.publish import follow
from scalesweep.search.pick import with_forecasts
from scalesweep.storage import place


def main() -> None:
    run_dir, mode = sys.argv[1:]
    follow(place(run_dir), mode, with_forecasts, lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()

"""The program that a sweep starts to keep its W&B runs up to date, and a promotion to write its run.

`python -m scalesweep.commands.follow RUN_DIR MODE [MODEL]`
"""

from __future__ import annotations

import sys
from pathlib import Path

from scalesweep.commands.parts import hide_failing_threads
from scalesweep.report.wandb.publish import follow, send_promotion
from scalesweep.search.pick import with_forecasts
from scalesweep.storage import place


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    hide_failing_threads()
    run_dir, mode, *model = sys.argv[1:]
    if model:
        send_promotion(place(run_dir), Path(model[0]), mode, with_forecasts, say)
    else:
        follow(place(run_dir), mode, with_forecasts, say)


if __name__ == "__main__":
    main()

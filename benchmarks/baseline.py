"""What a promoted text classifier has to beat: the majority class, and TF-IDF (1–2 grams) with logistic regression.

Reads a run folder, fits on the same training examples as its promoted model, tunes C on the validation split, and
prints one JSON line. Run after a promotion:  python benchmarks/baseline.py runs/quickstart
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from scalesweep import read_record
from scalesweep.data.prepare import prepare
from scalesweep.spec.sweep import DataSpec


def main(run_dir: Path) -> None:
    manifest = read_record(run_dir).manifest
    found = sorted(run_dir.glob("promoted/*/provenance.json"))
    if not found:
        sys.exit(f"error: nothing was promoted in {run_dir}\n\nhint: scalesweep promote {run_dir}")
    provenance = json.loads(found[-1].read_text())
    prepared = prepare(DataSpec(**manifest["data"]["source"]), manifest["spec"]["task"], Path.cwd())
    if prepared.fingerprint != manifest["data"]["fingerprint"]:
        sys.exit("error: the data are not those of the sweep")
    splits = provenance["final_run"]["train_on"]
    texts = [text for split in splits for text in prepared.texts[split]]
    labels = np.concatenate([prepared.labels[split] for split in splits])

    def fit(c: float, x: list[str], y: np.ndarray) -> object:
        features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1)
        return make_pipeline(features, LogisticRegression(C=c, max_iter=2000)).fit(x, y)

    train, validation = prepared.texts["train"], prepared.texts["validation"]
    grid = [0.3, 1.0, 3.0, 10.0, 30.0, 100.0]
    best_c = max(grid, key=lambda c: fit(c, train, prepared.labels["train"]).score(validation, prepared.labels["validation"]))
    test, truth = prepared.texts["test"], prepared.labels["test"]
    print(
        json.dumps(
            {
                "examples": len(texts),
                "majority": round(float(np.bincount(truth).max() / len(truth)), 4),
                "tfidf_logistic_regression": round(float(fit(best_c, texts, labels).score(test, truth)), 4),
                "tfidf_c": best_c,
                "promoted": round(provenance["test"]["eval_accuracy"], 4),
                "promoted_trial": provenance["trial"]["name"],
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart"))

"""The score that a text classifier has to beat: TF-IDF (1–2 grams) with logistic regression, on the same examples.

Reads a run folder after its promotion and prints one JSON line:  python benchmarks/baseline.py runs/quickstart
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from scalesweep import read_record
from scalesweep.data.prepare import PreparedText, prepare
from scalesweep.spec.sweep import DataSpec

GRID = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # of C


@dataclass(frozen=True)
class Tuned:
    """C and its validation accuracy, the best of the grid."""

    c: float
    validation_accuracy: float


def fit(c: float, texts: list[str], labels: np.ndarray) -> Pipeline:
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1)
    return make_pipeline(features, LogisticRegression(C=c, max_iter=2000)).fit(texts, labels)


def tune(prepared: PreparedText) -> Tuned:
    """C with the best validation accuracy, fitted on the train split."""
    (train, validation), (y, truth) = (
        [part[split] for split in ("train", "validation")] for part in (prepared.texts, prepared.labels)
    )
    scores = {c: float(fit(c, train, y).score(validation, truth)) for c in GRID}
    best = max(scores, key=lambda c: scores[c])
    return Tuned(best, scores[best])


def prepared_of(run_dir: Path) -> PreparedText:
    """The texts and labels of a sweep, as it read them."""
    manifest = read_record(run_dir).manifest
    prepared = prepare(DataSpec(**manifest["data"]["source"]), manifest["spec"]["task"], Path.cwd())
    if prepared.fingerprint != manifest["data"]["fingerprint"]:
        sys.exit("error: the data are not those of the sweep")
    return prepared


def main(run_dir: Path) -> None:
    found = sorted(run_dir.glob("promoted/*/provenance.json"))
    if not found:
        sys.exit(f"error: nothing was promoted in {run_dir}\n\nhint: scalesweep promote {run_dir}")
    provenance, prepared = json.loads(found[-1].read_text()), prepared_of(run_dir)
    splits, tuned = provenance["final_run"]["train_on"], tune(prepared)
    texts = [text for split in splits for text in prepared.texts[split]]
    labels = np.concatenate([prepared.labels[split] for split in splits])
    test, truth = prepared.texts["test"], prepared.labels["test"]
    print(
        json.dumps(
            {
                "examples": len(texts),
                "majority": round(float(np.bincount(truth).max() / len(truth)), 4),
                "tfidf_logistic_regression": round(float(fit(tuned.c, texts, labels).score(test, truth)), 4),
                "tfidf_c": tuned.c,
                "promoted": round(provenance["test"]["eval_accuracy"], 4),
                "promoted_trial": provenance["trial"]["name"],
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart"))

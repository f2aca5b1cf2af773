"""Generated answers and the metrics of them, against answers that transformers generates one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from gloo import on_workers
from jobs import job
from scalesweep.errors import UserError
from scalesweep.tasks import answers as task_answers
from scalesweep.training import answers
from scalesweep.training.job import TrialJob
from scalesweep.training.loop import Trainer, train
from scalesweep.training.peers import ALONE, Peers
from tiny_models import DECODERS, save_tiny
from tiny_sweeps import tiny_sweep

TASK = "instruction-tuning"
SCORERS = """\
from dataclasses import dataclass

@dataclass
class Pair:
    answer: str
    reference: str

def shared(answer, reference):
    from beside import MOST
    pair = Pair(answer, reference)
    return len(set(pair.answer) & set(pair.reference)) / MOST

def asks(answer, reference, prompt, weight=0.25):
    return weight * (prompt.count("<sep>") == 1 and prompt.endswith("<sep>") and reference not in prompt)

def accuracy(logits, labels):
    assert logits.shape == (len(labels), 2)
    return (logits.argmax(1) == labels).mean()

def spread(answers, references):
    assert len(answers) == len(references)
    return len(set(answers)) + max(map(len, answers)) / 100

def fails(answer, reference):
    return {}["nothing"]

def infinite(answer, reference):
    return float("inf")
"""


def answering_job(
    folder: Path, kind: str = "llama", scorer: str | None = "shared", most: int | None = None, **changes: Any
) -> TrialJob:
    """A trial that evaluates its answers. Large weights make many different ones."""
    (folder / "beside.py").write_text("MOST = 10\n")
    (folder / "own.py").write_text(SCORERS)
    model = folder / kind
    sweep = tiny_sweep(kind, TASK, model if model.exists() else save_tiny(kind, model, TASK, initializer_range=0.3))
    sweep["data"]["max_length"] = 48  # no conversation is cut
    sweep["metric"] = {"name": "eval_exact_match"}
    found = job({"model_size": kind, "unfreezing": "full", "learning_rate": 3e-3, "rungs": [], **changes}, sweep=sweep)
    own = None if scorer is None else f"{folder}/own.py:{scorer}"
    return replace(found, data=found.data.model_copy(update={"scorer": own, "max_new_tokens": most}))


def classifying_job(folder: Path) -> TrialJob:
    """A trial with a metric of the user's own."""
    own = {"name": "eval_mine", "goal": "maximize", "function": "own:accuracy"}
    (folder / "own.py").write_text(SCORERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return job({"model_size": "bert", "rungs": []}, sweep={**tiny_sweep(), "metric": own, "name": folder.name})


def evaluated(
    peers: Peers, job: TrialJob, at_once: int = 32, fits: int = 1000
) -> tuple[dict[str, float], list[str], list[int]]:
    """The metrics of the untrained model, its answers, and the sizes of the batches. Batches above `fits` fail."""
    answers.AT_ONCE, sizes = at_once, []
    trainer = Trainer(job, peers)
    if trainer.answers is None:
        return trainer.evaluate(), [], sizes
    generate = trainer.model.generate

    def limited(**inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(**inputs)

    trainer.model.generate = limited
    metrics = trainer.evaluate()
    assert bool(trainer.model.generation_config.do_sample) == job.size.model.endswith("samples")
    return metrics, trainer.answers.generated(trainer.passes, trainer.parallel, peers), sizes


def evaluated_together(peers: Peers, jobs: list[TrialJob]) -> list[Any]:
    """`evaluated` in batches of 3, of which 2 fit, and what a function that fails on the second worker alone leads to."""

    def fail() -> None:
        if peers.rank == 1:
            raise UserError("the function fails")

    with pytest.raises(UserError, match="the function fails"):
        answers.together(fail, peers)
    return [evaluated(peers, job, 3, 2) for job in jobs]


def one_by_one(job: TrialJob) -> tuple[list[str], list[str]]:
    """The answers that transformers generates, without padding, and the references, from the rows' own words."""
    trainer = Trainer(job)
    model, split, tokenizer = trainer.model.eval(), trainer.eval_split, trainer.tokenizer
    model.generation_config = GenerationConfig()
    found, references = [], []
    for index in range(len(split)):
        text = tokenizer.decode(split.example(index).tolist())
        prompt, _, reference = text.removesuffix("</s>").rpartition("<sep>")
        ids = tokenizer(f"{prompt}<sep>", add_special_tokens=False, return_tensors="pt")["input_ids"]
        made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=4,
                              eos_token_id=3, pad_token_id=0, use_cache=False)  # fmt: skip
        found.append(tokenizer.decode(made[0, ids.shape[1] :].tolist()).partition("</s>")[0].strip())
        references.append(reference.strip())
    return found, references


@pytest.mark.parametrize("kind", DECODERS)
def test_answers_in_batches_are_those_of_each_prompt_alone(kind: str, tmp_path: Path) -> None:
    made = answering_job(tmp_path, kind, most=4)
    wanted, references = one_by_one(made)
    metrics, found, _ = evaluated(ALONE, made, at_once=7)
    assert found == wanted
    assert len(set(found)) > 5
    assert metrics["eval_exact_match"] == np.mean([a == b for a, b in zip(wanted, references, strict=True)])
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(wanted, references, strict=True)]
    assert metrics["eval_score"] == pytest.approx(np.mean(shared))
    assert metrics["eval_score"] > 0


def test_any_number_of_workers_generates_the_same_and_memory_changes_nothing(tmp_path: Path) -> None:
    """Also where passes meet, and from a checkpoint that samples by its own settings."""
    saved = save_tiny("llama", tmp_path / "samples", TASK, initializer_range=0.3)
    GenerationConfig(do_sample=True, temperature=9.0, repetition_penalty=5.0, max_length=4).save_pretrained(saved)
    made = answering_job(tmp_path)
    made = replace(made, size=made.size.model_copy(update={"model": str(saved)}))
    metrics, found, _ = evaluated(ALONE, made, at_once=3)
    own = classifying_job(tmp_path)
    judged, _, _ = evaluated(ALONE, own)
    jobs = [replace(job, parallel=parallel) for job in (made, own) for parallel in ("replicated", "meeting")]
    for *there, one, other in on_workers(2, evaluated_together, jobs):
        for values, answered, sizes in there:
            assert (values, answered) == (pytest.approx(metrics), found)
            assert {3, 2, 1} >= set(sizes) >= {3, 2}
            assert values["eval_score"] == metrics["eval_score"]
        assert one[0] == other[0] == pytest.approx(judged)
        assert one[0]["eval_mine"] == judged["eval_mine"]


def test_a_model_that_learnt_the_answers_gives_them(tmp_path: Path) -> None:
    made = answering_job(tmp_path, scorer=None, eval_interval=5, max_t=50)
    made = replace(made, train_on=("validation",))
    trainer = Trainer(made)
    first, *_, last = (report.metrics["eval_exact_match"] for report in train(trainer))
    assert first < 0.5 < 0.9 < last
    assert trainer.model.config.use_cache is False
    assert "eval_score" not in trainer.evaluate()
    own = replace(made, data=answering_job(tmp_path, scorer="asks").data)
    assert Trainer(own).evaluate()["eval_score"] > 0


def test_a_metric_of_the_users_own_gets_all_predictions_of_the_split(tmp_path: Path) -> None:
    made = classifying_job(tmp_path)
    assert made.function == f"{tmp_path}/own.py:accuracy"
    found, _, _ = evaluated(ALONE, made)
    assert found["eval_mine"] == pytest.approx(found["eval_accuracy"])
    talks = replace(answering_job(tmp_path), metric="eval_spread", function=f"{tmp_path}/own.py:spread")
    found, answered, _ = evaluated(ALONE, talks)
    assert found["eval_spread"] == len(set(answered)) + max(map(len, answered)) / 100
    assert {"eval_exact_match", "eval_score"} < found.keys()


@pytest.mark.parametrize(("scorer", "words"), [("fails", "own.py:fails raised KeyError in line 25 of /"),
                                               ("infinite", "own.py:infinite returned inf, which is not a finite")])  # fmt: skip
def test_a_scorer_that_fails_ends_the_trial_with_its_name(scorer: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        evaluated(ALONE, answering_job(tmp_path, scorer=scorer))
    assert words in str(caught.value)


def test_the_most_frequent_answer_is_the_guess() -> None:
    questions = [task_answers.Question(np.zeros(1, np.int32), text, 2) for text in ("b", "a", "c", "b", "a")]
    assert task_answers.most_frequent(questions) == "a"

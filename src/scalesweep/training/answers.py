"""Generated answers to the conversations of a split, over all workers, and the metrics that compare them with the data's.

Decoding is greedy. The batches are made before they are dealt out to the workers, so any number of workers computes the same
ones. Prompts are padded on the left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from scalesweep.data.batches import shard
from scalesweep.data.tokens import JoinedSplit, TokenizedSplit
from scalesweep.errors import UserError
from scalesweep.spec.functions import accepts, called, load
from scalesweep.spec.tasks import TASKS
from scalesweep.tasks import task_of
from scalesweep.tasks.answers import SCORES, questions_of
from scalesweep.training.job import TrialJob
from scalesweep.training.micro_batch import ran_out
from scalesweep.training.parallel import Parallel
from scalesweep.training.passes import Passes
from scalesweep.training.peers import Peers

AT_ONCE = 32  # answers in a batch
TOKENS = 2**14  # of a batch, prompts and answers: the cache of keys and values needs memory for each


class Answers:
    """The questions of a split, and the metrics of the answers that a model generates to them.

    Attributes:
        scores: the score of each answer of the last evaluation, by metric and the number of its example.
    """

    scores: Mapping[str, Mapping[int, float]]

    def __init__(self, job: TrialJob, split: TokenizedSplit | JoinedSplit, tokenizer: Any) -> None:
        self.job = job
        self._answers: list[str] = []
        self.answering = task_of(job.task).answering(job.data, tokenizer)
        found = questions_of(split, self.answering)
        self.examples, self.questions = list(found), list(found.values())
        self.most = job.data.max_new_tokens or max(question.tokens for question in self.questions)

    def metrics(self, passes: Passes, parallel: Parallel, peers: Peers) -> dict[str, float]:
        """The metrics of generated answers. The model must be in evaluation mode. All workers call it together.

        Raises:
            UserError: a function of the user's fails, on any worker.
        """
        answers = self.generated(passes, parallel, peers)
        mine = shard(np.arange(len(self.questions)), peers.rank, peers.world)
        names = list(SCORES) + ["eval_score"] * (self.job.data.scorer is not None)

        def score() -> dict[str, list[float]]:
            pairs = [(answers[index], self.questions[index].reference) for index in mine]
            found = {name: [function(*pair) for pair in pairs] for name, function in SCORES.items()}
            if (scorer := self.job.data.scorer) is not None:
                prompts = (
                    [(self.answering.prompt(self.questions[index]),) for index in mine]
                    if accepts(load(scorer), 3)
                    else [()] * len(mine)
                )
                found["eval_score"] = [called(scorer, *pair, *more) for pair, more in zip(pairs, prompts, strict=True)]
            return found

        scores = {name: np.zeros(len(self.questions)) for name in names}
        for rank, found in enumerate(together(score, peers)):
            for name, values in found.items():
                scores[name][rank :: peers.world] = values
        self.scores = {name: dict(zip(self.examples, values.tolist(), strict=True)) for name, values in scores.items()}
        self._answers = answers
        return self.of_part(slice(0, self.examples[-1] + 1), peers)

    def of_part(self, part: slice, peers: Peers) -> dict[str, float]:
        """The metrics of the last evaluation's answers to some examples of the split; empty if none of them is a question."""
        places = [place for place, example in enumerate(self.examples) if part.start <= example < part.stop]
        if not places:
            return {}
        scores = {name: np.array(list(found.values()))[places] for name, found in self.scores.items()}
        metrics = {name: float(values.mean()) for name, values in scores.items()}
        if self.job.function is not None:
            pairs = [(self._answers[place], self.questions[place].reference) for place in places]
            metrics[self.job.metric] = judged(self.job.function, peers, *map(list, zip(*pairs, strict=True)))
        return metrics

    @torch.no_grad()
    def generated(self, passes: Passes, parallel: Parallel, peers: Peers) -> list[str]:
        """The answer to each question, on every worker."""
        batches = self._batches()
        mine = shard(np.arange(len(batches)), peers.rank, peers.world)
        answers: dict[int, str] = {}
        model = passes.method.model
        own = model.generation_config
        model.generation_config = GenerationConfig()  # a checkpoint's own may sample, or punish repetitions
        try:
            for turn in range(-(-len(batches) // peers.world)):
                if turn < len(mine) or parallel.equal_passes:
                    batch = batches[int(mine[turn])] if turn < len(mine) else batches[-1][-1:]
                    answers |= self._of_batch(batch, passes, parallel, peers)
        finally:
            model.generation_config = own
        for found in peers.gathered(answers):
            answers |= found
        return [answers[index] for index in range(len(self.questions))]

    def _batches(self) -> list[np.ndarray]:
        """All questions in batches of prompts of similar length, the longest first."""
        lengths = np.array([len(question.prompt) for question in self.questions])
        order, batches = np.argsort(-lengths, kind="stable"), []
        while len(order):
            size = max(1, min(AT_ONCE, TOKENS // (int(lengths[order[0]]) + self.most)))
            batches.append(order[:size])
            order = order[size:]
        return batches

    def _of_batch(self, batch: np.ndarray, passes: Passes, parallel: Parallel, peers: Peers) -> dict[int, str]:
        """The answers to some questions. Where memory runs out, half of them at a time."""
        made: list[np.ndarray] = []
        error = ran_out(lambda: made.extend(self._generate(batch, passes, parallel.equal_passes and peers.world > 1)))
        failed = error is not None
        if parallel.equal_passes:
            failed = peers.any(failed, passes.precision.device)
        if not failed:
            return {int(index): self.answering.text(tokens)[0] for index, tokens in zip(batch, made, strict=True)}
        if error is not None and len(batch) == 1:
            raise error
        half = -(-len(batch) // 2)
        parts = [batch[:half], batch[half:] if len(batch) > 1 else batch]
        return {index: text for part in parts for index, text in self._of_batch(part, passes, parallel, peers).items()}

    def _generate(self, batch: np.ndarray, passes: Passes, synced: bool) -> Iterable[np.ndarray]:
        prompts = [self.questions[index].prompt for index in batch]
        width = max(map(len, prompts))
        tokens = np.full((len(prompts), width), passes.pad_id, dtype=np.int64)
        mask = np.zeros_like(tokens)
        for row, prompt in enumerate(prompts):
            tokens[row, width - len(prompt) :] = prompt
            mask[row, width - len(prompt) :] = 1
        device, model = passes.precision.device, passes.method.model
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=min(self.most, positions - width) if positions else self.most,
            eos_token_id=sorted(self.answering.stops),
            pad_token_id=passes.pad_id,
            use_cache=True,
        )
        with passes.precision.autocast():
            made = model.generate(
                input_ids=torch.from_numpy(tokens).to(device),
                attention_mask=torch.from_numpy(mask).to(device),
                generation_config=config,
                synced_gpus=synced,
            )[:, width:]
        # With the cache every token passes the model once.
        passes.flops += passes.method.costs.forward(len(prompts), width + made.shape[1])
        return list(made.cpu().numpy())


def asked(job: TrialJob) -> bool:
    """Whether the sweep's metric needs generated answers."""
    generated = TASKS[job.task].generated
    return job.metric in generated or (bool(generated) and job.function is not None)


def judged(function: str, peers: Peers, *arguments: Any) -> float:
    """The number that a user's function returns on the first worker, on every worker. Raises UserError if it fails."""
    return float(together(lambda: called(function, *arguments) if peers.rank == 0 else 0.0, peers)[0])


def together(function: Callable[[], Any], peers: Peers) -> list[Any]:
    """The results of each worker's `function`, by rank.

    Raises:
        UserError: that of the first worker whose function raised one, on every worker, so that none waits for it.
    """
    try:
        outcome = function()
    except UserError as error:
        outcome = error
    found = peers.gathered(outcome)
    for one in found:
        if isinstance(one, UserError):
            raise one
    return found

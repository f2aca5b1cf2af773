"""The tasks: a file per name of `spec.tasks.TASKS` (with _ for -), whose class `Task` makes examples, losses and metrics.

A task turns rows of text into tokens and targets, names the model class and prepares its config, and adds up the loss and what
its metrics need. It knows nothing of workers, memory, caches or files. torch and transformers are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from scalesweep.tasks.metrics import Totals

if TYPE_CHECKING:
    import torch

    from scalesweep.spec.sweep import DataSpec
    from scalesweep.tasks.answers import Answering
    from scalesweep.tasks.conversations import RowProblem

IGNORED = -100  # the target where nothing is predicted, as in torch's cross-entropy


@dataclass(frozen=True)
class Encoded:
    """Examples made from some rows, one after another.

    tokens: int32 [tokens].
    lengths: tokens of each example, int64 [examples].
    bytes: UTF-8 bytes of the text that each example covers, int64 [examples].
    targets: int32 [tokens]; the token that is predicted from the tokens up to here, or IGNORED. None if a row's target is its
        class; then there is one example for each row.
    types: token types of sentence pairs, uint8 [tokens]; None without.
    rows: the row of each example, ascending, int64 [examples]; None where each row is one example.
    truncated: rows that were cut.
    unknown_tokens: tokens of the text that the tokenizer doesn't know.
    left_out: why a row gave no example, for each such row.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    bytes: np.ndarray
    targets: np.ndarray | None = None
    types: np.ndarray | None = None
    rows: np.ndarray | None = None
    truncated: int = 0
    unknown_tokens: int = 0
    left_out: Sequence[RowProblem] = ()


class BaseTask:
    """The task's part in data, model, loss and metrics.

    Attributes:
        per_token: whether targets belong to tokens; otherwise each row has a class.
        control_words: whether an exported model's tokenizer reads control words in a text, such as </s>, as control tokens.
        templates: whether the task writes control words around a row's texts itself.
        packs: whether a row may hold several examples, because no token sees later ones.
        guess: how the baseline guesses, in words.
        measures: what `measured` returns of each prediction, in order.
    """

    per_token: bool
    control_words: bool
    templates = False
    packs = False
    guess: str
    measures: tuple[str, ...] = ("loss",)

    # ---- data ----------------------------------------------------------------------------------------------------------

    def columns(self, data: DataSpec, names: Sequence[str]) -> dict[str, str]:  # noqa: ARG002
        """The columns of the data that are read, and the key of `data` that each serves. `names`: those that there are.

        Raises:
            UserError: the columns do not fit the task.
        """
        texts = [data.text] if isinstance(data.text, str) else data.text
        others = {"label": data.label, "group": data.group}
        return dict.fromkeys(texts, "text") | {name: key for key, name in others.items() if name is not None}

    def row_reader(self, data: DataSpec, names: Sequence[str]) -> Callable[[Mapping[str, Any]], str] | None:  # noqa: ARG002
        """A function from a row's cells to its text, which raises RowProblem; None where the cells are the texts."""
        return None

    def words(self, text: str) -> str:
        """The words of a row's text, by which rows are compared."""
        return text

    def parts(self, text: str) -> Sequence[str]:
        """The texts that a row's text is made of."""
        return [text]

    def identity(self, data: DataSpec, tokenizer: Any) -> dict[str, Any]:  # noqa: ARG002
        """The values that the tokens depend on beside the texts, the tokenizer and `max_length`. JSON values."""
        return {}

    def least_tokens(self, data: DataSpec, tokenizer: Any) -> int:
        """The smallest `max_length` with room for text.

        Raises:
            UserError: the tokenizer lacks something that the task needs.
        """
        raise NotImplementedError

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None, data: DataSpec, tokenizer: Any) -> Encoded:
        """The examples of some rows. `pairs`: the second texts of sentence pairs."""
        raise NotImplementedError

    def shown(self, tokens: np.ndarray, targets: np.ndarray, tokenizer: Any) -> list[tuple[str, bool]]:  # noqa: ARG002
        """An example in parts, each with whether it is learnt; [] where every example is learnt alike."""
        return []

    def answering(self, data: DataSpec, tokenizer: Any) -> Answering:
        """The ends of the answers that a model generates, where the task has metrics of them."""
        raise NotImplementedError

    # ---- model ---------------------------------------------------------------------------------------------------------

    def auto_class(self) -> Any:
        """The class of transformers that builds the model from a config."""
        raise NotImplementedError

    def check_architecture(self, config: Any, model: str) -> None:
        """Refuse an architecture that transformers builds for the task although it can't learn it.

        Raises:
            UserError: names `model`.
        """

    def configure(self, config: Any, classes: Sequence[str]) -> None:
        """Set the fields of the config that belong to the task."""

    # ---- loss and metrics ----------------------------------------------------------------------------------------------

    def loss_sum(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        label_smoothing: float = 0.0,
        class_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Cross-entropy in nats, float32, summed over predictions.

        Args:
            logits: [predictions, outcomes].
            targets: classes or tokens, [predictions].
            class_weights: float32 [outcomes]; each loss counts as often as the weight of its target says.
        """
        from torch.nn import functional

        if class_weights is None:
            return functional.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=label_smoothing)
        # torch's own weights count the classes of the smoothed target too; then a batch has no one weight to divide by.
        losses = functional.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=label_smoothing)
        return losses @ class_weights[targets]

    def measured(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The `measures` of each prediction, float64 [predictions, measures]: the loss in nats, then what the metrics need."""
        from torch.nn import functional

        return functional.cross_entropy(logits.float(), targets, reduction="none").double()[:, None]

    def totals(self, found: np.ndarray, count: float, n_bytes: float, labels: np.ndarray | None, classes: int) -> Totals:  # noqa: ARG002
        """The sums of a whole split.

        Args:
            found: what `measured` returned, summed over each example's predictions, [examples, measures].
            count: the split's predictions.
            n_bytes: its bytes.
            labels: the class of each example, [examples]; None without classes.
        """
        return Totals(float(found[:, 0].sum()), count, n_bytes)

    def guessed(self, nll: float, train: np.ndarray, validation: np.ndarray, n_bytes: float) -> Totals:  # noqa: ARG002
        """The totals of guessing. `train` and `validation` count each outcome in the split, `nll` is the loss."""
        return Totals(nll, float(validation.sum()), n_bytes)


@cache
def task_of(name: str) -> BaseTask:
    """The task of this name, from the file of its name."""
    made: BaseTask = import_module(f"{__name__}.{name.replace('-', '_')}").Task()
    return made


def unknown_tokens(rows: Sequence[Sequence[int]], tokenizer: Any) -> int:
    """The number of unknown tokens among token ids. Some decoders use EOS for them; their vocabularies cover every byte."""
    if tokenizer.unk_token_id is None or tokenizer.unk_token_id == tokenizer.eos_token_id:
        return 0
    return sum(list(row).count(tokenizer.unk_token_id) for row in rows)


def utf8_bytes(text: str) -> int:
    return len(text.encode())

"""Drawing each row's next token from the model's states, and writing it down."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from betastar.maths.distributions import entropy
from betastar.models.logprobs import head_logits, lm_head
from betastar.models.rows import Rows
from betastar.randomness import exponential_noise
from betastar.record.responses import Response


class Output(NamedTuple):
    """Sampled tokens `[N + 1, limit + 1]`, and per row their number and the sums over them, `[N + 1]`. The last row and
    the last column are for what is computed and belongs to no response."""

    token: Tensor
    length: Tensor
    logprob: Tensor
    entropy: Tensor

    @staticmethod
    def blank(rows: int, limit: int, device: torch.device) -> Output:
        whole = torch.zeros(rows + 1, limit + 1, dtype=torch.long, device=device)
        return Output(whole, whole.new_zeros(rows + 1), *(torch.zeros(rows + 1, device=device) for _ in range(2)))

    @property
    def limit(self) -> int:
        return self.token.shape[1] - 1

    def responses(self, prompts: Sequence[Sequence[int]], end_tokens: Collection[int]) -> list[Response]:
        """Those to all `prompts [N]`."""
        result = []
        rows = zip(prompts, *(field[:-1].tolist() for field in self), strict=True)
        for prompt, row, length, logprob, entropies in rows:
            result.append(
                Response(prompt, row[:length], row[length - 1] not in end_tokens, logprob, entropies / length)
            )
        return result


class Sampler(NamedTuple):
    """Draws tokens of `model` and writes them to `output`; one of the tokens `ends`, or the limit, ends a row."""

    model: Any
    output: Output
    ends: Tensor
    temperature: float

    def __call__(self, hidden: Tensor, rows: Rows, step: int | Tensor) -> tuple[Tensor, Rows]:
        """Draw each row's next token from its state `hidden [R, d]` and write it down: the tokens `[R, 1]`, and the
        rows as they are then."""
        logprobs = head_logits(lm_head(self.model), hidden).log_softmax(dim=-1)
        position = step - rows.begun
        chosen = choose(logprobs, rows.keys, rows.stream, position, self.temperature)
        sampled = position[rows.stream]
        self._record(rows, sampled, chosen, logprobs)
        ended = (chosen[:, None] == self.ends).any(dim=1) | (sampled + 1 >= self.output.limit)
        return chosen[:, None], rows._replace(live=rows.live & ~ended)

    def _record(self, rows: Rows, sampled: Tensor, chosen: Tensor, logprobs: Tensor) -> None:
        """Write what the live rows chose; masked, not selected, which would make a GPU wait for the row numbers. A row
        that has ended writes behind its end."""
        output = self.output
        logprob = logprobs.gather(-1, chosen[:, None]).squeeze(-1)
        output.token[rows.output, sampled.clamp(max=output.limit)] = chosen
        output.length[rows.output] += rows.live
        output.logprob[rows.output] += logprob.where(rows.live, 0.0)
        output.entropy[rows.output] += entropy(logprobs).where(rows.live, 0.0)


def choose(logprobs: Tensor, keys: Tensor, stream: Tensor, position: Tensor, temperature: float) -> Tensor:
    """The next token of each row `[R]`: an exponential race with the noise of stream number `stream [R]`, which has a
    key and a position in `keys` and `position [streams]`; or the most probable one at temperature 0."""
    if temperature == 0:
        return logprobs.argmax(dim=-1)
    noise = exponential_noise(keys, position, logprobs.shape[-1]).log_()
    scaled = logprobs if temperature == 1 else logprobs / temperature
    return (scaled - noise[stream]).argmax(dim=-1)

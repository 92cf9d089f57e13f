"""Work that does not fit is cut smaller and comes out the same."""

from __future__ import annotations

import re

import pytest
import torch

from betastar.errors import BetastarError
from betastar.experiment.memory import READ_REMEDY, Room, one_sentence_without_memory
from betastar.progress import Reporter


class Lines(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def machine(fits: int, error: Exception):
    """Work that runs out of memory with more than `fits`; notes every size that was tried."""
    tried: list[int] = []

    def attempt(most: int) -> str:
        tried.append(most)
        if most > fits:
            raise error
        return f"done with {most}"

    return attempt, tried


OUT = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("MPS backend out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT, ids=lambda error: str(error)[:12])
def test_pieces_halve_until_they_fit_and_stay_small(error: Exception) -> None:
    said = Lines()
    room = Room(4096, 64, said)
    attempt, tried = machine(700, error)
    assert room.for_tokens(100, attempt) == "done with 512"
    assert tried == [4096, 2048, 1024, 512]
    assert "512 tokens at once" in said.lines[-1]
    assert room.for_tokens(100, attempt) == "done with 512"
    assert tried[4:] == [512]


def test_one_sequence_that_does_not_fit_is_one_sentence() -> None:
    room = Room(1000, 8, Lines())
    attempt, tried = machine(200, MemoryError())
    with pytest.raises(BetastarError, match=r"one sequence of 300 tokens at a time; lower lengths\.prompt"):
        room.for_tokens(300, attempt)
    assert tried == [1000, 500, 300]
    attempt, tried = machine(3, MemoryError())
    with pytest.raises(BetastarError, match=r"each of 5 conditions; lower lengths\.generated"):
        room.for_rows(5, attempt)
    assert tried == [8, 5]


def test_other_errors_are_not_taken_for_a_full_memory() -> None:
    attempt, tried = machine(0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        Room(1000, 8, Lines()).for_tokens(1, attempt)
    assert tried == [1000]


def test_what_reads_is_not_told_to_recompute_activations() -> None:
    """Checkpointing helps a backward pass alone, and members score a sequence together."""
    attempt, _ = machine(0, MemoryError())
    room = Room(4, 8, Lines())
    with pytest.raises(BetastarError) as error:
        room.for_tokens(4, attempt, READ_REMEDY)
    assert "gradient_checkpointing" not in str(error.value)
    assert "lengths.generated" in str(error.value)


@pytest.mark.parametrize(
    ("stage", "remedy"),
    [
        ("results", "free some, or lower evaluation.problems, evaluation.answers or evaluation.samples"),
        ("plasticity", "lower online.conditions_at_once or evaluation.plasticity, or choose a smaller model"),
        ("best_of_n", "lower evaluation.best_of or evaluation.best_of_problems, or choose a smaller model"),
        ("reference", "choose a smaller model or load it with quantization nf4"),
    ],
)
def test_memory_that_runs_out_names_what_helps_in_that_stage(stage: str, remedy: str) -> None:
    one_sentence = pytest.raises(BetastarError, match=rf"^{stage}: out of memory; {re.escape(remedy)}")
    with one_sentence, one_sentence_without_memory(stage):
        raise MemoryError

"""`GoodhartMonitor`, a callback of TRL's GRPO and RLOO trainers."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from accelerate.utils import broadcast_object_list
from transformers import ProcessorMixin, Trainer, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from betastar.data.graders import grade_gsm8k
from betastar.errors import BetastarError
from betastar.monitor import rows as record
from betastar.monitor.answering import digest, generation_settings, held_out, reference_of
from betastar.monitor.evaluation import ALWAYS, Evaluation, Instrument, TrueReward, evaluate, sampled, shown
from betastar.monitor.gaps import Start, planned_looks, rate_of, start_of
from betastar.monitor.measuring import check_labels, is_above, logged, row_of
from betastar.monitor.scoring import RewardFunction, given_proxy, trainer_proxy

SAMPLING = ("max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")

logger = logging.getLogger(__name__)


class GoodhartMonitor(TrainerCallback):
    """Answers held-out problems before training, every `every` steps and at the end, and records how far the proxy
    reward has run ahead of the true reward: as `goodhart/…` in the trainer's own logs, and as a row of `path`, a JSON
    Lines file that `betastar analyze` reads. It does not change training. See docs/monitor.md.

        monitor = GoodhartMonitor(trainer, problems, every=50)
        trainer.add_callback(monitor)

    `problems`: pairs (prompt, gold answer), or rows with `prompt`, the column named `gold`, and the columns that the
    trainer's reward functions read. `true(completion, gold)` returns a bool or a number; the default reads `#### n`, as
    in GSM8K. `proxy`: None for the trainer's own reward, else a function of (prompts, completions), or a list of them,
    the members of an ensemble.

    The starting policy answers `replicates` times with different noise. This calibrates `threshold`, the gap that
    sampling noise alone exceeds at some point of the whole planned run with probability `false_alarm_rate`
    (monitor/gaps.py). `stop_above`: "auto" stops training when the gap exceeds the threshold; a number sets your own
    threshold.

    `answers`: answers to each problem. From two on, each row says how well the proxy ranks right over wrong answers to
    the same problem. `labels`: variant, beta and seed of the run, written to the file. `batch_size`: responses
    generated at once, by default the trainer's evaluation batch size. `temperature`: by default the trainer's.
    `samples`: full responses kept in each row.

    Raises BetastarError for settings or trainers that cannot be monitored.
    """

    def __init__(
        self,
        trainer: Any,
        problems: Iterable[Any],
        *,
        every: int = 50,
        true: TrueReward = grade_gsm8k,
        gold: str = "answer",
        proxy: RewardFunction | Sequence[RewardFunction] | None = None,
        stop_above: float | Literal["auto"] | None = None,
        false_alarm_rate: float = 0.05,
        replicates: int = 4,
        answers: int = 1,
        path: str | Path | None = None,
        labels: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        temperature: float | None = None,
        samples: int = 4,
        noise_seed: int = 0,
    ) -> None:
        _check_trainer(trainer)
        labels = dict(labels or {})
        size = trainer.args.per_device_eval_batch_size if batch_size is None else batch_size
        counts = {"every": every, "replicates": replicates, "answers": answers, "batch_size": size}
        _check_settings(counts, stop_above, false_alarm_rate, temperature, labels)
        self.trainer, self.every, self.replicates, self.samples = trainer, every, replicates, samples
        self.stop_above, self.false_alarm_rate, self.labels = stop_above, false_alarm_rate, labels
        self.path = Path(trainer.args.output_dir) / "goodhart.jsonl" if path is None else Path(path)
        self.instrument = Instrument(
            trainer=trainer,
            problems=[problem for problem in held_out(problems, gold) for _ in range(answers)],
            answers=answers,
            proxy=trainer_proxy(trainer) if proxy is None else given_proxy(proxy),
            true=true,
            config=generation_settings(trainer, temperature),
            reference=reference_of(trainer),
            batch_size=size,
            noise_seed=noise_seed,
        )
        self._start: Start | None = None
        self._last: record.Row = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate the start, or find it in the file where training resumes."""
        if state is not self.trainer.state:
            raise BetastarError("This GoodhartMonitor belongs to another trainer; create one for each trainer.")
        kept: list[Any] = [None]
        if state.is_world_process_zero:
            kept = [record.resume(self.path, state.global_step) if state.global_step else record.begin(self.path)]
        rows = broadcast_object_list(kept)[0] or []
        self._last = {}
        if rows:
            self._resume(rows, state)
            return
        if state.global_step:
            logger.warning(
                "%s does not contain the start of this run; step %d is used instead.", self.path, state.global_step
            )
        replicates = [evaluate(self.instrument, replicate) for replicate in range(self.replicates)]
        looks = self._looks(state, state.global_step)
        self._start = start_of([(f.proxy, f.true) for f in replicates], looks, self.instrument.answers)
        if self.stop_above == "auto" and not self._start.noise > 0:
            raise BetastarError(
                "GoodhartMonitor cannot calibrate stop_above='auto': sampling noise changes no reward at the start, or "
                "the proxy has no spread there; give a number."
            )
        gap_noise = math.sqrt(2) * self._start.noise
        # To the last digit as a resumed run reads it.
        self._start = self._start._replace(noise=gap_noise / math.sqrt(2))
        row: record.Row = {"instrument": self._digest(), "gap_noise": gap_noise}
        if isinstance(self.stop_above, int | float):
            row["false_alarm_rate"] = rate_of(self._start, self.stop_above)
        row["again"] = [sampled(self.instrument, found).means for found in replicates[1:]]
        self._write(replicates[0], state, control, row)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Evaluate where it is due, and where the gap is above the threshold say so, or end training."""
        if state.global_step % self.every == 0 or control.should_training_stop:
            self._write(evaluate(self.instrument), state, control)
            gap, threshold = self._last["gap_standardised"], self._last["threshold"]
            above = is_above(self._last)
            stop = above and self.stop_above is not None and not control.should_training_stop
            if state.is_world_process_zero and (stop or (above and self._last["onset"] == state.global_step)):
                what = "GoodhartMonitor: at step %d the Goodhart gap is %.3g, above the threshold of %.3g%s."
                logger.warning(what, state.global_step, gap, threshold, "; training stops" if stop else "")
            if stop:
                control.should_training_stop = True
                control.should_save |= args.save_strategy == SaveStrategy.STEPS
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate the end where another callback stopped training, unless the best checkpoint was loaded over it."""
        replaced = args.load_best_model_at_end and state.best_model_checkpoint is not None
        if self._last.get("step") != state.global_step and not replaced:
            self._write(evaluate(self.instrument), state, control)

    def _resume(self, rows: list[record.Row], state: Any) -> None:
        if rows[0].get("instrument") != self._digest():
            raise BetastarError(
                f"{self.path}: it was written with other held-out problems or sampling settings; use the same ones, or "
                "another path."
            )
        first, noise = rows[0]["responses"], rows[0]["gap_noise"]
        looks = self._looks(state, rows[0]["step"])
        start = start_of([(first["proxy"], first["true"])], looks, self.instrument.answers)
        self._start = start._replace(noise=math.nan if noise is None else noise / math.sqrt(2))
        self._last = rows[-1]

    def _write(self, found: Evaluation, state: Any, control: Any, more: Mapping[str, Any] | None = None) -> None:
        """Put an evaluation, and what there is to say `more`, into the file and the trainer's logs."""
        assert self._start is not None
        no_reference = self.instrument.reference.reason
        self._last = row_of(
            self._start,
            sampled(self.instrument, found),
            state.global_step,
            onset=self._last.get("onset"),
            stop_above=self.stop_above,
            rate=self.false_alarm_rate,
            labels=self.labels,
            always=ALWAYS,
            samples=shown(self.instrument.problems, found, self.samples),
            missing={} if no_reference is None else {"kl": no_reference},
            no_ensemble=self.instrument.proxy.no_ensemble,
            more=more or {},
        )
        if state.is_world_process_zero:
            record.append(self.path, self._last)
        # TRL's own `log` would empty its running training metrics into this row, and `on_log` forgets that a log of the
        # training is due at this step.
        due = control.should_log
        Trainer.log(self.trainer, logged(self._last))
        control.should_log = due

    def _digest(self) -> str:
        return digest(self.instrument.problems, [getattr(self.instrument.config, name) for name in SAMPLING])

    def _looks(self, state: Any, start: int) -> int:
        """How many evaluations the run plans after step `start`."""
        return max(1, planned_looks(start, state.max_steps, self.every))


def _check_trainer(trainer: Any) -> None:
    """Refuse what would measure another policy than the one that trains, or hang."""
    if not all(hasattr(trainer, name) for name in ("reward_funcs", "reward_weights", "add_callback")):
        raise BetastarError(
            f"GoodhartMonitor was given a {type(trainer).__name__}; it needs TRL's GRPOTrainer or RLOOTrainer."
        )
    for name in ("tools", "rollout_func", "environment_factories"):
        if getattr(trainer, name, None):
            raise BetastarError(
                f"GoodhartMonitor supports single-turn answers only, so it cannot be used with {name}; remove it."
            )
    if isinstance(trainer.processing_class, ProcessorMixin):
        raise BetastarError(
            f"GoodhartMonitor supports text only, but this trainer has a {type(trainer.processing_class).__name__}; "
            "give the trainer its tokenizer as processing_class."
        )
    deepspeed = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    split = trainer.is_fsdp_enabled or getattr(trainer, "is_distributed_loading_by_transformers", False)
    if split or (deepspeed is not None and deepspeed.zero_stage == 3):
        raise BetastarError(
            "GoodhartMonitor needs the whole model in each process, but this trainer splits it (FSDP, DeepSpeed "
            "ZeRO-3 or tensor parallel); use DDP."
        )


def _check_settings(
    counts: Mapping[str, int],
    stop_above: float | str | None,
    rate: float,
    temperature: float | None,
    labels: Mapping[str, Any],
) -> None:
    for name, value in counts.items():
        if value < 1:
            raise BetastarError(f"GoodhartMonitor: {name} is {value}; give at least 1.")
    number = isinstance(stop_above, int | float) and not isinstance(stop_above, bool) and math.isfinite(stop_above)
    if stop_above not in (None, "auto") and not number:
        raise BetastarError(f"GoodhartMonitor: stop_above is {stop_above!r}; give 'auto', a number, or nothing.")
    if not 0 < rate <= 0.5:
        raise BetastarError(f"GoodhartMonitor: false_alarm_rate is {rate}; give a probability up to 0.5.")
    if stop_above == "auto" and (counts["replicates"] * counts["answers"] < 2 or temperature == 0):
        raise BetastarError(
            "GoodhartMonitor: stop_above='auto' is calibrated on sampling noise, which needs at least 2 replicates "
            "or answers and a temperature above 0; give a number."
        )
    check_labels("GoodhartMonitor", labels)

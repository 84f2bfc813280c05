"""Training with a run folder: every epoch logged and saved, the best kept, frozen parts proved."""

import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tlcli.backbones.weight_files import load_state
from tlcli.engine.interrupts import StopRequested, StopSignals
from tlcli.engine.loop import NonFiniteLoss, fit
from tlcli.engine.runtime import Runtime
from tlcli.engine.tasks import Batch, Task
from tlcli.engine.training_state import TrainingState
from tlcli.errors import InterruptedRunError, NonFiniteLossError
from tlcli.models.frozen_proof import FrozenReport, check_frozen, digests_of, frozen_digests
from tlcli.models.saved_model import read_weights, save_weights
from tlcli.recipes.run_records import OUT_OF_TIME
from tlcli.recipes.talk import Talk
from tlcli.results.counted import counted
from tlcli.results.records import EpochReport
from tlcli.results.run_dir import RunDirectory

_SMALLER_IS_BETTER = ("loss",)
_FILES_SHOWN = 8


@dataclass(kw_only=True)
class History:
    """What the epochs so far amount to; part of every checkpoint."""

    best_epoch: int = 0
    best_value: float | None = None
    best_loss: float | None = None
    last_gain: int = 0
    """The last epoch that was better than all before; a tie is none."""
    proofs: list[dict[str, Any]] = field(default_factory=list)
    """Of the phases that are over."""
    seconds_train: float = 0.0
    seconds_eval: float = 0.0
    is_over: bool = False
    """Whether patience ended the training before its last epoch."""
    seconds_spent: float = 0.0
    """Of the time budget, by all sittings."""
    is_out_of_time: bool = False
    """Whether the time budget ended this sitting; never in a checkpoint."""

    @property
    def stopped(self) -> str | None:
        """What ended the training before its last epoch, as `run.json` has it."""
        if self.is_out_of_time:
            return OUT_OF_TIME
        return "patience" if self.is_over else None

    def improves(self, epoch: int, metrics: Mapping[str, float], *, monitor: str) -> bool:
        """Take an epoch in; say whether it is the best so far.

        Ties go to the lower loss and then to the earlier epoch; where no loss is measured, to the
        later one, which has seen more.
        """
        value, loss = metrics[monitor], metrics.get("loss")
        gain = 1.0
        if self.best_value is not None:
            gain = (value - self.best_value) * (-1 if monitor in _SMALLER_IS_BETTER else 1)
            if loss is not None and self.best_loss is not None and gain == 0:
                gain = self.best_loss - loss or -1.0
            if gain < 0:
                return False
        if gain > 0:
            self.last_gain = epoch
        self.best_epoch, self.best_value, self.best_loss = epoch, value, loss
        return True

    def best_json(self, monitor: str) -> dict[str, Any]:
        """Return `best` of `run.json`."""
        return {"epoch": self.best_epoch, "metric": f"val/{monitor}", "value": self.best_value}


class OutOfTime(StopRequested):
    """The time budget is spent; the state is consistent between two steps."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training with everything it needs, ready to start or to go on."""

    command: str
    """That goes on with the run, for messages."""
    task: Task
    state: TrainingState
    run: RunDirectory
    runtime: Runtime
    epochs: int
    steps_per_epoch: int
    patience: int
    max_seconds: float | None
    """Of training and validation, over all sittings; None is no limit."""
    monitor: str
    clip_grad: float
    train_steps: Callable[[int, int], Iterable[Sequence[Batch]]]
    validate: Callable[[], Mapping[str, float]]
    file_of: Callable[[int], str]
    """Name of a training image by its row, for messages."""
    talk: Talk
    clock: Callable[[], float] = time.monotonic
    """Seconds from some moment on."""

    def start(self, seconds_spent: float = 0.0) -> History:
        """Record what is frozen at first and save the state before the first step.

        Args:
            seconds_spent: Of the time budget, on what came before.
        """
        history = History(seconds_spent=seconds_spent)
        self._begin_phase()
        self._save(history)
        return history

    def go_on(self) -> History:
        """Take up the last checkpoint of the run folder."""
        extra = self.state.load(self.run.checkpoint_path, device=self.runtime.device)
        self.run.keep_metrics_until(self.state.epoch)
        self.talk.note(f"Going on after {self._done} of the next.")
        return History(**extra)

    @property
    def _done(self) -> str:
        """What was trained so far, in words."""
        return f"{counted(self.state.epoch, 'epoch')} and {counted(self.state.step, 'step')}"

    def judge_start(self, history: History) -> None:
        """Let the model as it starts count as epoch 0: training has to beat it to be kept.

        Does nothing if that has been done, or training is on its way.

        Raises:
            StopRequested: If validation is asked to stop.
        """
        if history.best_value is not None or self.state.epoch or self.state.step:
            return
        watch = self._stopwatch(history)
        metrics = dict(self.validate())
        watch()
        history.improves(0, metrics, monitor=self.monitor)
        save_weights(self.state.judged_network, self.run.weights_path)
        self.run.update(initial=metrics)
        self.talk.note(
            f"Before the first step: val top-1 {100 * metrics['top1']:.1f} %, "
            f"loss {metrics['loss']:.4g} (epoch 0)."
        )
        self._save(history)

    def train(self, history: History, *, signals: StopSignals) -> None:
        """Run the epochs that are left, as far as the time budget reaches.

        Args:
            history: Is moved along.
            signals: End it; everything that asks them stops when the time is up as well.

        Raises:
            StopRequested: If a signal came; the state can be saved then.
            NonFiniteLossError: If the loss is not finite; the last checkpoint is from before.
        """
        history.is_out_of_time = False
        if history.is_over:
            return
        if self.max_seconds is not None:
            epochs = "the one epoch" if self.epochs == 1 else f"all {self.epochs} epochs"
            self.talk.note(
                "--max-time ends training and validation, not the judgement after it; the learning "
                f"rate follows {epochs}."
            )
        watch = self._stopwatch(history)

        def check_time() -> None:
            """Raise OutOfTime."""
            watch()
            self._check_time(history)

        try:
            self._check_time(history)
            with signals.asking_also(check_time):
                for report in self._reports(signals.check):
                    watch()
                    self._take_in(report, history)
                    if history.is_over:
                        break
                    self._check_time(history)
        except OutOfTime:
            self._stop_for_time(history)
        except StopRequested:
            watch()
            raise
        except NonFiniteLoss as error:
            raise not_finite(error, file_of=self.file_of) from error

    def _stopwatch(self, history: History) -> Callable[[], None]:
        """Return a function that adds the time since now to what was spent before."""
        before, started = history.seconds_spent, self.clock()

        def watch() -> None:
            """Update the time that was spent."""
            history.seconds_spent = before + self.clock() - started

        return watch

    def _check_time(self, history: History) -> None:
        """Raise OutOfTime if there is something left to train and no time for it.

        The last step of an epoch counts with the validation behind it: what was trained is judged.
        """
        is_spent = self.max_seconds is not None and history.seconds_spent >= self.max_seconds
        is_between = self.state.step < self.steps_per_epoch and self.state.epoch < self.epochs
        if is_spent and is_between:
            raise OutOfTime

    def _stop_for_time(self, history: History) -> None:
        """Save where a larger budget can go on, and make sure that there is something to judge."""
        self._save(history)
        history.is_out_of_time = True
        folder = shlex.quote(str(self.run.path))
        self.talk.note(
            f"The time is up (--max-time) after {self._done}. Go on with: tlcli {self.command} "
            f"--output {folder} --resume --max-time {2 * (self.max_seconds or 0):g}s"
        )
        if history.best_value is not None:
            return
        metrics = self.validate()
        history.improves(self.state.epoch + 1, metrics, monitor=self.monitor)
        save_weights(self.state.judged_network, self.run.weights_path)
        self.talk.warn(
            f"No epoch was finished: what is kept has done {self.state.step} of "
            f"{counted(self.steps_per_epoch, 'step')} of the first."
        )

    @contextmanager
    def saved_if_stopped(self, history: History, signals: StopSignals) -> Iterator[None]:
        """Save the state between two steps if training is asked to stop, and tell how to go on.

        Raises:
            InterruptedRunError: If it is.
        """
        try:
            yield
        except StopRequested as error:
            self._save(history)
            raise self.interrupted(signals) from error

    def interrupted(self, signals: StopSignals) -> InterruptedRunError:
        """Return the error that tells how to go on; what it says is saved has to be on disk.

        After `finish` that is so, and must not be saved again: the network holds the best epoch.
        """
        return InterruptedRunError(
            f"Stopped after {self._done}; saved. "
            f"Go on with: tlcli {self.command} --output {shlex.quote(str(self.run.path))} --resume",
            signal_number=signals.received or 0,
        )

    def _reports(self, check_stop: Callable[[], None]) -> Iterable[EpochReport]:
        return fit(
            self.task,
            self.state,
            epochs=self.epochs,
            train_steps=self.train_steps,
            validate=self.validate,
            runtime=self.runtime,
            clip_grad=self.clip_grad,
            check_stop=check_stop,
        )

    def _take_in(self, report: EpochReport, history: History) -> None:
        """Log an epoch, keep its weights if they are the best, and save the state."""
        is_best = history.improves(report.epoch, report.metrics, monitor=self.monitor)
        history.seconds_train += report.seconds_train
        history.seconds_eval += report.seconds_eval
        if is_best:
            save_weights(self.state.judged_network, self.run.weights_path)
        self.talk.epoch(report, epochs=self.epochs, is_best=is_best)
        if self.state.epoch < self.epochs and self.state.phase_is_over():
            history.proofs.append(self._proof(frozen_digests(self.state.model)))
            self._begin_phase()
        self.run.append_metrics(report)
        history.is_over = self._is_over(report.epoch, history)
        self._save(history)

    def _begin_phase(self) -> None:
        """Open the stages of the next epoch and remember what must not move from now on."""
        self.state.enter_phase()
        self.state.frozen_digests = frozen_digests(self.state.model)
        opened = ", ".join(self.state.phases[self.state.phase or 0].trained)
        self.talk.note(f"Phase {self.state.phase} from epoch {self.state.epoch + 1}: {opened}.")

    def _is_over(self, epoch: int, history: History) -> bool:
        """Say whether patience is at its end; it counts within the last phase only."""
        last = len(self.state.phases) - 1
        if not self.patience or self.state.phase != last or epoch >= self.epochs:
            return False
        since = epoch - max(history.last_gain, self.state.phases[last].start)
        if since >= self.patience:
            self.talk.note(f"No better epoch for {since}: stopping early (--patience).")
        return since >= self.patience

    def finish(self, history: History) -> list[dict[str, Any]]:
        """Compare the frozen tensors of the saved model with those before; return all proofs."""
        in_training = self._proof(frozen_digests(self.state.model))
        network = self.state.judged_network
        path = self.run.weights_path
        load_state(network, read_weights(path), head_names=(), origin=str(path))
        last = self._proof(digests_of(network.state_dict().items()))
        changed = sorted({*last["changed_names"], *in_training["changed_names"]})
        return [*history.proofs, {**last, "changed": len(changed), "changed_names": changed}]

    def _proof(self, after: Mapping[str, str]) -> dict[str, Any]:
        parameters = [name for name, _ in self.state.model.network.named_parameters()]
        report: FrozenReport = check_frozen(
            self.state.frozen_digests, after=after, parameters=parameters
        )
        return {
            "phase": self.state.phase,
            "trained": list(self.state.phases[self.state.phase or 0].trained),
            **report.to_json(),
        }

    def _save(self, history: History) -> None:
        kept = replace(history, is_out_of_time=False)
        self.state.save(self.run.checkpoint_path, extra=asdict(kept))


def not_finite(error: NonFiniteLoss, *, file_of: Callable[[int], str]) -> NonFiniteLossError:
    """Return what to tell the user of a loss that is not finite, with the images of the step."""
    files = [file_of(index) for index in error.indices]
    more = f" and {len(files) - _FILES_SHOWN} more" if len(files) > _FILES_SHOWN else ""
    return NonFiniteLossError(
        f"The training loss is not finite in epoch {error.epoch}, step {error.step}, on the "
        f"images {', '.join(files[:_FILES_SHOWN])}{more}. Lower --lr, add --clip-grad 1 or "
        "--warmup-epochs, or use --no-amp."
    )

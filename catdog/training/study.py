"""A search for settings: trials that train, in a study on disk, and the files that show what came of them.

OUTPUT/study.db (optuna's, sqlite), config.yaml, trials.csv, history.png, importance.png, parameters.png
"""

from __future__ import annotations

import io
import signal
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, Final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import DatabaseError

from catdog.dataset import Manifest
from catdog.errors import CatdogError, ModelError, SettingsError, TrainingError, TrainingStopped
from catdog.files import check_output_folder, lock_folder, write_csv, write_text
from catdog.training import charts
from catdog.training.checkpoint import handle_signals
from catdog.training.data import open_data, prepare
from catdog.training.history import MEASURES, Row, say, score_epoch
from catdog.training.loop import fit
from catdog.training.processes import explain_torch, silence_lightning, start_processes
from catdog.training.settings import NOT_LEARNT
from catdog.training.space import Choices, Range, Space, TrialOutcome, name_keys

FILE_NAME: Final = "study.db"
WORST: Final = -1e-4  # score: nothing right, and a loss of 1 or more
FEWEST_FOR_IMPORTANCE: Final = 10  # finished trials; PED-ANOVA compares the best tenth of them with the rest
_STATES: Final = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "interrupted"}


def search(space: Space, data: str, output: Path, trials: int, minutes: float | None = None, seed: int = 0) -> Study:
    """Train until ``trials`` trials in all have ended; after ``minutes``, no other one is started.

    It goes on where an earlier call with the same ``output`` was cut off. The files in ``output`` are written anew
    after every trial. The test split is not touched. Raises SettingsError (the study there is another one),
    TrainingStopped (SIGTERM, or Ctrl-C in a trial), or what unusable data raises.
    """
    started = time.monotonic()
    check_output_folder("--output", output, [FILE_NAME])
    first = space.trial({name: choice.ends[0] for name, choice in space.search.items()}, data)
    first.check_models()
    with (
        TemporaryDirectory(prefix="catdog-data-") as scratch,
        lock_folder("--output", output, "search"),
        handle_signals(_stop, signal.SIGTERM),  # between two trials; a trial handles it itself
        silence_lightning(),
    ):
        manifest = open_data(first, Path(scratch))
        study = Study(space, data, manifest, output, seed)
        if study.interrupted:
            say(f"{len(study.interrupted)} interrupted before; tried again first")
        if study.ended:
            study.write()
        while study.ended < trials and (minutes is None or time.monotonic() - started < minutes * 60):
            say(study.try_next(Path(scratch), trials))
            study.write()
    return study


class Study:
    """The trials in ``output``. Only one process at a time may have it open."""

    def __init__(self, space: Space, data: str, manifest: Manifest, output: Path, seed: int) -> None:
        self.space, self.data, self.manifest, self.output = space, data, manifest, output
        self._seed = seed
        self.measure = MEASURES[space.trial({name: c.ends[0] for name, c in space.search.items()}).task]
        """What a trial's best epoch is judged by: its name in the history."""
        self._told = False
        self._distributions = {name: _make_distribution(choice) for name, choice in space.search.items()}
        self._study = _open_study(output / FILE_NAME)
        self._check_identity()
        self.interrupted = [t.number for t in self._study.get_trials(states=(TrialState.RUNNING,))]
        for number in self.interrupted:  # by kill -9, or the power
            self._try_again(number)

    @property
    def outcomes(self) -> list[TrialOutcome]:
        """What came of all trials that are over, in their order."""
        return [self._read_outcome(t) for t in self._study.trials if t.state in _STATES]

    @property
    def best(self) -> TrialOutcome | None:
        """The finished trial with the highest score, the first of equals."""
        finished = [o for o in self.outcomes if o.state == "finished"]
        return max(finished, key=lambda o: o.score or 0.0, default=None)

    @property
    def ended(self) -> int:
        """How many trials have ended, not counting the interrupted ones."""
        return sum(o.state != "interrupted" for o in self.outcomes)

    def counts(self) -> dict[str, int]:
        """Return how many trials there are in each state."""
        states = [o.state for o in self.outcomes]
        return {state: states.count(state) for state in ("finished", "pruned", "failed", "interrupted")}

    def try_next(self, scratch: Path, trials: int) -> str:
        """Train with the next settings, keep what came of it, and return a line about it, one of ``trials``."""
        # What is tried next follows from the seed and the trials before, also after an interruption.
        sequence = np.random.SeedSequence((self._seed, self.ended))
        self._study.sampler = optuna.samplers.TPESampler(seed=int(sequence.generate_state(1)[0]))
        trial = self._study.ask(self._distributions)
        rows: list[Row] = []
        began = time.monotonic()
        try:
            state = self._train(trial, rows, scratch)
        except (TrainingStopped, KeyboardInterrupt, CatdogError):
            self._try_again(trial.number)
            raise
        except BaseException:  # a bug, which this point may bring about each time: it is not tried again
            self._study.tell(trial, state=TrialState.FAIL)
            raise
        top = max(rows, key=score_epoch, default={})
        about = {key: top[key] for key in (self.measure, "val_loss") if rows}
        for key, value in {**about, "epochs": len(rows), "minutes": (time.monotonic() - began) / 60}.items():
            trial.set_user_attr(key, value)
        score = score_epoch(top) if state is TrialState.COMPLETE else None
        outcome = self._read_outcome(self._study.tell(trial, score, state))
        return f"{self.ended}/{trials}: {self._describe(outcome, trial.user_attrs.get('error'))}"

    def _train(self, trial: Trial, rows: list[Row], scratch: Path) -> TrialState:
        """Train, put a row for each epoch into ``rows``, and return how it ended."""

        def record(history: list[Row]) -> None:
            rows[:] = history
            trial.report(score_epoch(rows[-1]), len(rows))
            # The frozen epochs' scores say little of what comes after them; after the last one, nothing is saved.
            if settings.frozen_epochs < len(rows) < settings.frozen_epochs + settings.epochs and trial.should_prune():
                raise optuna.TrialPruned

        try:
            try:
                settings = self.space.trial(trial.params, self.data)
            except SettingsError as error:
                raise TrainingError(str(error)) from error
            fabric = start_processes(settings)
            if fabric.world_size > 1:
                raise SettingsError("a search trains one process at a time; start it without torchrun")
            with explain_torch(settings):
                # Every trial says the same of the data.
                with redirect_stderr(io.StringIO() if self._told else sys.stderr):
                    prepared = prepare(fabric, settings, scratch, self.manifest)
                self._told = True
                fit(fabric, prepared, settings, record=record)
        except optuna.TrialPruned:
            return TrialState.PRUNED
        except TrainingStopped:
            raise
        except ModelError as error:  # of the weights that every trial starts from
            raise ModelError(f"{self.space.path}: {name_keys(str(error))}") from error
        except TrainingError as error:
            trial.set_user_attr("error", name_keys(str(error)))
            trial.report(WORST, len(rows) + 1)  # so that the sampler keeps away; a failed trial it would ignore
            return TrialState.PRUNED
        return TrialState.COMPLETE

    def _try_again(self, number: int) -> None:
        """Queue the trial's parameters, then end it: in this order, a second kill at worst queues them twice."""
        if params := self._study.trials[number].params:
            self._study.enqueue_trial(params)
        self._study.tell(number, state=TrialState.FAIL)

    def _check_identity(self) -> None:
        """Raise SettingsError when the study on disk searched something else, or on other photos."""
        settings = vars(self.space.trial({name: c.ends[0] for name, c in self.space.search.items()}))
        identity: dict[str, Any] = {
            "search": {name: choice.plain() for name, choice in self.space.search.items()},
            "settings": {k: v for k, v in settings.items() if k not in NOT_LEARNT and k not in self.space.search},
            "data": {"fingerprint": self.manifest.fingerprint},
        }
        there = self._study.user_attrs.get("identity")
        if there is None:
            self._study.set_user_attr("identity", identity)
            return
        for part, here in identity.items():
            for name in [*here, *(name for name in there[part] if name not in here)]:
                before, now = there[part].get(name), here.get(name)
                if before != now:
                    what = "on other photos" if part == "data" else f"with {part}: {name}: {before}, this one has {now}"
                    raise SettingsError(
                        f"{self.output / FILE_NAME}: the study there is {what}; go on as it began, or give another "
                        "--output"
                    )

    def write(self) -> None:
        """Write ``config.yaml``, ``trials.csv`` and the charts anew."""
        outcomes, best = self.outcomes, self.best
        if best is not None:
            text = f"# trial {best.number} of a search, on the validation photos: {self._name_measure(best)}\n"
            write_text(self.output / "config.yaml", text + self.space.trial(best.params, self.data).to_yaml())
        about = ("number", "state", "score", "measure", "val_loss", "epochs", "minutes")
        rows = [
            [*(_shorten(getattr(o, name)) for name in about), *(o.params.get(name) for name in self.space.search)]
            for o in outcomes
        ]
        names = [self.measure if name == "measure" else name for name in about]
        write_csv(self.output / "trials.csv", [*names, *self.space.search], rows)
        charts.draw_history(outcomes, self.measure, self.output / "history.png")
        charts.draw_importance(*self._importance(), self.output / "importance.png")
        charts.draw_parameters(outcomes, self.space.search, self.measure, self.output / "parameters.png")

    def _read_outcome(self, trial: FrozenTrial) -> TrialOutcome:
        """Return what came of a trial that is over."""
        about, reported = trial.user_attrs, trial.intermediate_values
        known: dict[str, Any] = {key: about.get(key) for key in ("epochs", "minutes")}
        state: Any = _STATES[trial.state]
        if state == "pruned" and "error" in about:
            state = "failed"
        elif state != "interrupted":
            known |= {"measure": about[self.measure], "val_loss": about["val_loss"], "score": max(reported.values())}
        return TrialOutcome(number=trial.number, state=state, params=trial.params, **known)

    def _describe(self, outcome: TrialOutcome, error: str | None) -> str:
        what = error or f"{self._name_measure(outcome)}, loss {outcome.val_loss:.4f}"
        params = ", ".join(f"{name} {_shorten(value)}" for name, value in outcome.params.items())
        spent = f"epochs {outcome.epochs}, minutes {outcome.minutes:.1f}"
        return f"trial {outcome.number} {outcome.state}: {what}; {spent}; {params}"

    def _name_measure(self, outcome: TrialOutcome) -> str:
        is_accuracy = self.measure == MEASURES["classify"]
        return f"{outcome.measure:.2%} right" if is_accuracy else f"average precision {outcome.measure:.4f}"

    def _importance(self) -> tuple[Mapping[str, float], str]:
        finished = self.counts()["finished"]
        if finished < FEWEST_FOR_IMPORTANCE:
            return {}, f"too few trials to tell: {finished} of {FEWEST_FOR_IMPORTANCE} finished"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # optuna 4 calls it experimental, 5 its default
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            shares = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        return shares, ""


def _open_study(path: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(
            storage=f"sqlite:///{path.resolve()}",
            study_name="catdog",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
        )
    except (DatabaseError, RuntimeError) as error:
        raise SettingsError(f"{path}: can't be opened as a study; remove it to start anew") from error


def _make_distribution(choice: Range | Choices) -> BaseDistribution:
    if isinstance(choice, Choices):
        return CategoricalDistribution(choice.values)
    if isinstance(choice.low, int) and isinstance(choice.high, int):
        return IntDistribution(choice.low, choice.high, log=choice.log)
    return FloatDistribution(choice.low, choice.high, log=choice.log)


def _shorten(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def _stop(number: int, frame: FrameType | None) -> None:
    raise TrainingStopped("stopped by SIGTERM", number)

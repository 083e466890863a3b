"""The search: trials of recipes, each a training from cached logits, judged on the validation split."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.study import MaxTrialsCallback
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import IntegrityError, ProgrammingError
from transformers import TrainerCallback

from finstill.config.recipe import Recipe
from finstill.errors import InputError
from finstill.files import digest
from finstill.training.distil import train_student
from finstill.training.rows import TrainingRows
from finstill.tuning.space import SPACE, settings_of, suggest

LEAST_FOR_IMPORTANCES = 10

OPENED_AT_MOST = 10

MEASURE = "kl_to_teacher"
"""Least in the best trial. Macro-F1 on a few hundred labels differs more by chance than by the recipe, and the best of
many trials would be the luckiest."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

FAILED_IN_A_ROW = 10
"""Failed trials after which a search ends. Where every recipe around the base diverges, it would never end; where half
do, so many fail in a row once in a thousand times."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        recipe: of the best trial.
        divergence: the best trial's from the teacher, KL(teacher || student) on the validation split, nats.
        trials: an entry a trial: number, state, value (its divergence: of its best epoch, or of the last before it was
            pruned), and what it tried.
        importances: how much each setting decides whether a trial is among the better ones, adding up to 1 (Watanabe
            et al. 2023, "PED-ANOVA"); empty where fewer than `LEAST_FOR_IMPORTANCES` trials came to their end.
    """

    recipe: Recipe
    divergence: float
    trials: list[dict[str, Any]]
    importances: dict[str, float]


def search(
    base: Recipe,
    train: TrainingRows,
    validation: TrainingRows,
    labels: Sequence[str],
    teacher_checkpoint: Path,
    folder: Path,
    *,
    storage: str,
    trials: int,
    seed: int,
    starts: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Search:
    """Try recipes around `base` until `trials` of them are finished, and return what was found.

    A recipe that cannot be trained is a trial that failed. It is not counted, and the search ends before where
    `FAILED_IN_A_ROW` failed in a row.

    The best one's student is nearest to its teacher on the validation split. The first trial is `base` itself, as far
    as `suggest` goes, so that nothing worse is returned. The others are proposed by TPE (Bergstra et al. 2011,
    "Algorithms for Hyper-Parameter Optimization") and given up by the median rule where they fall behind. The study
    lives in `storage` and goes on where it was cut off; other rows, labels or another base recipe are another study.
    Test rows are not looked at.

    Args:
        train, validation: as `train_student` takes them.
        folder: where each trial trains, in a folder of its own that it removes. Several searches may share it.
        storage: URL of the study's database, as `sqlite:////path/study.db` or `postgresql+psycopg2://...`.
        trials: finished ones in the end, those of earlier runs counted.
        seed: of what is tried, with the number of each trial.
        starts, callbacks: as `train_student` takes them.

    Raises:
        InputError: the base recipe learns from no teacher, the database cannot be opened, or no trial came to its end.
    """
    if base.alpha == 0:
        raise InputError(
            "a recipe with alpha 0 learns from no teacher: there is no temperature to tune", where="tuning.recipe"
        )
    study = _study(storage, digest(MEASURE, SPACE, base.digest, *labels, *train.content(), *validation.content()), seed)
    left = trials - len(study.get_trials(deepcopy=False, states=FINISHED))
    logger.info("tuning: %s of %s trials are left", f"{max(left, 0):,}", f"{trials:,}")

    failed = 0

    def objective(trial: Trial) -> float:
        with tempfile.TemporaryDirectory(prefix=f"{trial.number}-", dir=folder, ignore_cleanup_errors=True) as own:
            trained = train_student(
                suggest(trial, base, len(labels)),
                train,
                validation,
                labels,
                teacher_checkpoint,
                Path(own) / "checkpoint",
                stage=f"tuning, trial {trial.number}",
                starts=starts,
                callbacks=[_Pruning(trial), *callbacks],
            )
        return trained.validation[MEASURE]

    def report(study: optuna.Study, trial: FrozenTrial) -> None:
        value = "no value" if trial.value is None else f"{trial.value:.4f} nats from the teacher"
        logger.info("tuning: trial %s is %s, %s", trial.number, trial.state.name.lower(), value)
        nonlocal failed
        failed = failed + 1 if trial.state == TrialState.FAIL else 0
        if failed == FAILED_IN_A_ROW:
            logger.warning("tuning: ends, since %s trials failed in a row", failed)
            study.stop()

    if left > 0:
        folder.mkdir(parents=True, exist_ok=True)
        study.enqueue_trial(settings_of(base, len(labels)), skip_if_exists=True)
        # A recipe that diverges is a bad recipe, not a reason to stop.
        enough = MaxTrialsCallback(trials, FINISHED)  # Another machine may be at the same study.
        study.optimize(objective, catch=(InputError,), callbacks=[report, enough])
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    if not complete:
        raise InputError(
            f"no trial came to its end: {failed} failed in a row",
            where="tuning.recipe",
            remedy="Look in the log at what each said, and change the recipe that the search starts from",
        )
    best = min(complete, key=lambda trial: trial.value or 0.0)
    recipe = suggest(optuna.trial.FixedTrial(best.params), base, len(labels))  # type: ignore[arg-type]
    return Search(recipe, best.value or 0.0, _entries(study), _importances(study, len(complete)))


def _study(storage: str, name: str, seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        opened = _open(storage)
    except Exception as error:
        # Not the URL: it may hold a password.
        raise InputError(
            f"the study's database cannot be opened ({type(error).__name__})",
            where="FINSTILL_STUDY",
            remedy="Give an SQLAlchemy URL of a database that can be written to and whose driver is installed, as "
            "postgresql+psycopg2://..., or leave it out for an SQLite file",
        ) from None
    return optuna.create_study(
        storage=opened,
        study_name=name,
        direction="minimize",
        load_if_exists=True,
        sampler=_Sampler(seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
    )


def _open(storage: str) -> optuna.storages.RDBStorage:
    for _ in range(OPENED_AT_MOST):
        try:
            # The heartbeat tells a trial whose process was killed from one that another process is at. It is run again
            # once, and not each time: it may be what the machine's memory does not hold.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                again = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=1)
                return optuna.storages.RDBStorage(
                    storage, heartbeat_interval=60, grace_period=180, failed_trial_callback=again
                )
        except (IntegrityError, ProgrammingError) as error:
            # Another machine makes the tables of a new database: each time there are more of them.
            refused = error
    raise refused


class _Sampler(optuna.samplers.TPESampler):
    """TPE that draws each trial by the sum of the seed and its number.

    Searches of one study, at once or one after the other, would otherwise begin with the same recipes.
    """

    def __init__(self, seed: int):
        super().__init__(seed=seed)
        self._seed = seed

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        super().__init__(seed=self._seed + trial.number)
        super().before_trial(study, trial)


class _Pruning(TrainerCallback):
    """Tells Optuna each epoch's divergence, and ends the trial where it says so."""

    def __init__(self, trial: Trial):
        self._trial = trial

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._trial.report(given["metrics"][f"eval_{MEASURE}"], round(state.epoch))
        if self._trial.should_prune():
            raise optuna.TrialPruned


def _entries(study: optuna.Study) -> list[dict[str, Any]]:
    return [
        {"number": trial.number, "state": trial.state.name.lower(), "value": trial.value, **trial.params}
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished()
    ]


def _importances(study: optuna.Study, complete: int) -> dict[str, float]:
    if complete < LEAST_FOR_IMPORTANCES:
        return {}
    return {name: float(share) for name, share in optuna.importance.get_param_importances(study).items()}

"""What a student must keep to before it may go into service."""

from __future__ import annotations

import numpy as np

from finstill.config.profile import Budgets
from finstill.evaluation.evaluate import StudentEvaluation


def breaches(evaluation: StudentEvaluation, budgets: Budgets) -> list[str]:
    """Return what keeps a student out of service, as clauses; none where nothing does."""
    student = evaluation.student
    found = []
    if not np.isfinite(evaluation.logits).all():
        found.append("a logit is not finite")
    # That of the probabilities that serve.
    error = student.calibrated_error
    if error is None and student.quality is not None:
        error = student.quality["calibration_error"]
    at_most = {
        "megabytes": student.megabytes,
        "latency_ms": student.speed and student.speed.latency_ms,
        "kl_to_teacher": student.kl_to_teacher,
        "calibration_error": error,
    }
    for name, measured in at_most.items():
        budget = getattr(budgets, name)
        if budget is not None and measured is not None and measured > budget:
            found.append(f"{name} is {measured:.4g}, and at most {budget:.4g} is allowed")
    if budgets.agreement is not None and student.agreement < budgets.agreement:
        found.append(f"agreement is {student.agreement:.4g}, and at least {budgets.agreement:.4g} is asked")
    return found

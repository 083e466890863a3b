"""The champion in a browser."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dagster import AssetExecutionContext, MaterializeResult, MetadataValue, asset

from assets.champion import champion
from assets.comparison import comparison
from assets.faults import explain_faults
from assets.metadata import OWNERS
from assets.resources import ProfileResource
from assets.teacher_logits import teacher_logits

if TYPE_CHECKING:
    from finstill.serving.page.build import Sample
    from finstill.training.rows import TrainingRows

SAMPLES = 8


@asset(
    deps=[comparison, champion, teacher_logits],
    group_name="service",
    kinds={"onnx", "javascript"},
    owners=OWNERS,
    code_version="1",
)
@explain_faults
def page(context: AssetExecutionContext, profile: ProfileResource) -> MaterializeResult:
    """A page beside the report where a person types a text and the champion answers, run by the browser alone.

    onnxruntime-web comes from npm, once. Where npm is missing or cannot fetch it, or where the champion's tokenizer is
    none that the page reads, no page is made and the metadata says why.
    """
    from pathlib import Path

    from finstill.files import remove_folder
    from finstill.serving.package import Package
    from finstill.serving.page.build import write_page
    from finstill.serving.page.onnxruntime_web import NoPageError, onnxruntime_web
    from finstill.training.rows import training_rows

    settings, workspace = profile.profile(), profile.workspace
    try:
        runtime = onnxruntime_web(Path(profile.home).resolve())
        rows = training_rows(workspace.corpus, workspace.tokens, settings.task, workspace.teacher_logits)["test"]
        samples = _samples(rows.whole_texts(), settings.task.labels)
        path = write_page(Package.read(workspace.champion / "current"), samples, runtime, workspace.comparison / "try")
    except NoPageError as error:
        context.log.warning(f"no page was made: {error}")
        # A page of the champion before would go on answering.
        remove_folder(workspace.comparison / "try")
        return MaterializeResult(metadata={"no_page": str(error)})
    return MaterializeResult(metadata={"page": MetadataValue.path(str(path))})


def _samples(rows: "TrainingRows", labels: Sequence[str]) -> "list[Sample]":
    """Return the first texts of `rows`."""
    from finstill.serving.page.build import Sample
    from finstill.training.rows import NO_LABEL

    assert rows.teacher_logits is not None
    assert rows.texts is not None
    first = slice(SAMPLES)
    shown = zip(rows.texts[first].to_pylist(), rows.labels[first].tolist(), rows.teacher_logits[first], strict=True)
    return [
        Sample(text, None if label == NO_LABEL else labels[label], labels[int(logits.argmax())])
        for text, label, logits in shown
    ]

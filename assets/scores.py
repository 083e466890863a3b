"""What the student in service says of every text."""

from dagster import AssetExecutionContext, MaterializeResult, asset

from assets.champion import champion
from assets.corpus import corpus
from assets.faults import explain_faults
from assets.metadata import OWNERS, cell, table
from assets.resources import ProfileResource


@asset(deps=[corpus, champion], group_name="service", kinds={"onnx", "parquet"}, owners=OWNERS, code_version="1")
@explain_faults
def scores(context: AssetExecutionContext, profile: ProfileResource) -> MaterializeResult:
    """Each text of the corpus with the champion's label and probabilities; only texts it has not scored reach it."""
    import pyarrow.parquet as pq
    from joblib import cpu_count

    from finstill.files import one_at_a_time
    from finstill.serving.growing_table import grow_scores

    workspace = profile.workspace
    # Two runs would number their parts alike.
    with one_at_a_time(workspace.scores):
        report = grow_scores(workspace.corpus, workspace.champion / "current", workspace.scores, threads=cpu_count())
    newest = pq.read_table(max(report.folder.glob("*.parquet")), columns=["text", "label"])[:10].to_pylist()
    return MaterializeResult(
        metadata={
            "dagster/row_count": report.rows,
            "dagster/uri": report.folder.as_uri(),
            "rows_added": report.added,
            "added_by_label": table([{"label": label, "rows": rows} for label, rows in report.labels.items()]),
            **({} if report.decided is None else {"alerts_added": report.decided}),
            "newest": table([{"label": row["label"], "text": cell(row["text"])} for row in newest]),
        }
    )

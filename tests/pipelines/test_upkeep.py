"""What goes by age, what is said of a failure, and a student from the launchpad."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from dagster import DagsterInstance, DagsterRunStatus, RunFailureSensorContext, build_run_status_sensor_context
from dagster._core.executor.child_process_executor import ChildProcessCrashException
from dagster._core.test_utils import create_run_for_test
from dagster._utils.error import serializable_error_info_from_exc_info
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.faults import can_pass
from assets.students import students
from finstill.cache.cache import SoftLabelCache, teachers
from finstill.cache.upkeep import summarise
from finstill.config.recipe import read_recipes
from finstill.errors import InputError, UnreachableError
from finstill.files import replaced_folders, whole_folder
from pipelines.failures import cause_of, post, without_secrets
from pipelines.operations.retention import remove_leftovers, remove_runs, remove_students
from pipelines.sensors import failure_webhook
from tests.pipelines.house import House


class TestRetention:
    def test_old_runs_go_but_not_the_ones_that_made_what_stands(self, house: House) -> None:
        first = house.run("label")
        second = house.run("label")
        failed = house.run("decide")
        assert not failed.success
        assert remove_runs(house.instance, before=time.time() - 3600) == 0
        assert remove_runs(house.instance, before=time.time() + 1) == 2
        assert {run.run_id for run in house.instance.get_runs()} == {second.run_id}
        assert first.run_id != second.run_id
        assert house.metadata("teacher_logits")["rows_reached_by_the_teacher"] == 0

    def test_old_runs_go_however_many_there_are(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pipelines.operations.retention.RUNS_A_PAGE", 2)
        for _ in range(5):
            create_run_for_test(house.instance, status=DagsterRunStatus.SUCCESS)
        assert remove_runs(house.instance, before=time.time() + 1) == 5

    def test_students_that_no_recipe_names_go_with_their_partition_when_they_are_old(self, house: House) -> None:
        workspace = house.profile.workspace
        house.instance.add_dynamic_partitions(str(students.name), ["small", "gone", "young"])
        old = time.time() - 7200
        for name in ("small", "gone", "young"):
            folder = workspace.student(name)
            folder.mkdir(parents=True)
            (folder / "model").write_text("")
            if name != "young":
                for path in (folder / "model", folder, folder.parent):
                    os.utime(path, (old, old))
        removed = list(remove_students(house.instance, workspace, {"small"}, time.time() - 3600))
        assert removed == ["gone"]
        assert workspace.student("small").is_dir()
        assert workspace.student("young").is_dir()
        assert house.instance.get_dynamic_partitions(str(students.name)) == ["small", "young"]

    def test_what_killed_runs_left_goes_when_it_is_old(self, house: House) -> None:
        root = house.profile.workspace.root
        old, young = root / "students" / "a" / "training-1", root / ".unfinished-2"
        for path in (old, young):
            path.mkdir(parents=True)
        os.utime(old, (0, 0))
        assert list(remove_leftovers(root, time.time() - 3600)) == ["students/a/training-1"]
        assert young.is_dir()

    def test_what_is_called_like_a_leftover_and_is_none_stays(self, house: House) -> None:
        workspace = house.profile.workspace
        student = workspace.student("training-long")
        with whole_folder(student) as unfinished:
            (unfinished / "model").write_text("")
        for path in (student, *student.parent.rglob("*"), student.parent):
            os.utime(path, (0, 0), follow_symlinks=False)
        assert list(remove_leftovers(workspace.root, time.time() - 3600)) == []
        assert (student / "model").is_file()

    def test_what_was_replaced_and_what_lies_in_another_leftover_goes(self, house: House) -> None:
        root = house.profile.workspace.root
        for _ in range(2):
            with whole_folder(root / "page") as unfinished:
                (unfinished / "index.html").write_text("")
        (replaced,) = replaced_folders(root)
        inner = root / ".unfinished-1" / ".unfinished-2"
        inner.parent.mkdir()
        inner.write_text("")
        (root / ".unfinished-3").symlink_to("nowhere")
        for path in (*replaced.rglob("*"), replaced, inner, inner.parent, root / ".unfinished-3"):
            os.utime(path, (0, 0), follow_symlinks=False)
        removed = list(remove_leftovers(root, time.time() - 3600))
        assert removed == [".page.versions/" + replaced.name, ".unfinished-1", ".unfinished-3"]
        assert (root / "page" / "index.html").is_file()

    def test_a_partition_of_any_name_removes_nothing_but_a_student(self, house: House) -> None:
        """And a student whose recipe is gone goes, at whatever age: every folder here is old."""
        workspace = house.profile.workspace
        outside = [workspace.champion / "current", workspace.root.parent / "another", workspace.students / "small"]

        @given(
            name=st.text(st.sampled_from("./\\~a-"), min_size=1, max_size=12)
            | st.sampled_from(["../champion", "..", ".", "../../another", "a/../../champion", str(workspace.champion)])
            | st.text(min_size=1, max_size=80).filter(lambda name: not {"|", ",", "[", "]"} & set(name))
        )
        @settings(max_examples=60)
        def check(name: str) -> None:
            for folder in outside:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "model").write_text("")
            with suppress(InputError, ValueError, OSError):
                folder = workspace.student(name)
                assert folder.resolve().relative_to(workspace.students.resolve()).parts == (name, "checkpoint")
                folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory() as home, DagsterInstance.ephemeral(home) as instance:
                instance.add_dynamic_partitions(str(students.name), [name])
                list(remove_students(instance, workspace, {"small"}, time.time() + 3600))
                assert instance.get_dynamic_partitions(str(students.name)) == (["small"] if name == "small" else [])
            assert all((folder / "model").is_file() for folder in outside)
            assert [path.name for path in workspace.students.iterdir()] == ["small"]

        check()

    def test_the_job_merges_the_parts_that_nights_added_and_no_label_is_lost(self, house: House) -> None:
        house.run("label")
        house.add("second.csv", range(40, 60))
        house.run("label")
        (fingerprint,) = teachers(house.profile.cache)
        before = summarise(SoftLabelCache.open(house.profile.cache, fingerprint))
        assert house.run("retention").success
        after = summarise(SoftLabelCache.open(house.profile.cache, fingerprint))
        assert (before.parts, after.parts) == (2, 1)
        assert after.rows == before.rows
        house.run("label")
        assert house.metadata("teacher_logits")["rows_reached_by_the_teacher"] == 0


class TestFailures:
    @pytest.fixture
    def received(self) -> Iterator[tuple[str, list[dict]]]:
        messages: list[dict] = []
        refusals = iter([503])

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = next(refusals, 200)
                messages.extend([message] if status == 200 else [])
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook", messages
        server.shutdown()
        server.server_close()

    def failed(self, house: House, partition: str) -> RunFailureSensorContext:
        """Run a student that no recipe makes, and return what the webhook is told."""
        house.instance.add_dynamic_partitions(str(students.name), [partition])
        result = house.run("distil", partition=partition)
        context = build_run_status_sensor_context(
            "failure_webhook", result.get_run_failure_event(), house.instance, result.dagster_run
        )
        return context.for_run_failure()

    def test_a_failed_run_is_posted_with_stage_partition_and_the_first_line_of_the_cause(
        self, house: House, received: tuple[str, list[dict]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url, messages = received
        monkeypatch.setenv("FINSTILL_WEBHOOK", url)
        house.run("label")
        failure = self.failed(house, "gone")
        # Whatever is wrong with the profile by now, and though the server refuses it at first.
        (house.root / "mine.yaml").write_text("task: [")
        failure_webhook(failure, profile=house.profile)
        (message,) = messages
        assert message["profile"] == "mine"
        assert (message["job"], message["stage"], message["partition"]) == ("distil", "student", "gone")
        assert "there is no recipe 'gone'" in message["cause"]
        assert message["text"].startswith("distil: student of gone failed. ")

    def test_a_hook_that_does_not_answer_is_said_without_its_address(self) -> None:
        with pytest.raises(UnreachableError, match="FINSTILL_WEBHOOK: the failure could not be posted") as caught:
            post("http://127.0.0.1:9/secret", {})
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("url", ["http://127.0.0.1:9/a secret", "secret", "http://[secret"])
    def test_what_is_no_url_is_said_without_it(self, url: str) -> None:
        with pytest.raises(UnreachableError, match="could not be posted") as caught:
            post(url, {})
        assert "secret" not in str(caught.value)

    def test_a_cause_that_quotes_the_corpus_is_cut_and_names_nobody_in_a_chat(
        self, house: House, received: tuple[str, list[dict]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url, messages = received
        monkeypatch.setenv("FINSTILL_WEBHOOK", url)
        house.run("label")
        failure = self.failed(house, "<!channel> & " + "x" * 5000)
        failure_webhook(failure, profile=house.profile)
        (message,) = messages
        assert "'<!channel> & x" in message["cause"]
        assert len(message["cause"]) == 1000
        assert "&lt;!channel&gt; &amp; x" in message["text"]
        assert "<" not in message["text"]

    def test_a_step_whose_process_was_killed_says_so(self) -> None:
        try:
            raise ChildProcessCrashException(pid=1, exit_code=-9)
        except ChildProcessCrashException:
            error = serializable_error_info_from_exc_info(sys.exc_info())
        assert cause_of(error) == "its process was killed, most often for want of memory"

    def test_no_secret_is_said(self) -> None:
        text = "cannot open s3://AKIA:hunter22@bucket/x with hunter22hunter22"
        said = without_secrets(text, {"AWS_SECRET_ACCESS_KEY": "hunter22hunter22", "HOME": "/root"})
        assert said == "cannot open s3://bucket/x with ***"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("cannot parse 's3://AKIA:hunter22/a+b@bucket/x'", "cannot parse 's3://bucket/x'"),
            ("postgresql+psycopg2://u:p@ss@h/db", "postgresql+psycopg2://h/db"),
            ("s3://bucket/x and user@example.com", "s3://bucket/x and user@example.com"),
            ("FATAL: user u, password hun ter22", "FATAL: user u, password ***"),
            ("'/services/T0/B1' of https://hooks.example/services/T0/B1", "'***' of ***"),
        ],
    )
    def test_no_part_of_a_url_that_is_secret_is_said(self, text: str, said: str) -> None:
        environment = {
            "FINSTILL_STUDY": "postgresql://u:hun ter22@h/db",
            "FINSTILL_DROP": "s3://bucket/x",
            "FINSTILL_WEBHOOK": "https://hooks.example/services/T0/B1",
        }
        assert without_secrets(text, environment) == said

    def test_a_long_cause_is_searched_for_secrets_in_no_time(self) -> None:
        text = "x" * 1_000_000 + "://" * 300_000
        started = time.monotonic()
        assert without_secrets(text, {}) == text
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        (UnreachableError("no answer"), True),
        (ConnectionResetError(), True),
        (OSError("AWS Error NETWORK_CONNECTION during GetObject operation"), True),
        (OSError(28, "No space left on device"), False),
        (FileNotFoundError("no such data set"), False),
        (InputError("row 7: bad label"), False),
        (KeyError("a fault of ours"), False),
    ],
)
def test_a_retry_is_for_faults_that_can_pass(error: Exception, helps: bool) -> None:
    assert can_pass(error) is helps
    outer = InputError("wrapped")
    outer.__cause__ = error
    assert can_pass(outer) is helps


class TestNewRecipe:
    def add(self, house: House, **config: object) -> tuple[bool, str]:
        result = house.run("add_recipe", {"ops": {"write_recipe": {"config": config}}})
        failures = [event for event in result.all_events if event.is_step_failure]
        return result.success, failures[0].step_failure_data.error.message if failures else ""

    def test_it_joins_the_file_with_its_baseline_and_is_a_partition_at_once(self, house: House) -> None:
        before = house.recipes.read_text()
        ok, _ = self.add(house, name="wide", architecture={"hidden_width": 16, "layers": 1}, epochs=3)
        assert ok
        assert house.recipes.read_text().startswith(before.rstrip())
        recipes = read_recipes(house.recipes)
        assert recipes["wide"].architecture.hidden_width == 16
        assert recipes["wide-baseline"].is_baseline_of(recipes["wide"])
        assert house.instance.get_dynamic_partitions(str(students.name)) == ["wide", "wide-baseline"]

    def test_what_is_wrong_is_said_and_the_file_stays(self, house: House) -> None:
        before = house.recipes.read_text()
        for config, words in (
            ({"name": "small"}, "there is a recipe 'small' already"),
            ({"name": "a|b"}, "'a|b' cannot name a recipe"),
            ({"name": "wide", "architecture": {"hiden_width": 3}}, "did you mean 'hidden_width'?"),
            ({"name": "wide", "alpha": 2.0}, "alpha"),
        ):
            ok, said = self.add(house, **config)
            assert not ok
            assert words in said
            assert ".unfinished" not in said
        assert house.recipes.read_text() == before
        assert house.instance.get_dynamic_partitions(str(students.name)) == []

    def test_each_setting_of_the_launchpad_is_explained(self) -> None:
        from assets.corpus import CorpusConfig
        from pipelines.operations.new_recipe import NewRecipe
        from pipelines.operations.retention import Ages

        for model in (NewRecipe, CorpusConfig, Ages):
            for name, setting in model.model_fields.items():
                assert setting.description, f"{model.__name__}.{name}"

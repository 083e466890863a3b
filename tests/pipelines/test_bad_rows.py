"""Rows that cannot be used are set aside in files that a person finds, and the run goes on to a champion."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.failures import step_failure
from tests.pipelines.house import House
from tests.published_data_sets import twitter_financial_news


def test_bad_rows_of_either_corpus_are_set_aside_and_a_champion_is_made(house: House) -> None:
    tweets = twitter_financial_news(house.root)
    tweets.write_text(f"{tweets.read_text()}a row without a label\n")
    house.add("second.csv", range(40, 60), "no comma\nhalf,marvellous\n")
    aside = "on_bad_rows: set_aside, bad_rows_at_most: 0.02"
    profile = (house.root / "mine.yaml").read_text().replace("label: tone}", f"label: tone, {aside}}}")
    other = f"out_of_domain: {{path: sent_train.csv, known: twitter_financial_news, {aside}}}\n"
    (house.root / "mine.yaml").write_text(profile + other)
    house.instance.add_dynamic_partitions("students", ["small"])
    for job, partition in (("label", None), ("distil", "small"), ("decide", None)):
        result = house.run(job, partition=partition)
        assert result.success, [step_failure(event) for event in result.all_events if event.is_step_failure]
    found = {
        asset: [json.loads(line) for line in Path(house.metadata(asset)["bad_rows"]).read_text().splitlines()]
        for asset in ("corpus", "out_of_domain")
    }
    assert [(bad["file"], bad["row"], bad["content"]) for bad in found["corpus"]] == [
        ("second.csv", 61, '["no comma"]'),
        ("second.csv", 62, "half"),
    ]
    assert [(bad["file"], bad["row"], bad["reason"]) for bad in found["out_of_domain"]] == [
        ("sent_train.csv", 241, "1 fields, 2 were expected"),
    ]
    assert house.metadata("champion")["champion"] == "small"

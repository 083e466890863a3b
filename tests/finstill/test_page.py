"""The page, opened from the disk in a real browser, against the Python runtime's numbers."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from finstill.corpus.text import cleaned, normalise
from finstill.errors import InputError
from finstill.serving import StudentClassifier
from finstill.serving.package import Package
from finstill.serving.page import onnxruntime_web as fetching
from finstill.serving.page.build import Sample, write_page
from finstill.serving.page.onnxruntime_web import FILES, onnxruntime_web

SAMPLE = "<img src=x onerror=alert(1)> Profit &lt; 5"

CHROMIUM = shutil.which("chromium")

ODD = [
    "",
    "  \u3000 ",
    "Ünïcödé ｆｕｌｌ　width €5bn, naïve",
    "U.S. steel–maker's “EBITDA” (Q3'21): $1.2bn; +3.4% [sic] a_b c~d `e` {f} ^g",
    "ΟΔΥΣΣΕΥΣ ΑΕΕΣ İstanbul straße ﬁne",
    "利润增长 10% in 上海, 株式会社 ｶﾞ",
    "zero\u200bwidth con\x07trol \u00adsoft \ufffd",
    "a[MASK]b [SEP] [cls]",
    "x" * 101 + " " + "y" * 100,
    "🙂 📈 e\u0301 ก่ हिन्दी",
    "EPS\u2260guidance a\u226eb a\u226fb 5=\u03385 nul\x00nul",
]


@pytest.fixture(scope="module")
def samples() -> list[str]:
    corpus = (files("finstill.data") / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in corpus[::7]]
    return [*ODD, *(" ".join(text.split()[:14]) for text in texts)][:200]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None or shutil.which("npm") is None:
        pytest.skip("needs chromium and npm")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def open_page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Package], Page]:
    """Return a function that opens the page of a package, which fetches nothing from elsewhere."""
    runtime = onnxruntime_web(tmp_path_factory.mktemp("runtime"))
    sample = Sample(SAMPLE, None, "positive")

    def opened(package: Package) -> Page:
        path = write_page(package, [sample], runtime, tmp_path_factory.mktemp("page") / "try")
        page = browser.new_page()
        outside: list[str] = []
        page.on("request", lambda request: outside.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]", timeout=60_000)
        assert [url for url in outside if not url.startswith(("file:", "blob:", "data:"))] == []
        return page

    return opened


@pytest.fixture(scope="module")
def page(open_page: Callable[[Package], Page], deciding_package: Package) -> Page:
    return open_page(deciding_package)


def test_two_hundred_texts_get_the_runtimes_numbers(page: Page, deciding_package: Package, samples: list[str]) -> None:
    assert len(samples) == 200
    answers = page.evaluate(
        "async (texts) => { const all = []; for (const t of texts) all.push(await score(t)); return all; }", samples
    )
    student = StudentClassifier(deciding_package.folder)
    for text, ours, theirs in zip(samples, student.score(samples, explain=True), answers, strict=True):
        assert theirs["tokens"] == student.tokens(text), text
        if ours.windows > 1:
            assert "label" not in theirs, text
            continue
        assert theirs["label"] == ours.label, text
        assert theirs["decision"] == ours.decision, text
        assert theirs["probabilities"] == pytest.approx(list(ours.probabilities.values()), abs=1e-4), text
        assert ours.calibrated is not None
        assert theirs["calibrated"] == pytest.approx(list(ours.calibrated.values()), abs=1e-4), text
        assert ours.attention is not None
        weights = [word["weight"] for word in theirs["attention"]]
        assert weights == pytest.approx([weight for _, weight in ours.attention], abs=1e-4), text


def test_a_person_types_and_reads(page: Page, deciding_package: Package) -> None:
    text = "Shares of <b>Acme</b> fell"
    page.fill("#text", text)
    page.wait_for_function("document.getElementById('words')?.textContent === 'Shares of <b>Acme</b> fell'")
    (score,) = StudentClassifier(deciding_package.folder).score([text])
    assert page.text_content("#label") == score.label
    words = "Decision: negative" if score.decision else "Decision: not negative"
    assert (page.text_content("#decision") or "").startswith(words)
    assert page.locator("#answer tr").count() == 1 + len(deciding_package.labels)
    assert page.locator("#answer b, #samples img").count() == 0
    page.click("#samples tbody tr")
    assert page.input_value("#text") == SAMPLE


def test_a_long_text_is_said(page: Page) -> None:
    page.fill("#text", "profit rose " * 30)
    page.wait_for_function("document.getElementById('answer').textContent.includes('the student reads 32 at once')")


def test_of_a_long_text_the_beginning_is_read_where_the_student_was_trained_so(
    open_page: Callable[[Package], Page], deciding_package: Package, trained_on_cut_texts: Callable[..., Package]
) -> None:
    cut, text = trained_on_cut_texts(deciding_package), "unfavourable repricing, " * 9
    (ours,) = StudentClassifier(cut.folder).score([text], explain=True)
    page = open_page(cut)
    theirs = page.evaluate("(text) => score(text)", text)
    page.fill("#text", text)
    page.wait_for_function("document.getElementById('cut')?.textContent.includes('reads the first 32')")
    assert theirs["probabilities"] == pytest.approx(list(ours.probabilities.values()), abs=1e-4)
    assert ours.attention is not None
    weights = [word["weight"] for word in theirs["attention"]]
    assert weights == pytest.approx([weight for _, weight in ours.attention], abs=1e-4)


def test_entities_are_decoded_where_those_of_the_corpus_were(
    open_page: Callable[[Package], Page], deciding_package: Package, trained_on_cut_texts: Callable[..., Package]
) -> None:
    page = open_page(trained_on_cut_texts(deciding_package, unescape=True))
    written = [
        "AT&amp;T &lt;b&gt;falls&lt;/b&gt; &#53;&#x25;, S&ampP &notit; &amp;lt;",
        "</textarea><img src=x> a &copy b &hellip; &nosuch; &#0; &#x81; & &&amp; nul\0nul",
        "\nprofit&nbsp;rose &#xD800; &frac12;&NotEqualTilde; &euro;5bn",
    ]
    for text in written:
        typed = page.evaluate("(text) => WordPiece.fold(given(text))", text)
        assert typed == normalise(cleaned(html.unescape(text)))
    page.fill("#text", written[0])
    page.wait_for_function("document.getElementById('words')?.textContent.startsWith('AT&T <b>falls</b> 5%')")
    # A sample is of the corpus, where it was decoded.
    page.click("#samples tbody tr")
    page.wait_for_function(f"document.getElementById('words').textContent === {json.dumps(SAMPLE)}")


def test_another_tokenizer_is_refused(package: Package, tmp_path: Path) -> None:
    shutil.copytree(package.folder, tmp_path / "package")
    tokenizer = json.loads((package.folder / "tokenizer.json").read_text())
    tokenizer["model"]["type"] = "BPE"
    (tmp_path / "package" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="the page reads BERT's tokenizers"):
        write_page(Package.read(tmp_path / "package"), [], tmp_path, tmp_path / "try")


def test_without_npm_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"comes from npm, which is not installed\. Install Node\.js"):
        onnxruntime_web(tmp_path)


def test_a_file_that_was_not_tested_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    monkeypatch.setattr(fetching, "FILES", {**FILES, "ort.wasm.bundle.min.mjs": "0" * 64})
    with pytest.raises(InputError, match="is not the file that was tested"):
        onnxruntime_web(tmp_path)
    assert list(tmp_path.iterdir()) == []

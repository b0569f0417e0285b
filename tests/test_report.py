"""The report as a file: one self-contained HTML, the same for the same rows, and nothing that rows hold is markup."""

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from safetensors.numpy import save_file

import quantsim as qs
from quantsim.lab import claims, provenance, study
from quantsim.lab.report import checkpoint, gathering, page, strings, writing
from quantsim.rows import load
from tests.fake_study import FAKE, command, registry
from tests.report_pages import FIGURES, report, written

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
MOST_BYTES = 8 * 10**6
#: Attributes that make a browser load something.
LOADS = ("src", "srcset", "poster", "data", "background", "action", "formaction", "manifest")


class Elements(HTMLParser):
    """Elements with their attributes and, for scripts and styles, their text."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.texts.append("")
        self.inside = True

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.texts[-1] += data

    def of(self, tag):
        return [(attrs, text) for (name, attrs), text in zip(self.found, self.texts, strict=True) if name == tag]


@pytest.fixture(params=strings.LANGUAGES)
def text(request):
    return report(request.param)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """One fake study in the place of the real ones, and the folder of its results."""
    for register in registry(tmp_path, monkeypatch):
        register(fake=FAKE)
        yield tmp_path / "out"


@pytest.fixture
def quantsim(capsys):
    return command(capsys)


def data_of(text, name):
    return next(body for attrs, body in Elements(text).of("script") if attrs.get("id") == name)


def test_the_same_rows_give_the_same_bytes(tmp_path):
    assert written(tmp_path / "again.html", "en").read_text(encoding="utf-8") == report("en")


def test_a_report_is_small_enough_to_send(text):
    assert len(text.encode()) <= MOST_BYTES


def test_nothing_is_loaded_from_elsewhere(text):
    elements = Elements(text)
    assert not [(tag, attrs) for tag, attrs in elements.found if any(attrs.get(name) for name in LOADS)]
    assert {attrs["href"][0] for _, attrs in elements.found if "href" in attrs} == {"#"}
    assert not [tag for tag, _ in elements.found if tag in ("link", "iframe", "object", "embed", "base")]
    styles = "".join(body for _, body in elements.of("style"))
    assert set(re.findall(r"url\((\w+:)", styles)) == {"data:"}
    assert "@import" not in styles


def test_the_policy_names_the_only_script_and_every_style(text):
    elements = Elements(text)
    [policy] = [a["content"] for a, _ in elements.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    assert rules["default-src"] == ["'none'"]
    [script] = [body for attrs, body in elements.of("script") if "type" not in attrs]
    styles = [body for _, body in elements.of("style")]
    for texts, allowed in (([script], rules["script-src"]), (styles, rules["style-src"])):
        hashes = [base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in texts]
        assert allowed == [f"'sha256-{digest}'" for digest in hashes]
    assert not [attrs for _, attrs in elements.found if any(n == "style" or n.startswith("on") for n in attrs)]


def test_ids_are_unique_and_links_reach_them(text):
    elements = Elements(text)
    ids = [attrs["id"] for _, attrs in elements.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for _, attrs in elements.found if "href" in attrs} <= set(ids)
    assert {f"study-{name}" for name in study.names()} <= set(ids)
    assert {f"claim-{s.id}" for s in claims.statements()} <= set(ids)
    for name in ("aria-labelledby", "aria-describedby", "for"):
        assert {attrs[name] for _, attrs in elements.found if name in attrs} <= set(ids)


def test_counts_are_those_of_the_files():
    rows = sum(len(load(FIGURES / f"{name}.jsonl")) for name in study.names())
    ledger = json.loads((FIGURES / "claims.json").read_text(encoding="utf-8"))
    settled = sum(entry["verdict"] != "open" for entry in ledger)
    for language in strings.LANGUAGES:
        said = strings.words(language)["report"]["counts"]
        counts = {"studies": len(study.names()), "rows": f"{rows:,}", "settled": settled, "statements": len(ledger)}
        assert said.format(**counts) in report(language)


def test_ids_are_the_same_in_every_language():
    english, chinese = ([a.get("id") for _, a in Elements(report(language)).found] for language in strings.LANGUAGES)
    assert english == chinese


def test_the_ledger_is_that_of_the_stored_rows(text):
    assert json.loads(data_of(text, "ledger-data")) == json.loads((FIGURES / "claims.json").read_text(encoding="utf-8"))


def test_rows_and_pictures_can_be_opened_one_by_one(text):
    places, packed = json.loads(data_of(text, "packed-places")), data_of(text, "packed")
    assert places.keys() == {f"{name}.{kind}" for name in study.names() for kind in ("rows", "webp")}
    for name in ("clipping", "width"):
        first, last = places[f"{name}.rows"]
        lines = gzip.decompress(base64.b64decode(packed[first:last])).decode().splitlines()
        assert [json.loads(line) for line in lines] == load(FIGURES / f"{name}.jsonl")
        first, last = places[f"{name}.webp"]
        assert base64.b64decode(packed[first:last])[8:12] == b"WEBP"


def test_every_picture_says_what_it_asks_and_finds(text):
    pictures = [attrs for attrs, _ in Elements(text).of("img")]
    assert len(pictures) == len(study.names())
    for attrs, name in zip(pictures, study.names(), strict=True):
        assert attrs["data-packed"] == f"{name}.webp"
        assert name in attrs["alt"]
        assert len(attrs["alt"]) > 100
        assert int(attrs["width"]) > 0
        assert int(attrs["height"]) > 0


def test_every_study_says_how_to_measure_it_again(text):
    for name in study.names():
        flag = "--real " if study.needs_real_model(name) else ""
        assert f"<code>quantsim run --fresh {flag}{name}</code>" in text


def markup_of(text):
    """Elements whose attributes or names come of hostile text."""
    return [tag for tag, attrs in Elements(text).found if "onerror" in attrs or attrs.get("src") == "x"]


def test_text_of_rows_is_no_markup(fake, quantsim):
    code, _, _ = quantsim("run", "--out", str(fake))
    assert code == 0
    rows = load(fake / "fake.jsonl")
    rows[0]["sign"] = HOSTILE
    rows[0][HOSTILE] = 1
    found = gathering.gather(fake)
    [one] = found.studies
    changed = gathering.Study(**vars(one) | {"rows": rows, "summary": HOSTILE, "question": HOSTILE, "why": HOSTILE})
    text = writing.of(gathering.Gathered([changed], [e | {"reading": HOSTILE} for e in found.ledger]))
    assert not markup_of(text)
    assert "&lt;script&gt;alert(1)" in text
    assert text.count("<script>") == 1
    assert len(Elements(text).of("script")) == text.count("<script")


def test_names_of_tensors_are_no_markup(tmp_path, quantsim):
    path, out = tmp_path / "<b>&.safetensors", tmp_path / "report.html"
    w = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    save_file({f"blk.0.{HOSTILE}": w, "blk.1.up": 2 * w}, str(path))
    options = ("--formats", "q8_0", "q4_0", "--budget", "6", "--out", str(out), "--lang", "zh")
    code, _, message = quantsim("report", "--checkpoint", str(path), *options)
    assert (code, message.splitlines()[-1].split(",")[0]) == (0, f"quantsim: wrote {out}")
    text = out.read_text(encoding="utf-8")
    assert not markup_of(text)
    assert "&lt;script&gt;alert(1)" in text
    assert text.count("<script>") == 1
    assert "<b>" not in text
    assert "<code>quantsim inspect &#39;&lt;b&gt;&amp;.safetensors&#39; --formats q4_0 q8_0 --budget 6</code>" in text
    assert strings.words("zh")["checkpoint"]["footer"].format(version=qs.__version__) in text
    assert strings.words("zh")["report"]["footer"].format(version=qs.__version__) not in text  # it holds no rows


def cells_of(text, table):
    """Rows of a table as texts of their cells."""
    [body] = re.findall(rf'<table[^>]* id="{table}">.*?<tbody>(.*?)</tbody>', text, re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in re.findall(r"<tr>.*?</tr>", body, re.DOTALL)]


def test_a_page_of_a_checkpoint_says_what_the_inspection_found(tmp_path):
    """Numbers found anew from the weights: crest factors, and the SQNR of every matrix in every format."""
    rng, path = np.random.default_rng(1), tmp_path / "w.safetensors"
    w = {f"blk.{k}.up": rng.normal(size=(64, 256)).astype(np.float32) for k in range(3)}
    w["blk.1.up"][5, 7] = 30
    save_file(w, str(path))
    found = qs.inspect(path, ("q8_0", "q4_0"), budget=6.0)
    text = checkpoint.html(found)
    assert cells_of(text, "matrices")[0][0] == "blk.1.up"  # what stands out most comes first
    db = {(name, spec): qs.weight_error(w[name], spec).sqnr_db for name in w for spec in ("q8_0", "q4_0")}
    assert {tuple(c) for c in cells_of(text, "errors")} == {
        (name, *(f"{db[name, spec]:.2f}" for spec in ("q4_0", "q8_0"))) for name in w
    }
    for spec, _, _, median, _, worst, tensor in cells_of(text, "uniform"):
        assert (worst, tensor) == min((f"{db[name, spec]:.2f}", name) for name in w)
        assert median == sorted(f"{db[name, spec]:.2f}" for name in w)[1]
    assert found.advice is not None
    assert f"{found.advice.best_uniform.damage / found.advice.allocation.damage:.2f} times" in text
    counted = strings.words("en")["checkpoint"]["mixture_is"].split(":")[0].format(budget="6")
    assert counted in text


def test_a_report_of_part_of_the_rows_says_what_is_missing(fake, quantsim, tmp_path):
    out = tmp_path / "deep" / "report.html"
    assert quantsim("run", "--out", str(fake))[0] == 0
    (fake / "fake.png").unlink()
    code, shown, message = quantsim("report", "--figures", str(fake), "--out", str(out))
    assert (code, shown) == (0, "")
    assert "quantsim run fake" in message
    assert "have no figure" in message
    text = out.read_text(encoding="utf-8")
    assert strings.words("en")["studies"]["no_picture"] in text
    (fake / "fake.png").write_bytes((FIGURES / "width.png").read_bytes())
    (fake / "fake.jsonl").write_text('{"cell": 0, "x": 0, "sign": "s", "none": null, "b": 2}\n')
    code, _, message = quantsim("report", "--figures", str(fake), "--out", str(out))
    assert code == 0
    assert "not current" in message
    assert "is not the file that was measured" in out.read_text(encoding="utf-8")
    assert provenance.state(fake, "fake").word == "edited"


@pytest.mark.parametrize("damage", ["cut off", "no rows", "a column less", "text for a number"])
def test_damaged_rows_are_named(damage, tmp_path, quantsim):
    """In a folder of two studies, of which one is whole."""
    for name in ("int8_matrix", "outlier_example"):
        (tmp_path / f"{name}.jsonl").write_bytes((FIGURES / f"{name}.jsonl").read_bytes())
    file = tmp_path / "outlier_example.jsonl"
    rows = load(file)
    text = {
        "cut off": file.read_text(encoding="utf-8")[:-30],
        "no rows": "",
        "a column less": "".join(json.dumps({k: v for k, v in row.items() if k != "of"}) + "\n" for row in rows),
        "text for a number": "".join(
            json.dumps({k: "x" if isinstance(v, float) else v for k, v in row.items()}) + "\n" for row in rows
        ),
    }[damage]
    file.write_text(text, encoding="utf-8")
    code, _, message = quantsim("report", "--figures", str(tmp_path), "--out", str(tmp_path / "x.html"))
    assert code == 2
    assert "rows of outlier_example" in message
    assert "`quantsim run --fresh outlier_example`" in message
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize("part", [b"no picture", (FIGURES / "width.png").read_bytes()[:9000]])
def test_a_damaged_picture_is_named(part, fake, quantsim, tmp_path):
    assert quantsim("run", "--out", str(fake))[0] == 0
    (fake / "fake.png").write_bytes(part)
    code, _, message = quantsim("report", "--figures", str(fake), "--out", str(tmp_path / "x.html"))
    assert code == 2
    assert f"{fake / 'fake.png'} cannot be read as a picture" in message


def test_no_rows_end_with_what_to_run(tmp_path, quantsim):
    code, shown, message = quantsim("report", "--figures", str(tmp_path), "--out", str(tmp_path / "x.html"))
    assert (code, shown) == (2, "")
    assert "no rows in" in message
    assert "`quantsim run`" in message
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_ends_with_4(fake, quantsim, tmp_path):
    assert quantsim("run", "--out", str(fake))[0] == 0
    (tmp_path / "file").write_text("")
    code, _, message = quantsim("report", "--figures", str(fake), "--out", str(tmp_path / "file" / "report.html"))
    assert code == 4
    assert "cannot write" in message


def test_options_of_checkpoints_need_one(quantsim):
    code, _, message = quantsim("report", "--budget", "4.5")
    assert code == 2
    assert "--checkpoint" in message


def test_a_page_of_statements_alone_shows_what_is_open(fake, quantsim):
    assert quantsim("run", "--out", str(fake))[0] == 0
    found = gathering.gather(fake)
    given = [entry["verdict"] for entry in found.ledger]
    assert len(given) == 151
    assert "open" in given
    assert f"({given.count('open')})" in writing.of(found)


def test_a_style_that_would_end_its_element_is_refused(monkeypatch, tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "a.css").write_text("a::before { content: '</style>' }")
    monkeypatch.setattr(page, "_HERE", tmp_path)
    page.source.cache_clear()
    with pytest.raises(ValueError, match="end of its own element"):
        page.source(".css")
    page.source.cache_clear()

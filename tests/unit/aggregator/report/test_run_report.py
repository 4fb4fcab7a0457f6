"""The run report: what the page says and draws, from records built by hand, whole, bare and large."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import msgspec
import pytest

from aggregator.report.page import element, text
from aggregator.report.run_report import report_html, write_report
from aggregator.report.words import summary
from aggregator.results import DeviceRound, DeviceSummary, Final, RoundResult, RunResult, Totals, uploaded_by_nobody

PLOTS = ("Accuracy by round", "Aggregation weight", "Contribution by device", "Payload bytes, by round")
PLOTS += ("Payload bytes, summed", "FLOPs by device", "Step latency", "Peak memory")
VOID = {"meta"}


def _device(name, weight, *, measured=True, contribution=0.5):
    step = {"step_ms_p50": 4.0, "step_ms_p90": 5.0, "step_ms_p99": 9.0, "rss_mb_peak": 150.0}
    step |= {"flops_dense": 1_000_000, "flops_ideal": 200_000, "flops_executed": 1_050_000}
    unknown = dict.fromkeys(f.name for f in msgspec.structs.fields(DeviceRound) if type(None) in _options(f.type))
    return DeviceRound(
        **(unknown | (step if measured else {})),
        name=name,
        weight=weight,
        contribution=contribution,
        sample_count=200,
        sparsity=0.7999,
        engine="ort_training",
    )


def _options(type_):
    return getattr(type_, "__args__", ())


def _run(names=("device-0", "device-1", "device-2"), rounds=3, noisy=(), *, measured=True, sparse=0.944, dense=0.941):
    weights = {name: 0.01 if name in noisy else 0.3 for name in names}
    records = [
        RoundResult(
            round_index=i,
            accuracy_dense=dense,
            accuracy_sparse=sparse,
            loss_sparse=None if sparse is None else 0.2,
            bytes_up=1180 * len(names),
            bytes_down=2000 * len(names),
            wall_s=1.5,
            devices=[_device(n, weights[n], measured=measured, contribution=0.5 - 0.01 * i) for n in names],
        )
        for i in range(1, rounds + 1)
    ]
    updates = len(names) * rounds
    return RunResult(
        rounds=records,
        final=Final(accuracy_dense=dense, accuracy_sparse=sparse, params_sha="ab" * 32),
        devices=[
            DeviceSummary(
                name=n,
                weight=weights[n],
                contribution=0.5,
                sparsity=0.7999,
                noisy=(n in noisy) if noisy else None,
                samples=200,
                step_ms_p50=4.0 if measured else None,
                rss_mb_peak=150.0 if measured else None,
                flops_dense=1_000_000 * rounds if measured else 0,
                flops_ideal=200_000 * rounds if measured else 0,
                flops_executed=1_050_000 * rounds if measured else 0,
                engine="ort_training",
                rounds=rounds,
            )
            for n in names
        ],
        totals=Totals(
            bytes_up=1180 * updates,
            bytes_down=2000 * updates,
            bytes_up_dense_fp32=10_000 * updates,
            flops_dense=0,
            flops_ideal=0,
            flops_executed=0,
            wall_s=1.5 * rounds,
            updates_accepted=updates,
        ),
        settings={"run": {"folder": "/runs/orchard", "seed": 7}, "model": {"name": "mlp"}, "rounds": {"count": rounds}},
        versions={"espalier-fl": "0.1", "numpy": "2.0"},
    )


class Tree(HTMLParser):
    """Checks that tags are balanced; keeps text, tags and attributes."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def _labels(page):
    return re.findall(r'<svg class="plot" role="img" aria-label="([^"]*)"', page)


def test_a_full_run_shows_every_plot_and_its_headline():
    page = report_html(_run(noisy=("device-1",)), {"FedAvg": _run(sparse=None, dense=0.95), "fixed mask": _run()})
    tree = Tree(page)
    assert tree.tags.count("svg") == len(PLOTS) == len(_labels(page))
    assert all(label.startswith(plot) for label, plot in zip(_labels(page), PLOTS, strict=True))
    words = " ".join(tree.words)
    for said in ("94.4 %", "94.1 %", "80 %", "11.8 %", "4.00 ms", "150 MB", "orchard, mlp"):
        assert said in words
    for said in ("device-1 (noisy)", "FedAvg (dense model): 95.0 %", "fixed mask: 94.4 %", "same seed (7)", "run.seed"):
        assert said in words


def test_the_summary_is_derived_clause_by_clause():
    start = "3 devices, 3 rounds, 80 % of prunable weights removed"
    assert summary(_run(noisy=("device-1",))) == (
        f"{start}: sparse model 94.4 % accurate, dense 94.1 %; 11.8 % of the bytes of dense fp32 uploads; "
        "the noisy device device-1 has the lowest weight (0.010; by samples alone 0.333)."
    )
    assert summary(_run(dense=None)).startswith(f"{start}: sparse model 94.4 % accurate; 11.8 %")
    assert summary(_run(sparse=None)).startswith(f"{start}: dense model 94.1 % accurate; 11.8 %")
    assert summary(_run(sparse=None, dense=None)).startswith(f"{start}; 11.8 %")
    assert summary(_run(names=("only",), rounds=1)).startswith("1 device, 1 round, 80 %")


def test_the_summary_says_so_when_a_noisy_device_is_not_the_lowest():
    run = _run(noisy=("device-1",))
    heavy = [msgspec.structs.replace(d, weight=0.9) if d.noisy else d for d in run.devices]
    assert "device-1 does not have the lowest weight" in summary(msgspec.structs.replace(run, devices=heavy))
    tied = [msgspec.structs.replace(d, weight=0.3) for d in run.devices]
    assert "device-1 does not have the lowest weight" in summary(msgspec.structs.replace(run, devices=tied))
    several = _run(names=[f"d{i}" for i in range(9)], noisy=("d1", "d2", "d5"))
    assert "the noisy devices d1, d2 and d5 have the lowest weights" in summary(several)


def test_a_regression_shows_its_loss():
    run = _run(sparse=None, dense=None)
    rounds = [msgspec.structs.replace(r, loss_sparse=0.125) for r in run.rounds]
    run = msgspec.structs.replace(run, rounds=rounds)
    assert "held-out loss of the sparse model 0.125" in summary(run)
    assert _labels(report_html(run, {}))[0] == "Held-out loss by round"


def test_what_was_not_measured_is_said_to_be_absent():
    page = report_html(_run(measured=False, sparse=None, dense=None), {})
    tree = Tree(page)
    words = " ".join(tree.words)
    assert tree.tags.count("svg") == 4  # weights, contributions, bytes twice
    for said in ("no held-out set", "FLOPs: not counted", "Step latency: not measured"):
        assert said in words
    assert "Peak memory" not in words
    assert "None" not in page
    assert "nan" not in words.lower().split()


def test_a_run_of_nothing_still_makes_a_page():
    run = _run(names=(), rounds=0, sparse=None, dense=None)
    totals = msgspec.structs.replace(run.totals, bytes_up_dense_fp32=0)
    page = report_html(msgspec.structs.replace(run, totals=totals, settings={}, versions={}), {})
    Tree(page)
    assert "0 devices, 0 rounds." in page


def test_numbers_that_are_not_finite_are_absent():
    run = _run(sparse=float("nan"), dense=float("inf"))
    Tree(report_html(run, {"other": run}))
    assert "accurate" not in summary(run)


@pytest.mark.parametrize(("count", "rounds"), [(1, 1), (60, 3), (2, 1000)])
def test_small_and_large_fleets_and_runs_stay_legible(count, rounds):
    names = [f"device-{i}" for i in range(count)]
    page = report_html(_run(names=names, rounds=rounds, noisy=names[3:4]), {})
    tree = Tree(page)
    assert tree.tags.count("svg") == len(PLOTS)
    assert tree.tags.count("li") < 40  # legends name a few, not sixty
    assert all(name in page for name in names)
    assert ("57 other devices" in page) == (count == 60)
    assert len(page) < 1_000_000


def test_devices_are_listed_in_the_order_of_their_numbers():
    page = report_html(_run(names=("device-1", "device-10", "device-2")), {})
    assert re.findall(r'title="(device-\d+)"', page) == ["device-1", "device-2", "device-10"]


def test_a_device_missing_from_some_rounds_is_drawn_where_it_took_part():
    run = _run()
    rounds = [msgspec.structs.replace(r, devices=r.devices[: r.round_index]) for r in run.rounds]
    assert Tree(report_html(msgspec.structs.replace(run, rounds=rounds), {})).tags.count("svg") == len(PLOTS)


def test_the_page_loads_nothing_from_elsewhere():
    page = report_html(_run(), {"fixed mask": _run()})
    for name, value in Tree(page).attributes:
        assert name not in ("src", "srcset", "data", "action", "ping")
        assert "http" not in (value or "") or name.startswith("xmlns")
        if name in ("href", "xlink:href"):
            assert value.startswith("#")
    assert not re.search(r"url\((?!#)|@import|<script", page)
    assert "default-src 'none'" in page


def test_ids_are_unique_and_every_reference_has_one():
    page = report_html(_run(), {})
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', page)) <= {(i, "") for i in ids} | {("", i) for i in ids}
    assert len(ids) == len(set(ids))


def test_hostile_names_are_text():
    hostile = '<script>alert("$x^2$")</script>&\x00'
    run = _run(names=(hostile, "device-1"), noisy=(hostile,))
    run = msgspec.structs.replace(
        run, settings={hostile: {"run": hostile}, "run": {"folder": hostile}}, versions={hostile: hostile}
    )
    page = report_html(run, {hostile: run})
    assert "script" not in Tree(page).tags
    assert "<script" not in page
    assert "\x00" not in page
    assert "&lt;script&gt;alert(&quot;$x^2$&quot;)&lt;/script&gt;&amp;" in page


def test_text_is_escaped_unless_it_is_markup():
    assert element("p", "<b>", element("i", "a & b"), class_='"') == ('<p class="&quot;">&lt;b&gt;<i>a &amp; b</i></p>')
    assert text(text("<")) == "&lt;"


def test_comparisons_at_another_seed_are_named():
    other = msgspec.structs.replace(_run(), settings={"run": {"seed": 8}})
    page = report_html(_run(), {"fixed mask": other})
    assert "not all known to be at this run&#x27;s seed (7): fixed mask (seed 8)" in page


def test_the_same_records_give_the_same_bytes():
    run, others = _run(noisy=("device-2",)), {"FedAvg": _run(dense=0.95), "fixed": _run()}
    assert report_html(run, others) == report_html(run, others)


def test_another_process_and_another_hash_seed_give_the_same_bytes(tmp_path):
    run = _run(noisy=("device-2",))
    (tmp_path / "result.json").write_bytes(msgspec.json.encode(run))
    code = (
        "import sys, pathlib, msgspec; from aggregator.report.run_report import report_html; "
        "from aggregator.results import RunResult; "
        "run = msgspec.json.decode(pathlib.Path(sys.argv[1]).read_bytes(), type=RunResult); "
        "sys.stdout.write(report_html(run, {}))"
    )
    command = [sys.executable, "-X", "utf8", "-c", code, str(tmp_path / "result.json")]
    again = subprocess.run(command, capture_output=True, check=True, env={"PYTHONHASHSEED": "5", "HOME": str(tmp_path)})
    assert again.stdout.decode() == report_html(run, {})


def test_the_users_matplotlib_settings_neither_matter_nor_change():
    import matplotlib as mpl

    plain = report_html(_run(), {})
    with mpl.rc_context({"axes.facecolor": "black", "font.size": 40, "svg.fonttype": "path"}):
        assert report_html(_run(), {}) == plain
        assert mpl.rcParams["font.size"] == 40


def test_matplotlib_is_loaded_only_when_a_report_is_drawn():
    code = "import sys, aggregator.report.run_report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_write_report_writes_the_page(tmp_path):
    path = write_report(tmp_path, _run(), {})
    assert path == tmp_path / "report.html"
    assert path.read_text() == report_html(_run(), {})


def test_a_layer_that_nobody_uploads_is_told_of_beside_the_accuracy():
    run = _run()
    assert "for itself" not in report_html(run, {})
    head = ["fc2.bias", "fc2.weight"]
    keeping = [msgspec.structs.replace(d, kept_back=head) for d in run.devices[:2]]
    some = msgspec.structs.replace(run, devices=[*keeping, run.devices[2]])
    page = report_html(some, {})
    assert "device-0 and device-1 keep fc2.bias and fc2.weight and never upload them." in page
    assert "No device uploaded" not in page
    final = msgspec.structs.replace(run.final, uploaded_by_nobody=head)
    page = report_html(msgspec.structs.replace(some, final=final), {})
    assert "No device uploaded fc2.bias and fc2.weight: every device keeps that for itself, so the model here" in page
    regression = _run(sparse=None, dense=None)
    rounds = [msgspec.structs.replace(r, loss_sparse=0.2) for r in regression.rounds]
    final = msgspec.structs.replace(regression.final, uploaded_by_nobody=head)
    assert "No device uploaded" in report_html(msgspec.structs.replace(regression, rounds=rounds, final=final), {})


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ([], []),
        ([[], ["a"]], []),
        ([["b", "a"], ["b", "a", "c"]], ["a", "b"]),
        ([["a"]], ["a"]),
    ],
)
def test_uploaded_by_nobody_is_what_every_update_lacks(kept, expected):
    assert uploaded_by_nobody(kept) == expected

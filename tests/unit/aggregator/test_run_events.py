"""The stream of what happens in a run: its lines of JSON, which programs read, and what a person sees."""

import json

import msgspec
import pytest

from aggregator import run_events as events
from aggregator.demo.live import View
from aggregator.demo.plan import Options, make_plan
from aggregator.demo.processes import DeviceRestarted
from aggregator.event_lines import print_json, print_line
from aggregator.results import DeviceRound, RoundResult

DEVICE = DeviceRound(
    name="device-01", weight=0.5, contribution=0.25, sample_count=20, sparsity=0.8, engine="portable", step_ms_p50=1.5,
    step_ms_p90=None, step_ms_p99=None, train_s=None, download_s=None, serialise_s=None, rss_mb=None, rss_mb_peak=None,
    pss_mb=None, flops_dense=None, flops_ideal=None, flops_executed=7, gflops_per_s=None, temperature_c=None,
    frequency_hz=None, loss_first=None, loss_last=None,
)  # fmt: skip
RESULT = RoundResult(
    round_index=2, accuracy_dense=None, accuracy_sparse=0.5, loss_sparse=1.0, bytes_up=10, bytes_down=20, wall_s=0.5,
    devices=[DEVICE],
)  # fmt: skip

# What `--json` printed before there were records: an event's name first, then its fields.
LINES = {
    '{"event": "started", "run": "ab12", "round_index": 1}': events.Started(run="ab12", round_index=1),
    '{"event": "device_joined", "device": "pi-1", "sample_count": 20, "members": "1 of 3"}': events.DeviceJoined(
        device="pi-1", sample_count=20, members="1 of 3"
    ),
    '{"event": "device_returned", "device": "pi-1", "sample_count": 20, "members": "1 of 3"}': events.DeviceReturned(
        device="pi-1", sample_count=20, members="1 of 3"
    ),
    '{"event": "device_left", "device": "pi-1", "reason": "stopped"}': events.DeviceLeft(
        device="pi-1", reason="stopped"
    ),
    '{"event": "refused", "device": "pi-1", "reason": "no memory"}': events.Refused(device="pi-1", reason="no memory"),
    '{"event": "profile", "device": "pi-1", "verdict": "valid", "bytes": 99}': events.ProfileKept(
        device="pi-1", verdict="valid", bytes=99
    ),
    '{"event": "round_opened", "round_index": 1, "devices": ["pi-1"], "sparsities": [0.8]}': events.RoundOpened(
        round_index=1, devices=["pi-1"], sparsities=[0.8]
    ),
    '{"event": "update", "device": "pi-1", "verdict": "accepted", "reason": "", "bytes": 9, "step_ms_p50": null}': (
        events.UpdateJudged(device="pi-1", verdict="accepted", reason="", bytes=9, step_ms_p50=None)
    ),
    '{"event": "round_closed", "round_index": 1}': events.RoundClosed(round_index=1),
    '{"event": "note", "text": "two\\nlines"}': events.Noted(text="two\nlines"),
    '{"event": "finished", "folder": "run"}': events.Finished(folder="run"),
}


@pytest.mark.parametrize("line", LINES)
def test_an_event_is_the_line_it_always_was_and_is_read_back(line, capsys):
    print_json(LINES[line])
    assert capsys.readouterr().out == line + "\n"
    assert msgspec.json.decode(line, type=events.RunEvent) == LINES[line]


def test_a_committed_round_has_the_fields_of_its_result_beside_its_name(capsys):
    print_json(events.committed(RESULT))
    line = capsys.readouterr().out
    assert json.loads(line) == {"event": "round"} | msgspec.to_builtins(RESULT)
    assert line.startswith('{"event": "round", "round_index": 2, "accuracy_dense": null, ')
    assert msgspec.json.decode(line, type=events.RunEvent) == events.committed(RESULT)


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (events.committed(RESULT), "round 2: accuracy dense unknown sparse 0.5000, 10 bytes up, 0.50 s\n"),
        (events.Noted(text="an\x1b[31m escape"), "an [31m escape\n"),
        (events.DeviceLeft(device="pi-1", reason="bye\nbye"), "device left: device pi-1, reason bye bye\n"),
        (events.Finished(folder="run"), "finished: folder run\n"),
        (events.RoundClosed(round_index=1), ""),
        (events.Started(run="ab12", round_index=1), ""),
    ],
)
def test_a_person_sees_words(event, text, capsys):
    print_line(event)
    assert capsys.readouterr().out == text


def test_the_demos_view_follows_every_device(tmp_path):
    view = View(make_plan(Options(devices=1, noise="none"), tmp_path), "title")

    def status_after(event) -> str:
        view.apply(event)
        return view.rows["device-01"].status

    assert status_after(events.DeviceJoined(device="device-01", sample_count=1, members="1 of 1")) == "joined"
    assert status_after(events.RoundOpened(round_index=1, devices=["device-01"], sparsities=[0.8])) == "training"
    judged = events.UpdateJudged(device="device-01", verdict="accepted", reason="", bytes=5, step_ms_p50=2.0)
    assert status_after(judged) == "accepted"
    assert status_after(events.committed(RESULT)) == "accepted"
    assert status_after(DeviceRestarted(device="device-01", exit_code=-9)) == "restarted"
    assert status_after(events.Refused(device="device-01", reason="no memory")) == "refused"
    assert status_after(events.DeviceLeft(device="device-01", reason="stopped")) == "left"
    row = view.rows["device-01"]
    assert (row.contribution, row.weight, row.sparsity, row.step_ms, row.bytes_up) == (0.25, 0.5, 0.8, 2.0, 5)
    assert (row.flops_executed, view.round_index, view.bytes_up) == (7, 2, 10)
    assert view.notes == ["device-01 died (status -9) and was started again", "device-01: no memory"]


def test_a_device_that_is_not_the_demos_breaks_no_view(tmp_path):
    view = View(make_plan(Options(devices=1, noise="none"), tmp_path), "title")
    view.apply(events.RoundOpened(round_index=1, devices=["stranger", "device-01"], sparsities=[0.8, 0.8]))
    assert view.rows["device-01"].status == "training"
    assert list(view.rows) == ["device-01"]

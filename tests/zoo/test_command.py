"""tools/zoo: what it prints, writes and returns, and that no model ends the run."""

import json
from pathlib import Path

import pytest

from tests.zoo import cases
from tools import zoo
from tools.zoo_suites.outcome import Outcome
from tools.zoo_suites.runner import Job, run_all
from tools.zoo_suites.suites import SUITES, entries, known_file, read_known, write_known

SUITE = "tests.zoo.cases"
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "classics", "--models", "no-such*"], "no model of classics matches 'no-such*'; tools/zoo --list"),
        (["--suite", "clasics"], "no suite 'clasics'; there are torchvision, timm, transformers, classics, and"),
        (["--suite", "tests.no_such"], "suite 'tests.no_such' cannot be loaded: No module named"),
        (["--suite", "tests.models"], "suite 'tests.models' cannot be loaded:"),
        (["--suite", SUITE, "--output", "no/such/folder/table.md"], "cannot write no/such/folder/table.md"),
        (["--suite", SUITE, "--output", "table.txt"], "name a file.md or file.json"),
    ],
)
def test_what_does_not_exist_is_said_at_once(arguments: list[str], said: str, capsys: Capture) -> None:
    assert zoo.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("zoo: error: ")
    assert printed.err.count("\n") == 1
    assert said in printed.err


@pytest.mark.parametrize("option", [["--jobs", "0"], ["--limit-seconds", "soon"], []])
def test_a_bad_option_is_said_at_once(option: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stopped:
        zoo.main(["--suite", SUITE, *option] if option else [])
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_help_shows_how_to_call_it(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        zoo.main(["--help"])
    assert "tools/zoo --suite torchvision --models 'resnet*' --jobs 1" in capsys.readouterr().out


def test_list_prints_the_names(capsys: Capture) -> None:
    assert zoo.main(["--suite", SUITE, "--models", "*ing", "--list"]) == 0
    assert capsys.readouterr().out.split() == ["crashing", "leaving", "hanging"]


def test_no_model_ends_the_run_of_the_others(tmp_path: Path, capsys: Capture) -> None:
    known, output = tmp_path / "known.txt", tmp_path / "table.json"
    write_known(known, ["good", "leaving", "absent"])
    given = ["--suite", SUITE, "--known", str(known), "--jobs", "2", "--output", str(output)]
    assert zoo.main([*given, "--models", "[!h]*"]) == 1
    printed = capsys.readouterr()
    rows = {line.split()[0]: line for line in printed.out.splitlines()[2:-1]}
    assert rows["good"].split()[1:3] == ["ok", "100.0"]
    assert rows["broken"].endswith("ValueError: no such weights at cases.py:28")
    assert "the process ended with SIGSEGV" in rows["crashing"]
    assert rows["leaving"].endswith("the process ended with exit code 3")
    assert "can't allocate memory" in rows["large"]
    assert rows["not-finite"].endswith("as it was built, it is not finite")
    assert all(rows[name].split()[1] == "build" for name in rows if name != "good")
    assert "tests.zoo.cases: 1 of 6 passed (16.7 %); stopped at: build 5;" in printed.out
    assert printed.err == "zoo: known to pass, but failed: leaving\n"
    found = {data["name"]: Outcome(**data) for data in json.loads(output.read_text())[SUITE]}
    assert list(found) == [entry.name for entry in cases.entries() if entry.name != "hanging"]
    assert found["good"].codes > 100
    assert found["good"].passed
    assert found["large"].out_of_memory


def test_a_model_that_hangs_is_ended(tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "table.md"
    given = ["--suite", SUITE, "--models", "hanging", "--limit-seconds", "1", "--known", str(tmp_path / "none.txt")]
    assert zoo.main([*given, "--output", str(output)]) == 0
    assert "took longer than 1 s" in capsys.readouterr().out
    assert "| hanging | build | - | - | - | - | - | 0.0 | took longer than 1 s |\n" in output.read_text()


def test_an_interrupted_run_prints_what_is_done(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def interrupted(jobs: list[Job], folder: Path, parallel: int, limit: float, done: object) -> None:
        assert callable(done)
        done(jobs[0], Outcome("good", "verify", share=0.5, seconds={"prepare": 1.0, "lower": 2.25}))
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "run_all", interrupted)
    assert zoo.main(["--suite", SUITE, "--models", "[gh]*"]) == 130
    printed = capsys.readouterr()
    assert printed.err == "zoo: interrupted; these are the models that were done\n"
    assert printed.out.splitlines()[2].split() == ["good", "ok", "50.0", "%", "-", "-", "-", "1.0", "3.2"]


def test_an_interruption_ends_the_processes(tmp_path: Path) -> None:
    def done(job: Job, outcome: Outcome) -> None:
        assert outcome.reason == "took longer than 0.1 s"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all([Job(SUITE, "hanging")] * 3, tmp_path, 3, 0.1, done)
    # Each ended with its process: nothing is left that could write.
    assert len(list(tmp_path.glob("*.err"))) == 3


def test_the_list_of_known_models_follows_what_was_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tmp_path / "known.txt"
    write_known(known, ["good", "broken", "large"])

    def fake(jobs: list[Job], folder: Path, parallel: int, limit: float, done: object) -> None:
        assert callable(done)
        done(jobs[0], Outcome("good", "verify"))
        done(jobs[1], Outcome("broken", "float", reason="it parts"))
        done(jobs[2], Outcome("crashing", "verify"))

    monkeypatch.setattr(zoo, "run_all", fake)
    given = ["--suite", SUITE, "--models", "good", "broken", "crash*", "--known", str(known)]
    assert zoo.main([*given, "--update-known"]) == 0
    assert read_known(known) == {"good", "crashing", "large"}
    assert known.read_text().startswith("# Models of this suite that passed every stage")
    assert zoo.main(given) == 0


@pytest.mark.parametrize("suite", SUITES)
def test_every_model_known_to_pass_is_one_of_its_suite(suite: str) -> None:
    names = [entry.name for entry in entries(suite)]
    assert len(set(names)) == len(names)
    assert read_known(known_file(suite)) <= set(names)


def test_a_run_goes_on_where_another_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    notes, ran = tmp_path / "run.jsonl", []

    def fake(jobs: list[Job], folder: Path, parallel: int, limit: float, done: object) -> None:
        assert callable(done)
        ran.append([job.name for job in jobs])
        for job in jobs:
            first = len(ran) == 1
            done(job, Outcome(job.name, "verify", reason="it parts" if first and job.name == "broken" else ""))
            if first and job.name == "broken":
                raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "run_all", fake)
    given = ["--suite", SUITE, "--models", "good", "broken", "large", "--resume", str(notes)]
    given += ["--known", str(tmp_path / "none.txt")]
    assert zoo.main(given) == 130
    assert zoo.main(given) == 0
    assert ran == [["good", "broken", "large"], ["broken", "large"]]
    assert "3 of 3 passed" in capsys.readouterr().out
    assert len(notes.read_text().splitlines()) == 4

    notes.write_text('{"suite": "classics"}\n')
    assert zoo.main(given) == 2
    assert "run.jsonl, line 1, is no result of tools/zoo: 'name'" in capsys.readouterr().err

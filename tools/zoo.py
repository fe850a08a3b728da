"""Takes suites of models through qatc, each in a process of its own, and prints how far each came.

A model is built with seeded weights, prepared for ONNX Runtime, compared with the original in eval and in training,
compared at another batch size, calibrated and trained by a step, saved and loaded, lowered, and its file's codes are
compared with ONNX Runtime.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from tools.zoo_suites.outcome import Outcome
from tools.zoo_suites.runner import Job, run_all
from tools.zoo_suites.suites import SUITES, UnknownSuite, chosen, known_file, read_known, write_known
from tools.zoo_suites.table import LEGEND, markdown, state, summary, table

_EXAMPLES = """\
examples:
  tools/zoo --suite classics                                 all of a suite, as many at a time as there are cores
  tools/zoo --suite torchvision --models 'resnet*' --jobs 1  some of it
  tools/zoo --suite all --output docs/zoo.md                 every suite, the tables into a document
  tools/zoo --suite all --resume run.jsonl                   go on where a run ended; what failed there runs again
  tools/zoo --suite my.package.suite                         a suite of your own: a module with a function `entries`

exit code: 0; 1 if a model that is known to pass failed; 2 if what was asked for does not exist; 130 after Ctrl-C
"""

Results = dict[str, list[Outcome]]


class BadRequest(Exception):
    """Something asked for does not exist; the message says what does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    args = _parser().parse_args(argv)
    suites = list(SUITES) if args.suite == ["all"] else args.suite
    try:
        jobs = [Job(suite, entry.name) for suite in suites for entry in chosen(suite, *args.models)]
        if not jobs:
            asked = " or ".join(map(repr, args.models))
            raise BadRequest(f"no model of {', '.join(suites)} matches {asked}; tools/zoo --list prints them")
        if args.output and (args.output.suffix not in (".md", ".json") or not args.output.parent.is_dir()):
            raise BadRequest(f"cannot write {args.output}: name a file.md or file.json in a folder that exists")
        done = _read(args.resume) if args.resume else {}
    except (BadRequest, UnknownSuite) as error:
        print(f"zoo: error: {error}", file=sys.stderr)
        return 2
    if args.list:
        print("\n".join(job.name for job in jobs))
        return 0
    results: Results = {suite: [] for suite in suites}
    for job in jobs:
        if job in done and done[job].passed:
            results[job.suite].append(done[job])
    whole = _run(jobs, results, args)
    print(
        "\n\n".join(f"{table(outcomes)}\n{summary(suite, outcomes)}" for suite, outcomes in results.items() if outcomes)
    )
    if args.output:
        _write(args.output, results)
    fallen = _compare_with_known(results, args.known, args.update_known)
    if not whole:
        return 130
    return 1 if fallen else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "tools/zoo", description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--suite", nargs="+", required=True, metavar="S", help=f"{', '.join(SUITES)}; all; or package.module"
    )
    parser.add_argument(
        "--models", nargs="+", default=["*"], metavar="GLOB", help="only models whose name matches one of these"
    )
    parser.add_argument(
        "--jobs", type=_positive, default=os.cpu_count() or 1, metavar="N", help="models at a time (default: the cores)"
    )
    parser.add_argument(
        "--limit-seconds", type=_positive, default=900, metavar="S", help="for one model (default: %(default)s)"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="note each result there at once; what passed there is not run again"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the tables to a .md, or all data to a .json")
    parser.add_argument(
        "--known", type=Path, metavar="FILE", help="the list of models known to pass (default: its own)"
    )
    parser.add_argument("--update-known", action="store_true", help="write that list anew from this run's results")
    parser.add_argument("--list", action="store_true", help="print the names of the models and do nothing")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def _run(jobs: list[Job], results: Results, args: argparse.Namespace) -> bool:
    """Run the models that have no result yet; return whether all of them were, or the run was interrupted."""
    order = {job: i for i, job in enumerate(jobs)}
    known = {Job(suite, outcome.name) for suite, outcomes in results.items() for outcome in outcomes}
    left = [job for job in jobs if job not in known]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the processes of the models, too
    with tempfile.TemporaryDirectory() as folder, tqdm(total=len(left), disable=None, unit="model") as bar:

        def done(job: Job, outcome: Outcome) -> None:
            results[job.suite].append(outcome)
            if args.resume:
                with args.resume.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps({"suite": job.suite, **outcome.data()}) + "\n")
            bar.update()
            if not bar.disable:
                bar.write(f"{job.name}: {state(outcome)}{f': {outcome.reason}' if outcome.reason else ''}")

        try:
            run_all(left, Path(folder), args.jobs, args.limit_seconds, done)
        except KeyboardInterrupt:
            print("zoo: interrupted; these are the models that were done", file=sys.stderr)
            return False
        finally:
            for suite, outcomes in results.items():
                outcomes.sort(key=lambda outcome: order[Job(suite, outcome.name)])
    return True


def _read(path: Path) -> dict[Job, Outcome]:
    """Return the last result of each model in the file of a run; none where there is no file yet."""
    if not path.parent.is_dir() or path.is_dir():
        raise BadRequest(f"cannot write {path}: name a file in a folder that exists")
    found = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            data = json.loads(line)
            job = Job(data.pop("suite"), data["name"])
            found[job] = Outcome(**data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadRequest(f"{path}, line {number}, is no result of tools/zoo: {error}") from error
    return found


def _write(path: Path, results: Results) -> None:
    if path.suffix == ".json":
        data = {suite: [outcome.data() for outcome in outcomes] for suite, outcomes in results.items()}
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        return
    parts = [
        f"## {suite}\n\n{summary(suite, outcomes)}\n\n{markdown(outcomes)}\n" for suite, outcomes in results.items()
    ]
    path.write_text("\n".join(["# The zoo\n", f"`tools/zoo`; {LEGEND}\n", *parts]), encoding="utf-8")


def _compare_with_known(results: Results, file: Path | None, update: bool) -> list[str]:
    """Return the models that failed though they are known to pass, and say so; `update` makes this run the list."""
    fallen = []
    for suite, outcomes in results.items():
        path = file or known_file(suite)
        known = read_known(path)
        passed = {outcome.name for outcome in outcomes if outcome.passed}
        failed = {outcome.name for outcome in outcomes} - passed
        if update:
            write_known(path, sorted(known - failed | passed))
        elif known & failed:
            print(f"zoo: known to pass, but failed: {', '.join(sorted(known & failed))}", file=sys.stderr)
            fallen += sorted(known & failed)
        elif passed - known:
            print(f"{suite}: {len(passed - known)} passed that were not known to; --update-known notes them")
    return fallen


if __name__ == "__main__":
    sys.exit(main())

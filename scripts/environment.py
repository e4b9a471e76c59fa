"""Make sure that the environment the Makefile works in is there and complete.

    python3 scripts/environment.py          # .venv, made from requirements.lock
    python3 scripts/environment.py --here   # the running Python: an activated conda environment

Run by make before every target that needs it; when all is well this takes a moment. It uses the
standard library only and is kept readable for old Pythons, so that one which is too old can say
so, and look for another.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys

OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "made-from")
INSTALL_OURSELVES = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", ROOT]
PROBE = "import sys, venv, ensurepip; print(sys.version_info[0], sys.version_info[1])"


def fail(message):
    """End with a message."""
    sys.exit("make: " + message)


def text(version):
    """Return a version as people write it."""
    return ".".join(map(str, version))


def facts():
    """Return what .venv has to be made from: the lock, the package's metadata, the place."""
    lines = [ROOT]
    for name in ("requirements.lock", "pyproject.toml"):
        with open(os.path.join(ROOT, name), "rb") as file:
            lines.append(name + " " + hashlib.sha256(file.read()).hexdigest())
    return lines


def stamp():
    """Return what .venv was made from; nothing when it is not there or was never finished."""
    try:
        with open(STAMP, encoding="utf-8") as file:
            return file.read().splitlines() if os.path.exists(PYTHON) else []
    except OSError:
        return []


def inside_venv(folder):
    """Say whether a folder is .venv or lies in it."""
    folder = os.path.abspath(folder)
    return folder == VENV or folder.startswith(VENV + os.sep)


def suitable_python():
    """Return a Python of a supported version that can make virtual environments."""
    asked = os.environ.get("PYTHON", "")
    names = [asked] if asked not in ("", "python3") else ["python3"]
    if names == ["python3"]:
        names += ["python" + text((3, minor)) for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    seen = []
    # .venv is about to be cleared: where it is active, its own Python would vanish under it.
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    others = os.pathsep.join(f for f in folders if not inside_venv(f))
    for name in names:
        path = shutil.which(name, path=others)
        if path is not None and inside_venv(os.path.dirname(path)):
            seen.append(f"{path}: is part of the .venv that is made anew")
            continue
        if path is None:
            seen.append(name + ": not found")
            continue
        # A name is no proof: pyenv's shims exist for versions that are not selected.
        probe = subprocess.run(  # noqa: UP022  (capture_output is not in Python 3.6)
            [path, "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False
        )
        if probe.returncode:
            said = probe.stderr.decode(errors="replace").strip().splitlines()
            seen.append(f"{path}: {said[-1] if said else 'does not run'}")
            continue
        version = tuple(int(part) for part in probe.stdout.split())
        if OLDEST <= version <= NEWEST:
            return path
        seen.append(f"{path}: is Python {text(version)}")
    tried = "\n  ".join(seen)
    fail(
        f"no suitable Python found. Needed: Python {text(OLDEST)} to {text(NEWEST)} with its venv "
        f"and ensurepip modules.\nTried:\n  {tried}\n"
        "Install one (Debian and Ubuntu: apt install python3 python3-venv; macOS: brew install "
        f"python@{text(NEWEST)}),\nor name it: make PYTHON=/path/to/python ..."
    )


def pip(python, *arguments):
    """Run pip, ending with a hint when it fails."""
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
    if subprocess.call(command, cwd=ROOT):
        fail(
            "installing failed (see above). Without network, or behind a proxy: pip reads "
            "HTTPS_PROXY, PIP_INDEX_URL and PIP_FIND_LINKS. The next make tries again."
        )


def make_venv():
    """Bring .venv up to date: in full when the lock changed, else only our own package."""
    wanted, found = facts(), stamp()
    if wanted == found:
        return
    if found[:2] != wanted[:2]:
        python = suitable_python()
        sys.stdout.write("Installing requirements.lock into .venv; a minute or two, once ...\n")
        sys.stdout.flush()
        # Cleared first: a half-made or outdated one is not to be told from a good one.
        shutil.rmtree(VENV, ignore_errors=True)
        if subprocess.call([python, "-m", "venv", "--clear", VENV]):
            fail("making .venv failed (see above).")
        lock = os.path.join(ROOT, "requirements.lock")
        pip(PYTHON, "install", "--quiet", "--require-hashes", "--requirement", lock)
    elif os.path.exists(STAMP):
        os.remove(STAMP)
    pip(PYTHON, *INSTALL_OURSELVES)
    # Last, and at once: without it everything is made anew.
    with open(STAMP + ".part", "w", encoding="utf-8") as file:
        file.write("\n".join(wanted) + "\n")
    os.replace(STAMP + ".part", STAMP)


def check_here():
    """Install our own package into the running Python unless it is there."""
    version = sys.version_info[:2]
    if not OLDEST <= version <= NEWEST:
        fail(
            f"the active environment has Python {text(version)}, "
            f"needed is {text(OLDEST)} to {text(NEWEST)}. "
            "Update it: conda env update --file environment.yml"
        )
    # The script's own folder is on the path, not the checkout: what is found is installed.
    spec = importlib.util.find_spec("pqlib")
    origin = spec.origin if spec and spec.origin else ""
    if os.path.dirname(os.path.dirname(os.path.realpath(origin))) != os.path.realpath(ROOT):
        pip(sys.executable, *INSTALL_OURSELVES)


def main():
    """Make sure of one environment or the other, two makes at once taking turns."""
    if "--here" in sys.argv[1:]:
        check_here()
        return
    if facts() == stamp():
        return
    # Any file both have will do to lock; some network file systems cannot, and so be it.
    with open(os.path.join(ROOT, "requirements.lock"), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stdout.write("Another make is installing; waiting for it to end ...\n")
            sys.stdout.flush()
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass
        make_venv()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted; the next make starts the installation anew.")

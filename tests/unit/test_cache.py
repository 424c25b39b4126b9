"""The cache: complete or not there, one maker at a time, sound after a kill and on a full disk."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import BuildError, ConfigError
from harness.host import seal
from harness.host.cache import Cache, cache_directory, digest, digest_of_files
from harness.host.progress import Progress
from harness.host.seal import SEAL, content_digest

MAKER = """\
import sys, time
from pathlib import Path
from harness.host.cache import Cache
from harness.host.progress import Progress
def make(entry, log):
    (entry / "half").touch()
    print("making", flush=True)
    time.sleep(60)
cache = Cache(Path(sys.argv[1]), Progress(None))
cache.provide("kind", "thing", sys.argv[2], make, stale=lambda _: True)
"""


def writing(text: str) -> Callable[[Path, Path], None]:
    def make(entry: Path, log: Path) -> None:
        log.write_text("said\n")
        (entry / "file").write_text(text)

    return make


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", Progress(None))


def killed_maker(cache: Cache, key: str) -> None:
    """Run a maker of ``thing`` in a process of its own and kill it half way."""
    argv = [sys.executable, "-c", MAKER, str(cache.directory), key]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"making\n"
        maker.kill()


def test_an_entry_is_made_once_and_then_found(cache: Cache) -> None:
    assert cache.find("kind", "thing", "k1") is None
    made = cache.provide("kind", "thing", "k1", writing("one"))
    assert cache.provide("kind", "thing", "k1", writing("two")) == made
    assert cache.find("kind", "thing", "k1") == made
    assert (made / "file").read_text() == "one"
    assert (cache.directory / "logs/kind-thing-k1.log").read_text() == "said\n"


def test_a_forgotten_entry_is_made_anew(cache: Cache) -> None:
    cache.provide("kind", "thing", "k1", writing("one"))
    cache.forget("kind", "thing", "k1")
    assert cache.find("kind", "thing", "k1") is None
    made = cache.provide("kind", "thing", "k1", writing("two"))
    assert (made / "file").read_text() == "two"


def test_a_stale_entry_stays_until_it_is_made_anew(cache: Cache) -> None:
    old = cache.provide("kind", "thing", "k1", writing("one"))

    def make(entry: Path, log: Path) -> None:
        assert (old / "file").read_text() == "one"
        writing("two")(entry, log)

    made = cache.provide("kind", "thing", "k1", make, stale=lambda entry: entry == old)
    assert (made / "file").read_text() == "two"
    assert list((cache.directory / "kind").iterdir()) == [made]


def test_a_stale_entry_stays_when_its_maker_fails(cache: Cache) -> None:
    def make(_entry: Path, _log: Path) -> None:
        raise BuildError("compiler")

    old = cache.provide("kind", "thing", "k1", writing("one"))
    with pytest.raises(BuildError, match="compiler"):
        cache.provide("kind", "thing", "k1", make, stale=lambda _: True)
    assert (old / "file").read_text() == "one"


def test_a_stale_entry_stays_when_its_maker_is_killed(cache: Cache) -> None:
    old = cache.provide("kind", "thing", "k1", writing("one"))
    killed_maker(cache, "k1")
    assert cache.find("kind", "thing", "k1") == old
    assert (old / "file").read_text() == "one"


def test_an_entry_that_another_run_has_made_anew_is_taken(cache: Cache) -> None:
    old = cache.provide("kind", "thing", "k1", writing("one"))
    answers = iter([True, False])  # before and after waiting for the other run
    made = cache.provide("kind", "thing", "k1", writing("two"), stale=lambda _: next(answers))
    assert made == old
    assert (made / "file").read_text() == "one"


def test_another_key_is_another_entry(cache: Cache) -> None:
    first = cache.provide("kind", "thing", "k1", writing("one"))
    second = cache.provide("kind", "thing", "k2", writing("two"))
    assert ((first / "file").read_text(), (second / "file").read_text()) == ("one", "two")


@pytest.mark.parametrize("error", [BuildError("compiler"), KeyboardInterrupt()])
def test_a_failed_maker_leaves_nothing(cache: Cache, error: BaseException) -> None:
    def make(entry: Path, _log: Path) -> None:
        (entry / "half").touch()
        raise error

    with pytest.raises(type(error)):
        cache.provide("kind", "thing", "k1", make)
    assert list((cache.directory / "kind").iterdir()) == []


def test_the_next_run_removes_what_a_killed_one_left_and_makes_it_anew(cache: Cache) -> None:
    killed_maker(cache, "k1")
    assert (cache.directory / "kind/thing-k1.partial/half").exists()
    assert cache.find("kind", "thing", "k1") is None
    made = cache.provide("kind", "thing", "k1", writing("one"))
    assert sorted(path.name for path in made.iterdir()) == ["file", SEAL]


def test_what_a_killed_run_left_of_another_entry_is_swept_too(cache: Cache) -> None:
    killed_maker(cache, "k1")
    cache.provide("kind", "other", "k2", writing("one"))
    assert [path.name for path in (cache.directory / "kind").iterdir()] == ["other-k2"]


def test_what_a_living_run_is_making_is_not_swept(cache: Cache) -> None:
    argv = [sys.executable, "-c", MAKER, str(cache.directory), "k1"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        maker.stdout.readline()
        cache.provide("kind", "other", "k2", writing("one"))
        assert (cache.directory / "kind/thing-k1.partial/half").exists()
        maker.kill()


def test_an_entry_unused_for_long_is_swept_and_one_in_use_is_not(cache: Cache) -> None:
    old = cache.provide("kind", "thing", "old", writing("one"))
    used = cache.provide("kind", "thing", "used", writing("one"))
    for path in (old, used):
        os.utime(path, (0, time.time() - 40 * 86400))
    cache.find("kind", "thing", "used")
    new = cache.provide("kind", "thing", "new", writing("two"))
    assert sorted((cache.directory / "kind").iterdir()) == [new, used]


def used(cache: Cache, name: str, *, at: int) -> Path:
    """Put an entry into the cache as it was used at some time."""
    path = cache.directory / "kind" / name
    path.mkdir(parents=True)
    (path / "file").touch()
    os.utime(path, (at, at))
    return path


def test_the_entries_of_a_name_that_were_used_last_stay(cache: Cache) -> None:
    keys = [f"{number:016x}" for number in (7, 3, 9, 1)]  # names tell nothing of their age
    entries = [used(cache, f"thing-{key}", at=1000 + age) for age, key in enumerate(keys)]
    cache.forget_old("kind", "thing", keep=2)
    assert [path.exists() for path in entries] == [False, False, True, True]


def test_entries_of_other_names_and_half_made_ones_are_not_forgotten(cache: Cache) -> None:
    key = "0123456789abcdef"
    others = [f"thing-more-{key}", f"other-thing-{key}", f"thing-{key}.partial"]
    entries = [used(cache, name, at=1) for name in others]
    cache.forget_old("kind", "thing", keep=0)
    assert all((path / "file").exists() for path in entries)


def test_a_cache_that_has_nothing_of_a_kind_has_nothing_to_forget(cache: Cache) -> None:
    cache.forget_old("kind", "thing", keep=0)


def test_a_second_run_waits_says_so_and_takes_what_the_first_made(tmp_path: Path) -> None:
    said = io.StringIO()
    first, second = (Cache(tmp_path, Progress(stream)) for stream in (None, said))
    begun, go_on = threading.Event(), threading.Event()

    def make(entry: Path, _log: Path) -> None:
        begun.set()
        go_on.wait(10)
        (entry / "file").write_text("first")

    thread = threading.Thread(target=first.provide, args=("kind", "thing", "k1", make))
    thread.start()
    begun.wait(10)
    threading.Timer(0.2, go_on.set).start()
    made = second.provide("kind", "thing", "k1", writing("second"))
    thread.join()
    assert (made / "file").read_text() == "first"
    assert said.getvalue().startswith("waiting for another run: kind thing ...\n")


# What is damaged.


def damaged(path: Path) -> None:
    """Write other bytes of the same number, and hide that by the time of change."""
    status = path.stat()
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "damage",
    [damaged, Path.unlink, lambda path: os.truncate(path, 1), lambda path: os.truncate(path, 99)],
    ids=["other bytes", "missing", "cut short", "longer"],
)
def test_a_damaged_entry_is_made_again_with_one_line_of_log(
    cache: Cache, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    made = cache.provide("kind", "thing", "k1", writing("one"))
    damage(made / "file")
    assert cache.find("kind", "thing", "k1") is None
    assert cache.provide("kind", "thing", "k1", writing("two")) == made
    assert (made / "file").read_text() == "two"
    (record,) = caplog.records
    assert record.getMessage().startswith("kind thing is made again: ")
    assert "file" in record.getMessage()
    assert cache.provide("kind", "thing", "k1", writing("three")) == made
    assert (made / "file").read_text() == "two"


def test_an_entry_without_a_seal_is_made_again(cache: Cache) -> None:
    made = cache.provide("kind", "thing", "k1", writing("one"))
    (made / SEAL).write_text("[")
    assert cache.find("kind", "thing", "k1") is None
    (made / SEAL).unlink()
    assert cache.find("kind", "thing", "k1") is None
    cache.provide("kind", "thing", "k1", writing("two"))
    assert (made / "file").read_text() == "two"


def test_a_file_that_was_touched_is_read_once_more(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cache.provide("kind", "thing", "k1", writing("one"))
    (made / "file").touch()
    read: list[Path] = []
    describe = seal._describe

    def note(path: Path) -> tuple[str, list[int]]:
        read.append(path)
        return describe(path)

    monkeypatch.setattr(seal, "_describe", note)
    assert cache.find("kind", "thing", "k1") == made
    assert cache.find("kind", "thing", "k1") == made
    assert read == [made / "file"]


def test_only_what_is_sealed_is_looked_at(cache: Cache) -> None:
    made = cache.provide("kind", "thing", "k1", writing("one"), sealed=lambda _: ())
    damaged(made / "file")
    assert cache.find("kind", "thing", "k1") == made


def test_the_digest_of_an_entry_is_that_of_its_contents(cache: Cache) -> None:
    entries = [
        cache.provide("kind", name, "k", writing(text))
        for name, text in (("a", "one"), ("b", "one"), ("c", "two"))
    ]
    one, same, other = map(content_digest, entries)
    assert one == same != other


# Full disks.


FILLER = """\
import sys
from pathlib import Path
from harness.host.cache import Cache
from harness.host.progress import Progress
cache, full = map(Path, sys.argv[1:])
def make(entry, log):
    (full / "file").write_bytes(bytes(2 << 20))
Cache(cache, Progress(None)).provide("kind", "thing", "k1", make, writes_to=(full,))
"""


@pytest.mark.parametrize("variable", ["TMPDIR", "OTHER"])
def test_the_disk_that_is_named_is_the_one_that_is_full(tmp_path: Path, variable: str) -> None:
    full = tmp_path / "full"
    full.mkdir()
    told = "/tmp" if variable == "TMPDIR" else full  # by the environment, or by the caller
    filler = FILLER.replace("writes_to=(full,)", f"writes_to=(Path({str(told)!r}),)")
    (tmp_path / "filler.py").write_text(filler)
    script = (
        f"mount -t tmpfs -o size=1m none {full} && {variable}={full} "
        f"{sys.executable} {tmp_path}/filler.py {tmp_path}/cache {full}"
    )
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(unshare, capture_output=True, text=True, check=False)
    assert f"no space left on the disk of {full} (0 MiB free)" in done.stderr


def test_two_entries_of_one_name_have_logs_of_their_own(cache: Cache) -> None:
    def make(_entry: Path, log: Path) -> None:
        other = cache.provide("kind", "thing", "k2", writing("two"))
        log.write_text(other.name)

    cache.provide("kind", "thing", "k1", make)
    logs = {path.name: path.read_text() for path in (cache.directory / "logs").iterdir()}
    assert logs == {"kind-thing-k1.log": "thing-k2", "kind-thing-k2.log": "said\n"}


def test_a_maker_meets_a_full_disk(cache: Cache) -> None:
    def make(entry: Path, _log: Path) -> None:
        (entry / "half").touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(BuildError, match="kind thing: no space left on the disk") as caught:
        cache.provide("kind", "thing", "k1", make)
    assert "IMSH_CACHE" in (caught.value.hint or "")
    assert list((cache.directory / "kind").iterdir()) == []


@pytest.mark.parametrize(
    "said", ["tar: x: No space left on device", "E: You don't have enough free space in /x."]
)
def test_a_makers_program_meets_a_full_disk(cache: Cache, said: str) -> None:
    def make(_entry: Path, log: Path) -> None:
        log.write_text(f"{said}\nand more\n")
        raise BuildError("unpacking failed")

    with pytest.raises(BuildError, match="no space left on the disk"):
        cache.provide("kind", "thing", "k1", make)


def test_a_full_disk_of_real(tmp_path: Path) -> None:
    """The kernel's own /dev/full stands for the disk: writing to it is the real error."""
    cache = Cache(tmp_path, Progress(None))

    def make(_entry: Path, _log: Path) -> None:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")

    with pytest.raises(BuildError, match="no space left"):
        cache.provide("kind", "thing", "k1", make)


def test_a_lock_is_free_again_after_use(cache: Cache) -> None:
    exclusively = fcntl.LOCK_EX | fcntl.LOCK_NB
    with cache.lock("pool", "a root"):
        file = (cache.directory / "locks/pool").open()
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, exclusively)
    with file:
        fcntl.flock(file, exclusively)


def test_a_cache_that_cannot_be_written_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        Cache(tmp_path / "file/cache", Progress(None)).provide("a", "b", "c", writing(""))


def test_the_directory_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMSH_CACHE", "/somewhere")
    assert cache_directory() == Path("/somewhere")
    monkeypatch.setenv("IMSH_CACHE", "relative")
    with pytest.raises(ConfigError, match="not an absolute path"):
        cache_directory()
    monkeypatch.delenv("IMSH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_directory() == Path("/xdg/imsh")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_directory() == Path("/home/me/.cache/imsh")


def test_a_digest_depends_on_every_name_mode_and_byte(tmp_path: Path) -> None:
    file = tmp_path / "a.c"
    file.write_text("int x;")
    file.chmod(0o644)
    keys = {digest_of_files([file])}
    file.write_text("int y;")
    keys.add(digest_of_files([file]))
    file.chmod(0o755)
    keys.add(digest_of_files([file]))
    keys.add(digest_of_files([file.rename(tmp_path / "b.c")]))
    assert len(keys) == 4
    assert digest("a", "b") != digest("ab")

"""Finished builds: what belongs together, and what is said when a part is missing."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.build.finished import find_finished, image_version, provide_finished
from harness.build.kernel import FinishedBuild
from harness.errors import ConfigError
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.testbed.trees import tree_recipe, tree_words

RELEASE = "6.12.0-mine"


def image(release: str) -> bytes:
    """Return the start of a bzImage: its header points to the text with the release."""
    header = bytearray(0x400)
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", header, 0x20E, 0x100)
    text = f"{release} (me@here) #1 SMP".encode()
    header[0x300 : 0x300 + len(text)] = text
    return bytes(header)


@pytest.fixture
def build(tmp_path: Path) -> FinishedBuild:
    modules, output = tmp_path / RELEASE, tmp_path / "output"
    for name in ("Makefile", ".config", "Module.symvers", "include/generated/autoconf.h"):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(f"include {tmp_path}/Makefile\n")
    modules.mkdir()
    for name in ("modules.dep", "modules.builtin"):
        (modules / name).touch()
    (modules / "build").symlink_to(output)
    (tmp_path / "bzImage").write_bytes(image(RELEASE))
    return FinishedBuild(str(tmp_path / "bzImage"), str(modules))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", Progress(None))


def test_a_finished_build_is_a_kernel(build: FinishedBuild, cache: Cache, tmp_path: Path) -> None:
    kernel = provide_finished(cache, "mine", build)
    assert kernel.release == RELEASE
    assert kernel.build == tmp_path / "output"
    # What its Makefile names is shown at its own place.
    assert set(kernel.shown) == {str(tmp_path), str(tmp_path / "output")}


def test_a_new_build_is_another_kernel_and_spoils_no_running_one(
    build: FinishedBuild, cache: Cache
) -> None:
    before = provide_finished(cache, "mine", build)
    build.image.write_bytes(image(RELEASE) + b"changed")
    assert before.vmlinuz.read_bytes() == image(RELEASE)
    assert find_finished(cache, "mine", build) is None
    assert provide_finished(cache, "mine", build).key != before.key


def test_image_and_modules_are_of_one_build(build: FinishedBuild, cache: Cache) -> None:
    build.image.write_bytes(image("6.13.0"))
    with pytest.raises(ConfigError, match=r"two kernels: .* is 6\.13\.0, .* is of 6\.12\.0-mine"):
        provide_finished(cache, "mine", build)


@pytest.mark.parametrize(
    ("content", "message"), [(b"\x7fELF" + bytes(0x400), "an ELF file"), (b"", "no bzImage")]
)
def test_what_no_machine_boots_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "vmlinux"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        image_version(file)
    assert "arch/x86/boot/bzImage" in (caught.value.hint or "")


def test_an_image_that_is_nowhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        image_version(tmp_path / "bzImage")


def test_modules_without_headers_say_how_these_get_here(
    build: FinishedBuild, cache: Cache, tmp_path: Path
) -> None:
    (tmp_path / "output").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match=r"build leads to .*output, which is not here") as caught:
        provide_finished(cache, "mine", build)
    assert f"install the headers of that kernel (linux-headers-{RELEASE})" in str(caught.value)
    (build.modules_directory / "build").unlink()
    with pytest.raises(ConfigError, match=f"there is no {build.modules_directory}/build"):
        provide_finished(cache, "mine", build)


def test_an_output_that_is_not_whole_is_told(
    build: FinishedBuild, cache: Cache, tmp_path: Path
) -> None:
    (tmp_path / "output/Module.symvers").unlink()
    with pytest.raises(ConfigError, match=r"it has no Module\.symvers"):
        provide_finished(cache, "mine", build)


def test_what_is_no_modules_directory_is_told(build: FinishedBuild, cache: Cache) -> None:
    (build.modules_directory / "modules.dep").unlink()
    with pytest.raises(ConfigError, match=r"no modules directory: it has no modules\.dep"):
        provide_finished(cache, "mine", build)


def test_the_command_line_names_it_and_names_it_again() -> None:
    recipe = tree_recipe(None, None, [], None, "/boot/vmlinuz-6.1", "/lib/modules/6.1")
    assert recipe is not None
    words = ["--vmlinuz", "/boot/vmlinuz-6.1", "--modules", "/lib/modules/6.1"]
    assert tree_words(recipe) == [str(Path(word).resolve()) if "/" in word else word
                                  for word in words]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((None, None, [], None, "/boot/vmlinuz", None), "named by both"),
        ((None, None, [], None, None, "/lib/modules/6.1"), "named by both"),
        (("/linux", None, [], None, "/boot/vmlinuz", "/lib/modules/6.1"), "give one"),
        ((None, "v6.12", [], None), "--rev is of a kernel tree"),
        ((None, None, ["a.mbox"], None), "--series is of a kernel tree"),
        ((None, None, [], "debug"), "--kconfig is of a kernel tree"),
    ],
)
def test_options_that_need_each_other_say_so(
    words: tuple[str | None, str | None, list[str], str | None], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tree_recipe(*words)

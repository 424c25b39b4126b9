"""Kernel configurations, and what is read out of a build's log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.build.kbuild import Kbuild, estimate, failed_target, first_error
from harness.build.kconfig import parse_config, refused
from harness.build.kernel import DEBUG, TreeSource
from harness.build.module_tree import copy_for_modules
from harness.build.roots import Roots
from harness.build.sandbox import Sandbox
from harness.build.toolchain import Toolchain
from harness.build.tree import check_configuration, configuration
from harness.errors import ConfigError
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.resources import resource

SAID = """\
  CC      drivers/iommu/intel/dmar.o
In file included from /imsh/tree/include/linux/irq.h:14,
                 from /imsh/tree/drivers/iommu/intel/irq_remapping.c:10:
/imsh/tree/drivers/iommu/intel/irq_remapping.c: In function 'modify_irte':
/imsh/tree/drivers/iommu/intel/irq_remapping.c:170:9: error: 'iommuu' undeclared
  170 |         iommuu = irq_iommu->iommu;
      |         ^~~~~~
/imsh/tree/drivers/iommu/intel/irq_remapping.c:171:9: error: another
make[6]: *** [/imsh/tree/scripts/Makefile.build:229: drivers/iommu/intel/irq_remapping.o] Error 1
make[5]: *** [/imsh/tree/scripts/Makefile.build:478: drivers/iommu/intel] Error 2
"""


def test_options_are_read_as_kconfig_writes_them() -> None:
    text = '# comment\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="-x y"\n\nCONFIG_N=-1\n'
    assert parse_config(text) == {
        "CONFIG_A": "y", "CONFIG_B": "n", "CONFIG_C": '"-x y"', "CONFIG_N": "-1",
    }  # fmt: skip


def test_what_is_no_configuration_is_told_by_its_line() -> None:
    with pytest.raises(ValueError, match="line 2"):
        parse_config("CONFIG_A=y\n#include <x>\nint main;\n".replace("#include <x>\n", ""))


def test_options_that_did_not_survive_are_named() -> None:
    wanted = {"CONFIG_A": "y", "CONFIG_B": "m", "CONFIG_V": "y", "CONFIG_M": "y", "CONFIG_Z": "y"}
    got = {"CONFIG_A": "y", "CONFIG_B": "y", "CONFIG_V": "m", "CONFIG_M": "m"}
    assert refused(wanted, got, modules=["CONFIG_V"]) == ["CONFIG_M=y (it has m)", "CONFIG_Z=y"]


@pytest.mark.parametrize("name", ["boot", "checks", "former", DEBUG])
def test_our_fragments_are_configurations(name: str) -> None:
    text = (resource("guests/configs") / f"{name}.config").read_text()
    assert all(value in ("y", "m", "n", "256") for value in parse_config(text).values())


def test_debug_is_ours_and_more() -> None:
    ours, whole = configuration(TreeSource("/linux"))
    debug, _ = configuration(TreeSource("/linux", config=DEBUG))
    assert not whole
    assert debug.startswith(ours)
    assert "CONFIG_PROVE_LOCKING=y" in debug.removeprefix(ours)


def test_a_configuration_of_the_users_is_told_what_it_lacks(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("CONFIG_X86_64=y\n")
    source = TreeSource("/linux", config=str(file))
    assert configuration(source) == ("CONFIG_X86_64=y\n", True)
    boot = parse_config((resource("guests/configs") / "boot.config").read_text())
    check_configuration(boot, source)
    with pytest.raises(ConfigError) as caught:
        check_configuration({**boot, "CONFIG_IRQ_REMAP": "n", "CONFIG_VIRTIO_NET": "m"}, source)
    assert caught.value.evidence == "CONFIG_IRQ_REMAP=y"


@pytest.mark.parametrize("text", ["CONFIG_ARM64=y\n", "int main(void)\n", None])
def test_what_is_no_configuration_for_our_guests_is_refused(
    tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "config"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=r"is no (kernel )?configuration"):
        configuration(TreeSource("/linux", config=str(file)))


def test_the_compilers_first_words_are_the_evidence() -> None:
    lines = first_error(SAID).splitlines()
    assert lines[0].startswith("In file included from")
    assert lines[-1].endswith("error: another")
    assert failed_target(SAID) == "drivers/iommu/intel/irq_remapping.o"


def test_where_no_compiler_complains_make_is_quoted() -> None:
    said = "  GEN     x\nawk: not found\nmake[1]: *** [/imsh/tree/Makefile:12: prepare] Error 127\n"
    assert first_error(said).splitlines() == said.splitlines()
    assert failed_target(said) == ""


def test_how_much_is_left_goes_by_the_steps_so_far() -> None:
    assert estimate(0, 100, 5.0) == ""
    assert estimate(25, 100, 10.0) == "25 of about 100 steps, about 30 s left"
    assert estimate(120, 100, 10.0) == "120 steps"


def test_what_a_killed_build_wrote_last_is_not_trusted(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", Progress(None))
    roots = Roots(cache)
    output = tmp_path / "output"
    (output / "kernel").mkdir(parents=True)
    for name, when in (("old.o", 100), ("half-done", 200), ("cut.o", 300)):
        (output / "kernel" / name).touch()
        os.utime(output / "kernel" / name, (when, when))
    (output / "kernel/half-done").rename(output / "half-done")
    build = Kbuild(
        Sandbox(roots), Toolchain(tmp_path, ()), tmp_path, output, tmp_path, tmp_path / "log"
    )
    build._discard_half_done()
    assert sorted(path.name for path in output.rglob("*.*")) == ["old.o"]
    assert not (output / "half-done").exists()


def test_modules_get_headers_and_scripts_but_no_objects(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    for path in ("include/linux/irq.h", "arch/x86/Makefile", "arch/x86/include/asm/x.h",
                 "kernel/irq.c", "scripts/Makefile.build", "Makefile"):  # fmt: skip
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(path)
    for path in ("include/generated/a.h", "scripts/mod/modpost", "scripts/mod/modpost.o",
                 ".config", "Module.symvers", "kernel/irq.o", "scripts/.x.cmd"):  # fmt: skip
        (output / path).parent.mkdir(parents=True, exist_ok=True)
        (output / path).write_text(path)
    copy_for_modules(source, tmp_path / "tree", output, tmp_path / "build")

    def files(directory: str) -> list[str]:
        top = tmp_path / directory
        return sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file())

    assert files("tree") == ["Makefile", "arch/x86/Makefile", "arch/x86/include/asm/x.h",
                             "include/linux/irq.h", "scripts/Makefile.build"]  # fmt: skip
    assert files("build") == [".config", "Module.symvers", "include/generated/a.h",
                              "scripts/mod/modpost"]  # fmt: skip

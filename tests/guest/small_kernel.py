"""A tree that builds in no time: the targets of kbuild that the harness calls, and two C files.

It is built for real, by the real make and compiler in the real sandbox. What a build does badly is
up to ``kernel/bad.mk``, which the Makefile includes.
``python -m tests.guest.small_kernel TREE CACHE`` builds one: a harness to be killed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness.build.kernel import TreeSource
from harness.build.roots import Roots
from harness.build.sandbox import Sandbox
from harness.build.tree import Trees
from harness.config.recipes import load_recipes
from harness.host.cache import Cache, cache_directory
from harness.host.progress import Progress
from tests.unit.small_tree import make_tree

RELEASE = "6.12.107-small"

_MAKEFILE = r"""
ifeq ($(tree),)
tinyconfig:
	@echo 'CONFIG_X86_64=y' >$(KCONFIG_CONFIG)
# An option in the file "dropped" does not stand, as one whose dependencies are not met.
olddefconfig:
	@grep -v -x -f kernel/dropped $(KCONFIG_CONFIG) >$(O)/settled
	@mv $(O)/settled $(KCONFIG_CONFIG)
modules_install:
	@mkdir -p $(INSTALL_MOD_PATH)/lib/modules/RELEASE
	@touch $(INSTALL_MOD_PATH)/lib/modules/RELEASE/modules.dep
# Like kbuild, in the output's directory.
modules kernel/first.o kernel/second.o: FORCE
	@$(MAKE) -C $(O) -f $(CURDIR)/Makefile tree=$(CURDIR) $@
bzImage: modules ;
FORCE: ;
else
modules: bzImage
bzImage: kernel/first.o kernel/second.o
	@mkdir -p arch/x86/boot include/config
	@cat $^ >arch/x86/boot/bzImage
	@echo RELEASE >include/config/kernel.release
-include $(tree)/kernel/bad.mk
kernel/%.o: $(tree)/kernel/%.c
	@mkdir -p $(@D); echo '  CC      $@'
	@gcc -c -o $@ $<
endif
"""


def make_small_kernel(directory: Path) -> Path:
    """Make such a tree, under no version control, and return it."""
    tree = make_tree(directory)
    makefile = _MAKEFILE.replace("RELEASE", RELEASE)
    (tree / "Makefile").write_text((tree / "Makefile").read_text() + makefile)
    (tree / "kernel/dropped").write_text("nothing is dropped\n")
    for name in ("first", "second"):
        (tree / f"kernel/{name}.c").write_text(f"int {name};\n")
    return tree


def make_trees(cache: Path) -> Trees:
    """Return what builds trees in a cache of its own, by the compiler of the user's."""
    progress = Progress(sys.stderr)
    roots = Roots(Cache(cache_directory(), progress))
    return Trees(roots, Sandbox(roots), Cache(cache, progress), load_recipes().toolchain)


if __name__ == "__main__":
    make_trees(Path(sys.argv[2])).provide("small", TreeSource(sys.argv[1]))

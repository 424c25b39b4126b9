"""Test workers: tests of one group stay on one worker, and the loss of a worker loses one test.

Ref: pytest-xdist 3.8.0, xdist/scheduler/loadscope.py; its issues #1323 and #1327 (a run that never
ends after a worker was lost) and #1371 (the test that a worker died of is tried again and again).
"""

from __future__ import annotations

from xdist.scheduler import LoadGroupScheduling
from xdist.workermanage import WorkerController


class GroupScheduling(LoadGroupScheduling):  # type: ignore[misc]  # xdist has no types
    """``--dist loadgroup``, which goes on when a worker was lost."""

    def remove_node(self, node: WorkerController) -> str | None:
        """Give what a worker leaves to the others; return the test that it died of, if any.

        That one is done: it is reported as failed, and would kill the next worker as well.
        """
        work = self.assigned_work.pop(node)
        pending = [test for unit in work.values() for test, done in unit.items() if not done]
        if not pending:
            return None
        died_of: str = pending[0]
        left = set(pending[1:])
        for scope, unit in work.items():
            if rest := {test: False for test in unit if test in left}:
                self.workqueue[scope] = rest
        for other in self.assigned_work:
            self._reschedule(other)
        return died_of

    def _reschedule(self, node: WorkerController) -> None:
        """Give a worker something to do, or the word that there is no more.

        It begins a test when it knows the next one, or that word: one test alone is not begun.
        """
        super()._reschedule(node)
        if not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            self._reschedule(node)

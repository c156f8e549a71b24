"""Comparing: several systems on the same sentences, trained and judged side by side, in one table."""

from sri_pyro.comparing.comparison import Asked, Outcome, compare, plan
from sri_pyro.comparing.jobs import Watcher
from sri_pyro.comparing.outputs import lines

__all__ = ["Asked", "Outcome", "Watcher", "compare", "lines", "plan"]

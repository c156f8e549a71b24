"""Coverage: bias of every estimate of log p(x), and how often intervals and bounds hold, where the truth is known."""

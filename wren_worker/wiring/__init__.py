"""The composition root: settings become real objects here, and nowhere else do ``aws`` and the other places meet."""

"""``python -m export`` in a checkout. The code is in ``catdog.export``: a wheel owns no package named export."""

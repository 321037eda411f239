"""What people and monitors see of a run or a fleet: a page, JSON, Prometheus text, events as they come.

It shows what a coordinator knows (`watched.py`), and decides nothing."""

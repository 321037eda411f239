"""From Python: a notebook or a script that drives a run (`orchestrator.py`), or lends its machine (`network_worker.py`)."""

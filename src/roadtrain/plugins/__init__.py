"""Front doors for other libraries' scripts: each is hooked on without touching its files, and goes without a trace."""

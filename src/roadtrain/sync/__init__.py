"""How replicas agree: sans-IO state machines, one mechanism for every strategy.

Public: `Strategy` and `strategy_for`, `Peer` (owner, standby and replica of one process), `Fragment`, `ReplicaBuffers`,
`TensorLedger`, `first_view`, `without`, `Carrier` and `turn`.

Invariant: knows no sockets, threads, wall clocks or random sources. Messages come in, messages go out, time is handed in.
"""

"""Layouts: how the ranks of one region hold one replica between them, by torch.distributed.

Purpose: any `nn.Module`, unedited, over a DeviceMesh: data parallel, sharded (ZeRO), tensor parallel, pipelined, and their
products. All collectives, schedules and shards are torch's own.

Public names: `replica.Replica` is what a trainer works with; `options.Options` says how it is laid out.

Invariants: knows no trainer, no protocol and no wire. A parameter has the same name in every layout, so that checkpoints
are of the model and not of its layout.
"""

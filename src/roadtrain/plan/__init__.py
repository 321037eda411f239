"""The plan of a run: every setting in one typed tree, its sources, its text form and its rules.

    Plan, Job, Model, Optimizer, Sync, Codec, Place, Layout, Watch, Simulate   the tree; SECTIONS its parts by name
    load, parse, dumps, from_dict, as_dict                   a plan from its sources and back
    check                                                    what cannot be run, before it is started
    Link, Straggler, SyncSpec, Speeds                        the little languages inside a plan
    LayoutSpec, layouts_of, replica_groups_of, Seat, seat_of, stage_speeds   how a replica is spread, and who sits where
    Topology, Region                                         the regions that a topology file describes
    Plugin, absolute                                            a class of the person's own: FILE.py:CLASS
    Setting, settings                                        every field as a row: flag, variable, kind, help

Invariant: plain data; imports nothing of roadtrain but errors. Importing it takes milliseconds.
"""

from roadtrain.plan.check import check
from roadtrain.plan.grammar import Link, Straggler, SyncSpec
from roadtrain.plan.layout import LayoutSpec, Seat, layouts_of, replica_groups_of, seat_of, stage_speeds
from roadtrain.plan.load import as_dict, dumps, from_dict, load, parse
from roadtrain.plan.plugin import Plugin, absolute
from roadtrain.plan.schema import SECTIONS, Codec, Job, Layout, Model, Optimizer, Place, Plan, Simulate, Sync, Watch
from roadtrain.plan.settings import Setting, settings
from roadtrain.plan.speeds import Speeds
from roadtrain.plan.topology import Region, Topology

__all__ = [
    "SECTIONS",
    "Codec",
    "Job",
    "Layout",
    "LayoutSpec",
    "Link",
    "Model",
    "Optimizer",
    "Place",
    "Plan",
    "Plugin",
    "Region",
    "Seat",
    "Setting",
    "Simulate",
    "Speeds",
    "Straggler",
    "Sync",
    "SyncSpec",
    "Topology",
    "Watch",
    "absolute",
    "as_dict",
    "check",
    "dumps",
    "from_dict",
    "layouts_of",
    "load",
    "parse",
    "replica_groups_of",
    "seat_of",
    "settings",
    "stage_speeds",
]

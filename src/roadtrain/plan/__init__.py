"""The plan of a run: every setting in one typed tree, its sources, its text form and its rules.

    Plan, Job, Optimizer, Sync, Codec, Place, Layout, Watch, Simulate   the tree; SECTIONS its parts by name
    Target, RECIPES                                          what is trained, as the person names it
    Declaration, declaration_of                              the settings of its own that a target declares, and its `make`
    add_folder                                               where a job's or a script's own modules are found
    load, or choose and then complete or with_keywords       a plan from its sources
    parse, dumps, dumps_tables, from_dict, as_dict, differences   a plan as text and tables, and back
    check, check_known, check_strategy, check_blocks, refuse_unread, refuse_unseen   what cannot be run, before it is started
    check_loggers                                            loggers that are not installed
    Link, Straggler, SyncSpec, Speeds                        the little languages inside a plan
    LayoutSpec, layouts_of, replica_groups_of, Seat, seat_of, stage_speeds   how a replica is spread, and who sits where
    AUTO, in_regions, outcomes, region_layout, refuse_uneven   regions that are settled where workers are placed
    keys_of, without_unread                                  which settings were said, and those that a script goes by
    has_momentum, warmup_of                                  what the DiLoCo family does where the plan leaves it open
    notes_on                                                 what a person should know of a plan before its run begins
    takes_newcomers                                          whether a worker may come to a run that goes on
    Topology, Region                                         the regions that a topology file describes
    Plugin, absolute                                            a class of the person's own: FILE.py:CLASS
    Setting, settings                                        every field as a row: flag, variable, kind, help

Invariant: plain data; imports nothing of roadtrain but errors. Importing it takes milliseconds.
"""

from roadtrain.plan.check import check, check_known, check_strategy
from roadtrain.plan.check_layout import check_blocks, refuse_unseen
from roadtrain.plan.declaration import Declaration, declaration_of
from roadtrain.plan.grammar import Link, Straggler, SyncSpec
from roadtrain.plan.importing import add_folder
from roadtrain.plan.layout import LayoutSpec, Seat, layouts_of, replica_groups_of, seat_of, stage_speeds
from roadtrain.plan.load import choose, complete, load, with_keywords
from roadtrain.plan.loggers import check_loggers
from roadtrain.plan.newcomers import takes_newcomers
from roadtrain.plan.notes import notes_on
from roadtrain.plan.outer import has_momentum, warmup_of
from roadtrain.plan.own_loop import keys_of, refuse_unread, without_unread
from roadtrain.plan.plugin import Plugin, absolute
from roadtrain.plan.regions import in_regions, outcomes, refuse_uneven, region_layout
from roadtrain.plan.schema import (
    AUTO,
    OWN,
    ROUNDING,
    SECTIONS,
    Codec,
    Job,
    Layout,
    Optimizer,
    Place,
    Plan,
    Simulate,
    Sync,
    Value,
    Watch,
)
from roadtrain.plan.settings import COMMAND_FLAGS, Setting, settings
from roadtrain.plan.speeds import Speeds
from roadtrain.plan.target import RECIPES, Target, looks_like_target
from roadtrain.plan.text import Tables, as_dict, differences, dumps, dumps_tables, from_dict, parse
from roadtrain.plan.topology import Region, Topology

__all__ = [
    "AUTO",
    "COMMAND_FLAGS",
    "OWN",
    "RECIPES",
    "ROUNDING",
    "SECTIONS",
    "Codec",
    "Declaration",
    "Job",
    "Layout",
    "LayoutSpec",
    "Link",
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
    "Tables",
    "Target",
    "Topology",
    "Value",
    "Watch",
    "absolute",
    "add_folder",
    "as_dict",
    "check",
    "check_blocks",
    "check_known",
    "check_loggers",
    "check_strategy",
    "choose",
    "complete",
    "declaration_of",
    "differences",
    "dumps",
    "dumps_tables",
    "from_dict",
    "has_momentum",
    "in_regions",
    "keys_of",
    "layouts_of",
    "load",
    "looks_like_target",
    "notes_on",
    "outcomes",
    "parse",
    "refuse_uneven",
    "refuse_unread",
    "refuse_unseen",
    "region_layout",
    "replica_groups_of",
    "seat_of",
    "settings",
    "stage_speeds",
    "takes_newcomers",
    "warmup_of",
    "with_keywords",
    "without_unread",
]

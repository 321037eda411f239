from __future__ import annotations

from pathlib import Path

import pytest

from roadtrain.errors import UsageError
from roadtrain.plan import Link, Topology

LAB_AND_HOME = """
[[region]]
name = "lab"
workers = 3
link = "10gbit/0.5ms"

[[region]]
name = "home"
link = "1gbit/1ms"
up = "20mbit"
down = "200mbit"

[[between]]
regions = ["lab", "home"]
link = "unlimited/25ms"
"""


def load(tmp_path: Path, text: str) -> Topology:
    file = tmp_path / "topology.toml"
    file.write_text(text)
    return Topology.load(file)


def test_a_file_describes_regions_and_what_lies_between(tmp_path: Path) -> None:
    topology = load(tmp_path, LAB_AND_HOME)
    lab, home = topology.regions
    assert topology.workers == 4
    assert (lab.workers, lab.inside) == (3, Link(10e9 / 8, 0.0005))
    assert (lab.up_bytes_per_s, lab.down_bytes_per_s) == (10e9 / 8, 10e9 / 8)
    assert (home.workers, home.up_bytes_per_s, home.down_bytes_per_s) == (1, 20e6 / 8, 200e6 / 8)
    assert topology.between["lab", "home"] == topology.between["home", "lab"] == Link(None, 0.025)


def test_one_region_needs_nothing_between() -> None:
    topology = Topology.single(5, Link(1e6, 0.01))
    assert [(r.name, r.workers, r.up_bytes_per_s) for r in topology.regions] == [("r0", 5, 1e6)]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("workers = 3", "workers = 0", "region lab has 0 workers"),
        ("workers = 3", "worker = 3", "'workers'"),
        ('"10gbit/0.5ms"', '"fast"', "RATE/DELAY"),
        ('"20mbit"', '"20mb"', "unknown unit 'mb'"),
        ('name = "home"', 'name = "lab"', "a name of its own"),
        ('["lab", "home"]', '["lab", "hone"]', "'home'"),
        ('["lab", "home"]', '["lab"]', "lacks its two regions"),
        ("[[between]]", "[[betwixt]]", "'between'"),
        ("[[between]]", "[between]", "[[between]]"),
        (LAB_AND_HOME[LAB_AND_HOME.index("[[between]]") :], "", "nothing lies between lab and home"),
        (LAB_AND_HOME, "", "one [[region]] or more"),
        ("[[region]]", "[[region", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_by_name_in_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        load(tmp_path, LAB_AND_HOME.replace(old, new))
    line = refused.value.line()
    assert said in line
    assert "topology.toml" in line
    assert "\n" not in line


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no topology file .*nowhere\.toml"):
        Topology.load(tmp_path / "nowhere.toml")

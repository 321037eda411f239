"""Workers that only dial out, on hosts of their own: two of them have no route to each other, and meet at the coordinator's."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from live import Live, Train, clean_environment, distance
from namespaces import Lines, Network, network, ranks

STEPS = 80
TRAINING = ("digits", "--steps", STEPS, "--batch", 16, "--log-every", 1, "--sync", "ssgd")
SLOW = ("--straggler", *(f"worker={worker},base=0.05" for worker in range(3)))
TOKEN = "t" * 32
STATE = """
import json, ssl, sys, urllib.request
from roadtrain.wire.credentials import Credentials
credentials = Credentials(sys.argv[2], secure=True)
tls = credentials.client_context()
tls.check_hostname = False
asked = urllib.request.Request(sys.argv[1], headers=dict(credentials.metadata))
print(urllib.request.build_opener(urllib.request.HTTPSHandler(context=tls)).open(asked).read().decode())
"""

pytestmark = pytest.mark.long


def listening(live: Live) -> list[str]:
    """Addresses on which anybody of its host listens, as the kernel writes them."""
    tables = [Path(f"/proc/{live.process.pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A"]


def state(net: Network, live: Live) -> dict[str, Any]:
    """What the coordinator says of the run."""
    url = f"https://{net.address(0)}:29400/api/run"
    asking = Live(net.at(0, [sys.executable, "-c", STATE, url, TOKEN]), live.out, clean_environment())
    return json.loads(asking.ended(30).stdout)


def test_two_without_a_route_between_them_train_with_a_third(tmp_path: Path, train: Train) -> None:
    _, undisturbed = train(*TRAINING, "--workers", 3)
    with network(3, Lines(delay_s=0.005)) as net:
        net.cut(1, 2)
        with ranks(net, tmp_path / "run", 3, *TRAINING, *SLOW, hosts=[0]) as (live,):
            url = f"wss://{net.address(0)}:29400"
            program = [sys.executable, str(Path(__file__).with_name("dial_out.py")), url, TOKEN]
            others = [Live(net.at(host, [*program, str(host)]), live.out, clean_environment()) for host in (1, 2)]
            try:
                live.wait_for_step(STEPS // 2, "w2")
                assert len(listening(live)) > 1, "the coordinator, and a worker that listens"
                assert [listening(other) for other in others] == [[], []]
                links = {(link["from"], link["to"]): link for link in state(net, live)["links"]}
                assert {pair: link["via"] for pair, link in links.items()} == {
                    (f"w{one}", f"w{other}"): "relay" if 0 not in (one, other) else "direct"
                    for one in range(3)
                    for other in range(3)
                    if one != other
                }
                assert 20 <= links["w1", "w2"]["rtt_ms"] < 200, "over two lines, each way"
                ended = [one.ended(120) for one in (live, *others)]
            finally:
                for one in others:
                    one.end()
    assert [one.code for one in ended] == [0, 0, 0], [one.stderr for one in ended]
    assert not live.events("lost")
    assert net.carried[1, 2] == net.carried[2, 1] == 0
    assert distance(live.out, undisturbed) == 0.0

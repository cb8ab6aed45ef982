"""What notebooks and logs show of values: short, and with nothing in it that a browser would obey."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.html_table import MOST_ROWS, html_table
from ray_dra.core.model.topology import Topology
from ray_dra.core.plan import plan
from tests.core.machines import gang, node, one_clique, rack


class Cells(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells and data.strip("\n"):
            self.cells[-1] += data


@given(st.lists(st.lists(st.text("<>&\"'ab/ script", min_size=1), min_size=2, max_size=2), max_size=4))
def test_no_text_becomes_a_tag(rows: list[list[str]]) -> None:
    found = Cells(html_table("<b>", ("a", "b"), rows))
    assert found.tags <= {"table", "caption", "tr", "th", "td"}
    assert found.cells == [cell for row in rows for cell in row]


def test_many_rows_are_cut() -> None:
    found = Cells(html_table("c", ("a",), [[str(at)] for at in range(5000)]))
    assert len(found.cells) == MOST_ROWS + 1
    assert found.cells[-1] == "and 4,800 more"


def test_topologies_and_allocations_are_short_and_have_tables() -> None:
    nodes = [*rack("r", 2), node("b", 8, box=True, loose=[2])]
    topology = Topology.of(nodes)
    assert repr(topology) == "Topology(3 nodes, 16 GPUs, 2 cliques)"
    assert Cells(topology._repr_html_()).cells == [
        *("box.b", "box", "1", "7", "r", "multi-node", "2", "8"),
        *("in no clique", "", "1", "1"),
    ]
    answer = plan(Inventory(rack("r", 2)), gang(4, 1, name="g", locality=one_clique()))
    assert isinstance(answer, Allocation)
    assert repr(answer) == "Allocation(g: 2 bundles, 5 devices on 2 nodes in 1 clique)"
    cells = Cells(answer._repr_html_()).cells
    assert cells[:3] == ["0", answer.nodes[0], "r"]
    assert cells[3].startswith("0 (GPU-r-")
    assert len(cells) == 8

"""The rules do what they say, by Prometheus' own tool, and name metrics that there are."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from structure import ROOT
from support.infra_checks import INFRA, findings, run_tool

from nightpress.jobs.dispatch import metrics
from nightpress.pipelines.shards.timeline import Activity

OBSERVABILITY = INFRA / "observability"


def read(name: str) -> str:
    return (OBSERVABILITY / name).read_text(encoding="utf-8")


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Metric, as Ray exports it -> its labels, of all that an actor and a driver make."""
    found: dict[str, set[str]] = {}

    def maker(ending: str) -> Callable[..., None]:
        def make(name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            found[f"ray_{name}{ending}"] = set(tag_keys)

        return make

    monkeypatch.setattr(metrics, "Counter", maker("_total"))
    monkeypatch.setattr(metrics, "Gauge", maker(""))
    metrics.ActorMetrics()
    metrics.RunGauges("a", deadline_at=None)
    return found


def rules() -> list[dict[str, Any]]:
    """Every rule of every group."""
    groups = yaml.safe_load(read("rules.yml"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def recorded() -> set[str]:
    """The series that the rules make."""
    return {rule["record"] for rule in rules() if "record" in rule}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read("dashboard.json"))
    return found


def test_prometheus_accepts_the_rules_and_the_scrape_config() -> None:
    assert findings(run_tool("promtool", "check", "rules", OBSERVABILITY / "rules.yml")) == []
    assert findings(run_tool("promtool", "check", "config", OBSERVABILITY / "prometheus.yml")) == []


def test_the_rules_pass_their_own_tests() -> None:
    assert findings(run_tool("promtool", "test", "rules", OBSERVABILITY / "rules_test.yml")) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("nightpress:deadline_margin_seconds < 0", "nightpress:deadline_margin_seconds < -300"),
        ("for: 15m", "for: 30m"),
        ("offset 30m == 0", "offset 30m <= 1000"),
        ("nightpress:planned - nightpress:done > 0", "nightpress:planned > 0"),
        ("(nightpress:done > 100) > 0.05", "nightpress:done > 0.05"),
        ("sum by (run, status)", "sum by (run, status, WorkerId)"),
        ('{activity=~"waiting.*"}', '{activity="waiting"}'),
        ('up{job=~"ray|nightpress/.*"}', "up"),
        ("sum by (run, activity) (rate(", "sum by (run, activity) (rates("),
    ],
)
def test_a_mistake_in_the_rules_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    copied = Path(shutil.copytree(OBSERVABILITY, tmp_path / "rules"))
    rules = copied / "rules.yml"
    text = rules.read_text(encoding="utf-8")
    assert right in text
    rules.write_text(text.replace(right, wrong, 1), encoding="utf-8")
    assert findings(run_tool("promtool", "test", "rules", copied / "rules_test.yml")) != []


def test_the_rules_read_the_metrics_that_nightpress_makes_by_the_labels_that_these_have(
    exported: dict[str, set[str]],
) -> None:
    assert len(exported) == 7
    assert set(re.findall(r"\bray_nightpress_\w+", read("rules.yml"))) == set(exported)
    for rule in rules():
        for metric in re.findall(r"\bray_nightpress_\w+", rule["expr"]):
            named = re.findall(r"(?:by|ignoring) \(([\w, ]+)\)", rule["expr"])
            assert {label for each in named for label in each.split(", ")} <= exported[metric]


def test_the_series_of_the_rules_tests_have_the_labels_of_the_metrics(
    exported: dict[str, set[str]],
) -> None:
    series = re.findall(r"\b(ray_nightpress_\w+)\{(.*?)\}", read("rules_test.yml"))
    assert {name for name, _ in series} == set(exported) - {"ray_nightpress_run_seconds_left"}
    for name, labels in series:
        of_ray = {"WorkerId"}
        assert set(re.findall(r"(\w+)=", labels)) - of_ray == exported[name], name


def test_both_manuals_list_every_metric_and_its_labels(exported: dict[str, set[str]]) -> None:
    row = r"^\| `(ray_nightpress_\w+)` \| (.*?) \|"
    infra = re.findall(row, (INFRA / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in infra} == exported
    jobs = re.findall(row, (ROOT / "jobs/README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for name, _ in jobs} == set(exported)


def test_the_rules_name_activities_of_actors_as_they_are() -> None:
    waiting = {activity for activity in Activity if activity.startswith("waiting")}
    assert waiting == {Activity.INPUT, Activity.OUTPUT, Activity.SCORING}


def test_the_dashboard_and_the_alerts_use_the_recorded_series_and_no_others() -> None:
    used = set(re.findall(r"\bnightpress:\w+", read("dashboard.json") + read("rules.yml")))
    assert used == recorded()
    assert "ray_nightpress" not in read("dashboard.json")


def test_prometheus_understands_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    found = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(found)]
    assert len(rules) >= 10
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert findings(run_tool("promtool", "check", "rules", file)) == []


def test_every_panel_of_the_dashboard_has_its_place_and_the_chosen_prometheus() -> None:
    panels = dashboard()["panels"]
    places = set()
    for panel in panels:
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not places & cells, panel["title"]
        assert grid["x"] + grid["w"] <= 24
        places |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_ray_s_own_metrics_on_the_dashboard_are_those_that_ray_exports() -> None:
    from ray.dashboard.modules.reporter import reporter_agent

    named = set(re.findall(r"\bray_(\w+)", read("dashboard.json")))
    assert named <= set(reporter_agent.METRICS_GAUGES)
    assert len(named) >= 4

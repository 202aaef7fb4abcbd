"""Alerts and dashboard, by a real Prometheus that scrapes a real operator and a trainer's own server."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import threading
from decimal import Decimal

import httpx
import pytest
import yaml
from finetune_api.experiment.resource import EXPERIMENT_KIND
from finetune_api.messages import Outcome, Result, Stage
from finetune_api.values.money import Price
from finetune_operator.names import JOB_LABEL
from finetune_trainer.clock import SystemClock
from finetune_trainer.progress.server import Metrics, ProgressServer
from finetune_trainer.progress.state import RunState, StepReport

from charts.generate import CHART
from tests.api.experiments import experiment_document
from tests.chart.release import Release, only, render
from tests.cluster.binaries import Unavailable
from tests.cluster.control_plane import free_ports
from tests.cluster.fixtures import needing_this_machine
from tests.cluster.waiting import wait_for
from tests.operator.reasons import FAILURES
from tests.operator.work import DONE, Work

ALERTS = CHART / "files" / "alerts.yaml"
DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())
CASES = CHART.parents[1] / "tests" / "chart" / "alerts.test.yaml"
DOCS = CHART.parents[1] / "docs"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
QUERIES = [(f"{panel['title']} {target['refId']} {panel['id']}", target["expr"])
           for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def tool(name):
    with needing_this_machine():
        if (found := shutil.which(name)) is None:
            raise Unavailable(f"{name} is not installed: tests/cluster/packages.sh says how")
        return found


def test_promtool_finds_the_alerts_right_in_every_case():
    for command in ("check", "test"):
        done = subprocess.run([tool("promtool"), command, "rules", ALERTS if command == "check" else CASES],
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_cases_in_which_it_fires_and_in_which_it_does_not():
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]]
    for rule in RULES:
        fires = {bool(case["exp_alerts"]) for case in cases if case["alertname"] == rule["alert"]}
        assert True in fires, rule["alert"]
        assert False in fires, rule["alert"]


def test_every_alert_is_documented():
    text = (DOCS / "reference" / "alerts.md").read_text()
    assert {rule["alert"] for rule in RULES} == set(re.findall(r"^## (FineTune\w+)", text, re.MULTILINE))
    for section in text.split("\n## ")[1:]:
        assert "**Cause.**" in section and "**Cure.**" in section, section.splitlines()[0]


def test_every_reason_that_a_job_can_fail_with_is_in_one_class():
    classes = [set(re.search(r'reason=~"([^"]+)"', rule["expr"])[1].split("|"))
               for rule in RULES if rule["alert"].startswith("FineTuneJobFailed")]
    assert len(set.union(*classes)) == sum(map(len, classes)), "no reason in two of them"
    assert set.union(*classes) == FAILURES


# With a real Prometheus

@pytest.fixture(scope="module")
def fleet(control_plane, api):
    """A job that succeeded, one that failed, one that is refused, and that of an experiment; the ports to scrape.

    The trainer's own server and registry run in this process: kwok's pods run nothing.
    """
    namespace = control_plane.namespace("team")
    metrics = Metrics(namespace, "good")
    state = RunState(SystemClock(), Price(Decimal("1.00"), "USD"), observers=[metrics])
    release = Release(control_plane, control_plane.namespace("finetune"))
    with ProgressServer(state, metrics, "127.0.0.1", 0) as trainer:
        release.install({"settings": {"progressInterval": "1s", "trainerPort": trainer.port}})
        operator = release.operator()
        try:
            state.enter(Stage.TRAINING)
            state.step_done(StepReport(step=3, total_steps=4, epoch=0.5, loss=0.25, learning_rate=1e-4, grad_norm=None,
                                       tokens=100, seconds=0.5, peak_memory_bytes=2**30))
            good, bad, odd = (Work(api, namespace, name) for name in ("good", "bad", "odd"))
            good.apply(budget={"maxCost": "5"})
            bad.apply()
            odd.apply(compute={"accelerator": "tpu"})
            odd.until("Pending", "InvalidSpec")
            api.create(EXPERIMENT_KIND, namespace, experiment_document(
                "sweep", budget={"maxCost": "5"},
                template={"spec": {"runPolicy": {"preflight": "Skip", "suspend": True}}}))
            wait_for(lambda: len(api.list("FineTuneJob", namespace)) == 4, "the experiment's job")
            api.patch("Pod", namespace, good.running_pod()["metadata"]["name"], {"status": {
                "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}}, "status")
            wait_for(lambda: good.status().get("progress"), "the progress")
            bad.end(65, Result(outcome=Outcome.BAD_DATA, message="row 7 has no answer"))
            good.end(0, DONE)
            bad.until("Failed")
            good.until("Succeeded")
            yield namespace, operator.port(), trainer.port
        finally:
            operator.stop()
            release.remove()


FORGED = """\
finetune_operator_leader 0
finetune_job_info{{namespace="{namespace}",job="good",uid="x",phase="Failed",reason="PodLost"}} 1
finetune_trainer_loss_nats{{namespace="elsewhere",job="good"}} 99
"""


class _Forger(http.server.BaseHTTPRequestHandler):
    """A tenant's pod that looks like a trainer, and tells what is not its own to tell."""

    content = b""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def forger(fleet):
    _Forger.content = FORGED.format(namespace=fleet[0]).encode()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Forger)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def scrapes(monitor, ports, labels):
    """What the Prometheus operator makes of a PodMonitor, for the fields that the chart writes."""
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    rules = [{{"sourceLabels": "source_labels"}.get(key, key): value for key, value in rule.items()}
             for rule in endpoint.get("metricRelabelings", ())]
    return {"job_name": monitor["metadata"]["name"], "honor_labels": endpoint.get("honorLabels", False),
            "metric_relabel_configs": rules, "sample_limit": monitor["spec"].get("sampleLimit", 0),
            "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": {**labels, "pod": str(port)}}
                               for port in ports]}


@pytest.fixture(scope="module")
def prometheus(control_plane, fleet, forger):
    """A Prometheus that scrapes operator and trainers as the chart's monitors say, with the chart's rules."""
    namespace, operator, trainer = fleet
    monitors = render({"monitoring": {name: {"enabled": True} for name in ("podMonitor", "trainerMonitor")}})
    trainers = only(monitors, "PodMonitor", "-trainers")
    assert trainers["spec"]["jobLabel"] == JOB_LABEL
    (own,) = [one for one in monitors if one["kind"] == "PodMonitor" and one is not trainers]
    (port,) = free_ports(1)
    config = control_plane.folder / "prometheus.yaml"
    config.write_text(yaml.safe_dump({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [str(ALERTS)],
        "scrape_configs": [scrapes(own, [operator], {"namespace": "finetune-system"}),
                           scrapes(trainers, [trainer, forger], {"namespace": namespace, "job": "good"})]}))
    process = control_plane.run.start("prometheus", [
        tool("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={control_plane.folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"])
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False, timeout=10) as http:
        def ready():
            process.running()
            try:
                if http.get(f"http://127.0.0.1:{port}/-/ready").status_code != httpx.codes.OK:
                    return None
                return query(http, "count(finetune_operator_leader) > 0")
            except httpx.TransportError:
                return None

        wait_for(ready, "Prometheus to have scraped", 60)
        yield http
    process.stop()


def query(http, expression):
    answer = http.get("/query", params={"query": expression}).json()
    assert answer["status"] == "success", f"{expression}: {answer}"
    return answer["data"]["result"]


@pytest.mark.parametrize("expression", dict(QUERIES).values(), ids=dict(QUERIES))
def test_the_dashboards_query_is_answered_with_data(prometheus, fleet, expression):
    for variable, value in (("$__rate_interval", "1m"), ("$namespace", fleet[0]), ("$job", ".*")):
        expression = expression.replace(variable, value)
    assert "$" not in expression
    result = wait_for(lambda: query(prometheus, expression), f"data for {expression}", 20)
    assert all(one["value"][1] != "NaN" or "histogram_quantile" in expression for one in result)


def test_the_dashboards_variables_find_the_jobs(prometheus, fleet):
    namespace = fleet[0]
    for variable in DASHBOARD["templating"]["list"][1:]:
        series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]).groups()
        found = {one["metric"][label] for one in query(prometheus, series.replace("$namespace", namespace))}
        names = {re.sub(r"^sweep-only-.+", "sweep", name) for name in found}
        assert names == ({namespace} if label == "namespace" else {"good", "bad", "odd", "sweep"})


def test_every_metric_of_a_rule_or_panel_is_exported(prometheus, fleet):
    known = set(prometheus.get("/label/__name__/values").json()["data"])
    used = {name for expression in (*(rule["expr"] for rule in RULES), *dict(QUERIES).values())
            for name in re.findall(r"finetune_[a-z_]+", expression)}
    assert used - known == set()


def test_a_failed_job_raises_the_alert_of_its_class_and_the_operators_alerts_stay_silent(prometheus, fleet):
    def firing():
        alerts = prometheus.get("/alerts").json()["data"]["alerts"]
        return {(one["labels"]["alertname"], one["labels"].get("job")) for one in alerts if one["state"] == "firing"}

    assert wait_for(firing, "an alert") == {("FineTuneJobFailedByItsSpec", "bad")}


def test_a_pod_that_looks_like_a_trainer_can_tell_of_nothing_but_its_own_training(prometheus, fleet, forger):
    told = wait_for(lambda: query(prometheus, f'{{__name__=~"finetune_.+", pod="{forger}"}}'), "the forger's samples")
    assert {one["metric"]["__name__"] for one in told} == {"finetune_trainer_loss_nats"}
    assert {one["metric"]["namespace"] for one in told} == {fleet[0]}, "its own namespace, whatever it says"
    assert query(prometheus, 'finetune_trainer_loss_nats{namespace="elsewhere"}') == []


def test_the_dashboard_is_in_the_chart_where_it_is_wanted():
    objects = render({"monitoring": {"dashboard": {"enabled": True}}})
    (held,) = [one for one in objects if one["metadata"]["name"].endswith("-dashboard")]
    assert json.loads(held["data"]["finetune.json"]) == DASHBOARD

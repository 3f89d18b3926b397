"""Metrics of a controller, none with a label per object: a thousand jobs must not become a thousand series."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from thinwire.controller.job_record import JobRecord
from thinwire.controller.plan import State

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PREFIX = "thinwire_controller"
_HEARD_SECONDS = 30.0


class Metrics:
    """What one controller counts. Figures of jobs are taken from their snapshots when they are asked for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.queue_depth = Gauge(f"{_PREFIX}_queue_depth", "Jobs that wait for a pass.", registry=registry)
        self.waited = Histogram(
            f"{_PREFIX}_queue_seconds", "Time a job waited in line.", buckets=_SECONDS, registry=registry
        )
        self.reconciled = Histogram(
            f"{_PREFIX}_reconcile_seconds", "Duration of a pass over one job.", buckets=_SECONDS, registry=registry
        )
        self.failures = Counter(f"{_PREFIX}_reconcile_failures", "Passes that ended in an error.", registry=registry)
        self.status_writes = Counter(f"{_PREFIX}_status_writes", "Writes of a job's status.", registry=registry)
        self.attempts = Counter(f"{_PREFIX}_attempts_started", "Gangs started.", registry=registry)
        self.restarts = Counter(f"{_PREFIX}_restarts", "Gangs started again after a failure.", registry=registry)
        self.reports = Counter(f"{_PREFIX}_reports", "Reports of ranks taken in.", registry=registry)
        self.reports_refused = Counter(
            f"{_PREFIX}_reports_refused", "Reports of ranks that were not believed.", ["reason"], registry=registry
        )
        self.retunes = Counter(f"{_PREFIX}_retunes", "Changes of a rate in force.", registry=registry)
        self.leader = Gauge(f"{_PREFIX}_leader", "1 while this replica holds the Lease.", registry=registry)

    def heard(self, before: JobRecord, after: JobRecord) -> None:
        """Count what a report brought."""
        if after.heard.sequence > before.heard.sequence:
            self.reports.inc()
        if after.refused is not before.refused:
            for reason, count in after.refused.items():
                self.reports_refused.labels(reason).inc(max(count - before.refused.get(reason, 0), 0))
        if after.retunes is not before.retunes:
            self.retunes.inc(max(len(after.retunes) - len(before.retunes), 0))


class JobFigures(Collector):
    """Jobs by state and jobs that report, counted anew for every scrape."""

    def __init__(self, jobs: Callable[[], Iterable[JobRecord]], clock: Callable[[], float]) -> None:
        self._jobs = jobs
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        """The families, as prometheus_client asks for them."""
        records = list(self._jobs())
        states = Tally(record.state for record in records)
        by_state = GaugeMetricFamily(f"{_PREFIX}_jobs", "Jobs by state.", labels=["state"])
        for state in State:
            by_state.add_metric([str(state)], states[state])
        yield by_state
        since = self._clock() - _HEARD_SECONDS
        reporting = sum((record.heard.at_seconds or 0.0) > since for record in records)
        about = f"Jobs whose ranks reported within {_HEARD_SECONDS:.0f} seconds."
        yield GaugeMetricFamily(f"{_PREFIX}_streams", about, value=reporting)


class Counts(Collector):
    """Counters that another part keeps, by a fixed word each."""

    def __init__(self, name: str, about: str, label: str, counts: Callable[[], Mapping[str, int]]) -> None:
        self._name, self._about, self._label, self._counts = f"{_PREFIX}_{name}", about, label, counts

    def collect(self) -> Iterable[Metric]:
        """The family, as prometheus_client asks for it."""
        family = CounterMetricFamily(self._name, self._about, labels=[self._label])
        for word, count in self._counts().items():
            family.add_metric([word], count)
        yield family

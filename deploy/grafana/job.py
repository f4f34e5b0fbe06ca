"""The Job dashboard: how far, how fast, how long, how much. For the wall."""

from __future__ import annotations

from typing import Any

from deploy.grafana.panels import Panel, Query, Row, dashboard, variable

__all__ = ["job"]

OF_JOB = '{job=~"$job", group=~"$group", topic=~"$topic"}'
BY = "by (job, group, topic)"


def _stat(title: str, description: str, unit: str, expr: str, **more: Any) -> Panel:
    return Panel(title, description, unit, (Query(expr, "{{group}}"),), "stat", width=4, height=4, **more)


def _left(bound: str) -> str:
    return f'embedstream:time_left_seconds:told{OF_JOB[:-1]}, bound="{bound}"}}'


def _now() -> tuple[Panel, ...]:
    """How far, how long."""
    return (
        Panel(
            "Percent done",
            "Share of the bytes of all documents that were there when the job began and are committed.",
            "percentunit",
            (Query(f"embedstream:progress:ratio{OF_JOB}", "{{group}}"),),
            "gauge",
            width=4,
            height=8,
            most=1,
            decimals=1,
            steps=((None, "blue"), (1, "green")),
            outlasts=True,
        ),
        _stat(
            "Time left",
            "Until all that was there when the job began is committed, at the recent rate, weighed by"
            " bytes and by daemon.",
            "s",
            _left("likely"),
        ),
        Panel(
            "Time left, range",
            "The truth lies between these two in 9 of 10 looks.",
            "s",
            (Query(_left("low"), "at best"), Query(_left("high"), "at worst")),
            "stat",
            width=8,
            height=4,
        ),
    )


def _rates() -> tuple[Panel, ...]:
    """How many of what."""
    return (
        _stat(
            "Documents an hour",
            "Records that were committed: documents, or segments of large ones; embedded, dead letters or"
            " deletions; over 5 minutes.",
            "short",
            f"3600 * embedstream:records:rate5m{OF_JOB}",
            decimals=0,
        ),
        _stat(
            "Live consumers",
            "Daemons of the group that answer Prometheus.",
            "none",
            f"embedstream:consumers:count{OF_JOB}",
            steps=((None, "red"), (1, "green")),
            unknown="none",
        ),
        _stat(
            "Passages a second",
            "Embeddings committed, over 5 minutes.",
            "short",
            f"embedstream:passages:rate5m{OF_JOB}",
            decimals=1,
        ),
        _stat(
            "Tokens a second",
            "Tokens encoded, padding not counted, over 5 minutes.",
            "short",
            f"embedstream:tokens:rate5m{OF_JOB}",
            decimals=0,
        ),
        _stat(
            "Lag",
            "Records between what the group has committed and the end of the topic today.",
            "short",
            f"embedstream:lag_records:sum{OF_JOB}",
            decimals=0,
        ),
        _stat(
            "Dead letters",
            "Records that the live daemons could not embed, since each was started.",
            "short",
            f"""sum {BY} (
  sum by (job, instance) (embedstream_dead_letters_total{{job=~"$job"}})
  * on (job, instance) group_left (group, topic) embedstream_consumer_info{OF_JOB}
)""",
            decimals=0,
            steps=((None, "green"), (1, "orange")),
            outlasts=True,
        ),
        _stat(
            "Bytes left",
            "Bytes before the job's ends that are not committed yet, from a sample of the topic.",
            "decbytes",
            f"""embedstream:job_bytes:told{OF_JOB[:-1]}, state="total"}}
- ignoring (state) embedstream:job_bytes:told{OF_JOB[:-1]}, state="done"}}""",
        ),
    )


def _money() -> tuple[Panel, ...]:
    """What it costs."""
    return (
        _stat(
            "Dollars so far",
            "What all daemons of the group have cost, those that are gone included.",
            "currencyUSD",
            f"max {BY} (embedstream_group_cost_dollars{OF_JOB})",
            decimals=2,
            outlasts=True,
        ),
        _stat(
            "Dollars at the end",
            "What it will have cost when the job's ends are committed, at today's price and rate.",
            "currencyUSD",
            f"max {BY} (embedstream_group_cost_projected_dollars{OF_JOB})",
            decimals=2,
            outlasts=True,
        ),
        _stat(
            "Dollars an hour",
            "Prices of the live daemons' machines together.",
            "currencyUSD",
            f"embedstream:price_dollars_per_hour:sum{OF_JOB}",
            decimals=2,
        ),
        _stat(
            "Dollars per million tokens",
            "What the group has cost so far over what it has encoded so far.",
            "currencyUSD",
            f"max {BY} (embedstream_group_cost_dollars_per_million_tokens{OF_JOB})",
            decimals=4,
            outlasts=True,
        ),
        Panel(
            "Dollars over time",
            "So far, and as they were expected to be at the end.",
            "currencyUSD",
            (
                Query(f"max {BY} (embedstream_group_cost_dollars{OF_JOB})", "so far"),
                Query(f"max {BY} (embedstream_group_cost_projected_dollars{OF_JOB})", "at the end"),
            ),
            height=4,
        ),
    )


def _charts() -> tuple[Panel, ...]:
    """The same over time."""
    left = f"embedstream:time_left_seconds:told{OF_JOB}"
    return (
        Panel(
            "Progress",
            "Percent done over time; a straight line is a steady job.",
            "percentunit",
            (Query(f"embedstream:progress:ratio{OF_JOB}", "{{group}}"),),
            width=12,
            most=1,
        ),
        Panel(
            "Time left over time",
            "As it was told: a line that falls by an hour an hour was true.",
            "s",
            (Query(left, "{{group}} {{bound}}"),),
            width=12,
        ),
        Panel(
            "Passages over time",
            "A second, of the group, over 5 minutes.",
            "short",
            (Query(f"embedstream:passages:rate5m{OF_JOB}", "{{group}}"),),
        ),
        Panel(
            "Tokens over time",
            "A second, of the group, over 5 minutes.",
            "short",
            (Query(f"embedstream:tokens:rate5m{OF_JOB}", "{{group}}"),),
        ),
        Panel(
            "Lag over time",
            "Records of the whole topic that are not committed.",
            "short",
            (Query(f"embedstream:lag_records:sum{OF_JOB}", "{{group}}"),),
        ),
        Panel(
            "Dead letters by reason",
            "Records that could not be embedded, of the live daemons, since each was started.",
            "short",
            (
                Query(
                    f"""sum by (group, topic, reason) (
  embedstream_dead_letters_total{{job=~"$job"}}
  * on (job, instance) group_left (group, topic) embedstream_consumer_info{OF_JOB}
)""",
                    "{{reason}}",
                ),
            ),
            width=12,
        ),
        Panel(
            "Share of dead letters",
            "Of the records of the last 15 minutes.",
            "percentunit",
            (Query(f"embedstream:dead_letters:ratio15m{OF_JOB}", "{{group}}"),),
            width=12,
        ),
    )


def _producer() -> tuple[Panel, ...]:
    """What became of the corpus."""
    return (
        Panel(
            "Documents of the corpus",
            "What became of them, as the producer told last within the hour.",
            "short",
            (
                Query(
                    'sum by (job, result) (last_over_time(embedstream_documents_total{job=~"$job"}[1h]))',
                    "{{result}}",
                ),
            ),
        ),
        Panel(
            "Corpus read",
            "Bytes of files that were read, or need not be, as the producer told last within the hour.",
            "decbytes",
            (
                Query(
                    'sum by (job, result) (last_over_time(embedstream_corpus_bytes_total{job=~"$job"}[1h]))',
                    "{{result}}",
                ),
            ),
        ),
        Panel(
            "Documents refused by reason",
            "As the producer told last within the hour.",
            "short",
            (
                Query(
                    "sum by (job, reason) (last_over_time("
                    'embedstream_refused_documents_total{job=~"$job"}[1h]))',
                    "{{reason}}",
                ),
            ),
        ),
    )


def job() -> dict[str, Any]:
    """The dashboard's JSON."""
    return dashboard(
        "embedstream-job",
        "embedstream: job",
        "How far a corpus is, how fast, how long it will take and what it costs.",
        (
            Row("Now", (*_now(), *_rates())),
            Row("Money", _money()),
            Row("Over time", _charts()),
            Row("The corpus", _producer()),
        ),
        (
            variable("job", "Job", "label_values(embedstream_build_info, job)"),
            variable("group", "Group", 'label_values(embedstream_consumer_info{job=~"$job"}, group)'),
            variable(
                "topic",
                "Topic",
                'label_values(embedstream_consumer_info{job=~"$job", group=~"$group"}, topic)',
            ),
        ),
        (
            (
                "rebalance",
                'sum by (instance) (changes(embedstream_rebalances_total{job=~"$job"}[1m])) > 0',
                "blue",
            ),
            ("daemon gone", 'up{job=~"$job"} == 0', "red"),
        ),
    )

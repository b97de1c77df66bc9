//! Series in parts: each worker counts separately, and a scrape gets the sums.
//!
//! Counters of every call would otherwise be memory that all processors write in turn.

use std::collections::HashMap;
use std::sync::Arc;

use portcullis_runtime::workers::Parts;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Histogram, Metric, MetricFamily};

/// A set of series for each worker; cloning shares them. Only counters and histograms: gauges have no sums.
pub(crate) struct Parted<C>(Arc<Parts<C>>);

// === impl Parted ===

impl<C> Parted<C> {
    /// Creates equal parts.
    pub(crate) fn new(part: impl FnMut() -> C) -> Self {
        Self(Arc::new(Parts::new(part)))
    }

    /// The part of this worker.
    pub(crate) fn own(&self) -> &C {
        self.0.own()
    }

    /// All parts, for removing series.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &C> {
        self.0.iter()
    }
}

impl<C> Clone for Parted<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C: Collector> Collector for Parted<C> {
    fn desc(&self) -> Vec<&Desc> {
        self.own().desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut parts = self.iter().map(Collector::collect);
        let mut all = parts.next().unwrap_or_default();
        for part in parts {
            for (family, more) in all.iter_mut().zip(part) {
                add(family, more);
            }
        }
        all
    }
}

/// Adds the series of one part to those of the others.
fn add(family: &mut MetricFamily, mut more: MetricFamily) {
    let mut series = family.take_metric();
    let places: HashMap<Vec<String>, usize> = series.iter().map(values).zip(0..).collect();
    for metric in more.take_metric() {
        match places.get(&values(&metric)) {
            Some(place) => add_to(&mut series[*place], &metric),
            None => series.push(metric),
        }
    }
    family.set_metric(series);
}

/// The values of the labels, whose names are the same throughout a family.
fn values(metric: &Metric) -> Vec<String> {
    metric.get_label().iter().map(|label| label.value().to_owned()).collect()
}

fn add_to(metric: &mut Metric, more: &Metric) {
    if !more.get_histogram().get_bucket().is_empty() {
        metric.set_histogram(sum(metric.get_histogram(), more.get_histogram()));
        return;
    }
    let mut counter = Counter::default();
    counter.set_value(metric.get_counter().get_value() + more.get_counter().get_value());
    metric.set_counter(counter);
}

/// The sum of two histograms with the same bounds.
fn sum(one: &Histogram, other: &Histogram) -> Histogram {
    let both = |(one, other): (&Bucket, &Bucket)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(one.upper_bound());
        bucket.set_cumulative_count(one.cumulative_count() + other.cumulative_count());
        bucket
    };
    let mut all = Histogram::default();
    all.set_sample_count(one.get_sample_count() + other.get_sample_count());
    all.set_sample_sum(one.get_sample_sum() + other.get_sample_sum());
    all.set_bucket(one.get_bucket().iter().zip(other.get_bucket()).map(both).collect());
    all
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portcullis_runtime::{WorkerThreads, workers};
    use prometheus::TextEncoder;
    use tokio::task::JoinSet;

    use crate::telemetry::metrics::Metrics;

    /// Lets each worker do this once.
    async fn in_each(metrics: &Metrics, work: impl Fn(&Metrics) + Send + Sync + 'static) {
        let threads = WorkerThreads::start(workers::count()).unwrap();
        let (workers, work, mut tasks) = (threads.workers(), Arc::new(work), JoinSet::new());
        let seats: Vec<_> = (0..workers::count()).map(|_| workers.seat().unwrap()).collect();
        for seat in seats {
            let (metrics, work) = (metrics.clone(), work.clone());
            seat.spawn(&mut tasks, async move { work(&metrics) });
        }
        tasks.join_all().await;
    }

    fn lines(metrics: &Metrics, name: &str) -> Vec<String> {
        let text = TextEncoder::new().encode_to_string(&metrics.registry.gather()).unwrap();
        text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn what_all_workers_have_counted_is_one_sum() {
        let (metrics, count) = (Metrics::new(), workers::count());
        in_each(&metrics, |metrics| {
            let http = metrics.http_duration.own().with_label_values(&["/tools", "POST", "200"]);
            http.observe(0.002);
            http.observe(70.0);
        })
        .await;

        let http = lines(&metrics, "portcullis_http_request_duration_seconds");

        let labels = r#"method="POST",route="/tools",status="200""#;
        let name = "portcullis_http_request_duration_seconds";
        let bucket = |bound, count| format!(r#"{name}_bucket{{{labels},le="{bound}"}} {count}"#);
        assert_eq!((&http[1], &http[2]), (&bucket("0.001", 0), &bucket("0.0025", count)));
        assert_eq!(http[13..15], [bucket("60", count), bucket("+Inf", 2 * count)]);
        assert_eq!(http.last(), Some(&format!("{name}_count{{{labels}}} {}", 2 * count)));
    }

    #[tokio::test]
    async fn series_of_one_worker_alone_are_told_too() {
        let metrics = Metrics::new();
        in_each(&metrics, |metrics| {
            let thread = std::thread::current().name().unwrap_or_default().to_owned();
            metrics.call_duration.own().with_label_values(&[thread.as_str(), "ok"]).observe(1.0);
        })
        .await;

        let line = |number| {
            format!(r#"portcullis_tool_call_duration_seconds_count{{outcome="ok",server="worker-{number}"}} 1"#)
        };
        let mut wanted: Vec<String> = (0..workers::count()).map(line).collect();
        wanted.sort();
        assert_eq!(lines(&metrics, "portcullis_tool_call_duration_seconds_count"), wanted);
    }

    #[tokio::test]
    async fn a_server_is_forgotten_in_all_parts() {
        let metrics = Metrics::new();
        in_each(&metrics, |metrics| {
            metrics.call_duration.own().with_label_values(&["a", "ok"]).observe(1.0);
            metrics.request_duration.own().with_label_values(&["a", "prompts/get", "ok"]).observe(1.0);
        })
        .await;

        metrics.forget(&["a"].into());

        assert_eq!(lines(&metrics, "portcullis_"), lines(&Metrics::new(), "portcullis_"));
    }
}

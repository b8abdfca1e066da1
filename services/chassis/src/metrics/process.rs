//! Resource usage of the process, its runtime and its database pools, read at each scrape.
//!
//! Names: process metrics as Prometheus's own client libraries have them, pools by OpenTelemetry's conventions
//! (<https://opentelemetry.io/docs/specs/semconv/database/database-metrics/>). The process's metrics come from
//! `/proc`; without it they are left out.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::pool::Pool;

/// The process and the runtime that the scrape is answered in.
#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        if let Some(seconds) = cpu_seconds() {
            let counter = ConstCounter::new(seconds);
            let help = "CPU time used, of user and system";
            let metric = encoder.encode_descriptor(
                "process_cpu",
                help,
                Some(&Unit::Seconds),
                MetricType::Counter,
            )?;
            counter.encode(metric)?;
        }
        if let Some(bytes) = resident_bytes() {
            let help = "Memory that is resident";
            gauge(&mut encoder, "process_resident_memory_bytes", help, bytes)?;
        }
        if let Some(count) = open_fds() {
            let help = "Files and sockets that are open";
            gauge(&mut encoder, "process_open_fds", help, count)?;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let metrics = runtime.metrics();
            for (name, help, value) in [
                (
                    "tokio_workers",
                    "Threads that run tasks",
                    metrics.num_workers(),
                ),
                (
                    "tokio_alive_tasks",
                    "Tasks that were spawned and have not ended",
                    metrics.num_alive_tasks(),
                ),
                (
                    "tokio_global_queue_depth",
                    "Tasks that wait for any of the threads",
                    metrics.global_queue_depth(),
                ),
            ] {
                gauge(&mut encoder, name, help, value as i64)?;
            }
        }
        Ok(())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    value: i64,
) -> Result<(), fmt::Error> {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}

/// The pools that were added; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Pools(Arc<Mutex<Vec<(&'static str, Pool)>>>);

impl Pools {
    pub(super) fn enter(&self, name: &'static str, pool: &Pool) {
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pools.push((name, pool.clone()));
    }
}

impl Collector for Pools {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pools.is_empty() {
            return Ok(());
        }
        let help = "Connections of a pool to the database, by state";
        let mut counts = encoder.encode_descriptor(
            "db_client_connection_count",
            help,
            None,
            MetricType::Gauge,
        )?;
        for (name, pool) in pools.iter() {
            let idle = pool.idle() as i64;
            // The two are not read in one moment.
            let used = (pool.size() as i64 - idle).max(0);
            for (state, value) in [("idle", idle), ("used", used)] {
                let labels = [
                    ("db_client_connection_pool_name", *name),
                    ("db_client_connection_state", state),
                ];
                ConstGauge::new(value).encode(counts.encode_family(&labels)?)?;
            }
        }
        let help = "The most connections that a pool may have";
        let mut bounds =
            encoder.encode_descriptor("db_client_connection_max", help, None, MetricType::Gauge)?;
        for (name, pool) in pools.iter() {
            let labels = [("db_client_connection_pool_name", *name)];
            let bound = pool.max_connections() as i64;
            ConstGauge::new(bound).encode(bounds.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// The kernel's clock ticks a second, in what it tells to programs; a constant of Linux on all common machines.
const TICKS_A_SECOND: f64 = 100.0;

/// `utime` and `stime` of `/proc/self/stat`; fields are counted after the name, which may hold anything.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) as f64 / TICKS_A_SECOND)
}

/// `VmRSS` of `/proc/self/status`, which is in KiB whatever the size of a page.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn open_fds() -> Option<i64> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(open as i64)
}

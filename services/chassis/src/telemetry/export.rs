//! Exporting spans: a bounded queue, one export at a time, and exact counts of their outcomes.
//!
//! The SDK's own batch processor drops spans without a count; here every ended span is counted once, as `sent`, `failed` or
//! `dropped`; spans that the store rejects from a batch have failed (`otlp`). Ending a span never waits: an outage of the
//! store loses the spans of that time, and has no other effect. With the pattern `async_export` off the thread that ends a
//! span sends it and waits for the store's answer, as the SDK's simple processor does: an outage of the trace store delays
//! every request. Left out: retries.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::lifecycle::{Lifecycle, panic_message};
use crate::metrics::SpanMetrics;

/// The most spans in the queue; spans that end while it is full are dropped. A span has about 1 KiB: attributes that a client
/// could make large are cut off (`telemetry`, `http`).
const QUEUE_SPANS: usize = 2_048;
/// The most spans in one export.
const BATCH_SPANS: usize = 512;
/// How long spans gather before they are exported, unless a batch is full before: two round trips a second are little load
/// for a store, and a trace is complete within a second.
const GATHER: Duration = Duration::from_millis(500);
/// The wait for the store's answer; past it the batch counts as failed.
pub(super) const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// The wait, when the process ends, for the queued spans to be sent.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// The name of the exporting task, or thread, in logs.
const TASK: &str = "span export";

/// Sends batches to a store, one at a time, and makes no spans of its own meanwhile.
pub(super) trait Exporter: Send + Sync + 'static {
    /// The spans of the batch that the store rejected; an error when it took none of them, or may not have.
    fn export(&self, batch: Vec<SpanData>)
    -> impl Future<Output = Result<Rejected, String>> + Send;
}

/// The spans that a store rejected from a batch that it took.
#[derive(Debug, Clone, Default)]
pub(super) struct Rejected {
    pub(super) spans: u64,
    /// The store's error message.
    pub(super) reason: String,
}

/// Queues ended spans, and never waits.
#[derive(Debug)]
pub(super) struct QueueingProcessor {
    queue: mpsc::Sender<SpanData>,
    metrics: SpanMetrics,
}

/// Sends each span as it ends, and waits.
#[derive(Debug)]
pub(super) struct WaitingProcessor {
    exports: std::sync::mpsc::Sender<(SpanData, std::sync::mpsc::Sender<()>)>,
    metrics: SpanMetrics,
}

/// The task that exports.
pub(super) struct Export {
    task: JoinHandle<()>,
    flush: CancellationToken,
}

/// Starts exporting; inside a runtime. Stops the service when the task ends early: from then on all spans would be lost.
pub(super) fn start(exporter: impl Exporter, lifecycle: &Lifecycle) -> (QueueingProcessor, Export) {
    let metrics = lifecycle.metrics().spans();
    let (queue, waiting) = mpsc::channel(QUEUE_SPANS);
    let flush = CancellationToken::new();
    let work = run(exporter, waiting, metrics.clone(), flush.clone());
    // Neither worker nor watcher: it outlives both, to send their last spans.
    let task = lifecycle.spawn_until(TASK, flush.clone(), async move {
        work.await;
        Ok(())
    });
    (QueueingProcessor { queue, metrics }, Export { task, flush })
}

/// Starts a thread that exports one span at a time; `build` makes the exporter, within the thread's own runtime, as the
/// service's threads block while they wait. A panic of the thread stops the service.
pub(super) fn start_waiting<E: Exporter>(
    build: impl FnOnce() -> anyhow::Result<E>,
    lifecycle: &Lifecycle,
) -> anyhow::Result<WaitingProcessor> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start a runtime for spans")?;
    let exporter = {
        let _entered = runtime.enter();
        build()?
    };
    let (exports, asked) = std::sync::mpsc::channel::<(SpanData, std::sync::mpsc::Sender<()>)>();
    let metrics = lifecycle.metrics().spans();
    let (counted, lifecycle) = (metrics.clone(), lifecycle.clone());
    std::thread::Builder::new()
        .name("spans".to_owned())
        .spawn(move || {
            let worked = catch_unwind(AssertUnwindSafe(|| {
                for (span, done) in asked {
                    runtime.block_on(export(&exporter, vec![span], &counted));
                    // If the waiting thread is gone, there is nothing to do.
                    let _ = done.send(());
                }
            }));
            if let Err(panic) = worked {
                lifecycle.fail(TASK, &format!("panicked: {}", panic_message(&*panic)));
            }
        })
        .context("failed to start the thread for spans")?;
    Ok(WaitingProcessor { exports, metrics })
}

impl SpanProcessor for WaitingProcessor {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        let (done, exported) = std::sync::mpsc::channel();
        self.metrics.queued.inc();
        if self.exports.send((span, done)).is_err() {
            self.metrics.queued.dec();
            self.metrics.dropped.inc();
            return;
        }
        // Bounded by the export's own timeout, times the spans that wait before this one.
        let _ = exported.recv();
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Export {
    /// Sends the queued spans; returns whether that was done in time.
    pub(super) async fn flush(self) -> bool {
        self.flush.cancel();
        let ended = tokio::time::timeout(FLUSH_TIMEOUT, self.task).await;
        matches!(ended, Ok(Ok(())))
    }
}

impl SpanProcessor for QueueingProcessor {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        // Unsampled spans belong to no exported trace.
        if !span.span_context.is_sampled() {
            return;
        }
        // Before the span can be taken out again: the gauge must not fall below zero.
        self.metrics.queued.inc();
        match self.queue.try_send(span) {
            Ok(()) => {}
            // Closed: the process ends, and the last export is over.
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {
                self.metrics.queued.dec();
                self.metrics.dropped.inc();
            }
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Exports until `flush`, and then the spans that are queued.
async fn run(
    exporter: impl Exporter,
    mut waiting: mpsc::Receiver<SpanData>,
    metrics: SpanMetrics,
    flush: CancellationToken,
) {
    let mut batch = Vec::with_capacity(BATCH_SPANS);
    let mut takes_all = true;
    loop {
        let last = tokio::select! {
            taken = waiting.recv_many(&mut batch, BATCH_SPANS) => taken == 0,
            () = flush.cancelled() => {
                waiting.close();
                waiting.recv_many(&mut batch, BATCH_SPANS).await == 0
            }
        };
        if last {
            return;
        }
        let gather = async {
            while batch.len() < BATCH_SPANS {
                let room = BATCH_SPANS - batch.len();
                if waiting.recv_many(&mut batch, room).await == 0 {
                    break;
                }
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(GATHER, gather) => {}
            () = flush.cancelled() => {}
        }
        let failure = export(&exporter, std::mem::take(&mut batch), &metrics).await;
        // Once, not for each batch: the metrics have the number.
        match failure {
            Some(ref error) if takes_all => {
                warn!(
                    error,
                    "the trace store takes no spans, or not all: they are lost"
                )
            }
            None if !takes_all => info!("the trace store takes all spans again"),
            _ => {}
        }
        takes_all = failure.is_none();
    }
}

/// Exports and counts; returns why spans were lost, if any were.
async fn export(
    exporter: &impl Exporter,
    batch: Vec<SpanData>,
    metrics: &SpanMetrics,
) -> Option<String> {
    let spans = batch.len() as u64;
    let exported = tokio::time::timeout(EXPORT_TIMEOUT, exporter.export(batch)).await;
    let (failed, failure) = match exported {
        Ok(Ok(Rejected { spans: 0, .. })) => (0, None),
        Ok(Ok(rejected)) => {
            let reason = format!(
                "{} of {spans} rejected: {}",
                rejected.spans, rejected.reason
            );
            // Whatever number a store returns: no span is counted twice.
            (rejected.spans.min(spans), Some(reason))
        }
        // The store may have them all the same: only its answer counts.
        Ok(Err(error)) => (spans, Some(error)),
        Err(_) => {
            let reason = format!("no answer within {} s", EXPORT_TIMEOUT.as_secs());
            (spans, Some(reason))
        }
    };
    metrics.sent.inc_by(spans - failed);
    metrics.failed.inc_by(failed);
    metrics.queued.dec_by(spans as i64);
    failure
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry::trace::{Tracer, TracerProvider};
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use prometheus_client::metrics::counter::Counter;
    use tokio::sync::Semaphore;

    use super::*;

    /// A store that answers when a permit is added, as configured.
    #[derive(Debug, Clone)]
    struct Store {
        answers: Arc<Semaphore>,
        does: Does,
    }

    #[derive(Debug, Clone, Copy)]
    enum Does {
        Take,
        Fail,
        /// This many of each batch.
        Reject(u64),
        Panic,
    }

    impl Exporter for Store {
        async fn export(&self, _: Vec<SpanData>) -> Result<Rejected, String> {
            let permit = self.answers.acquire().await;
            permit.expect("the semaphore is never closed").forget();
            match self.does {
                Does::Take => Ok(Rejected::default()),
                Does::Fail => Err("no".to_owned()),
                Does::Reject(spans) => Ok(Rejected {
                    spans,
                    reason: "too many".to_owned(),
                }),
                Does::Panic => panic!("on purpose"),
            }
        }
    }

    struct Traced {
        lifecycle: Lifecycle,
        provider: SdkTracerProvider,
        export: Export,
        metrics: SpanMetrics,
        store: Store,
    }

    fn traced(does: Does) -> Traced {
        let store = Store {
            answers: Arc::new(Semaphore::new(0)),
            does,
        };
        let lifecycle = Lifecycle::new("test");
        let metrics = lifecycle.metrics().spans();
        let (processor, export) = start(store.clone(), &lifecycle);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .build();
        Traced {
            lifecycle,
            provider,
            export,
            metrics,
            store,
        }
    }

    impl Traced {
        fn end_spans(&self, count: usize) {
            let tracer = self.provider.tracer("test");
            for _ in 0..count {
                drop(tracer.start("span"));
            }
        }

        fn counts(&self) -> [u64; 3] {
            let metrics = &self.metrics;
            [&metrics.sent, &metrics.failed, &metrics.dropped].map(Counter::get)
        }
    }

    #[tokio::test]
    async fn when_the_store_hangs_spans_beyond_the_queue_are_dropped_and_each_is_counted_once() {
        let traced = traced(Does::Take);
        let ended = QUEUE_SPANS + 3 * BATCH_SPANS;
        traced.end_spans(ended);
        let [sent, failed, dropped] = traced.counts();
        assert_eq!((sent, failed), (0, 0));
        assert!(
            dropped as usize >= ended - QUEUE_SPANS - BATCH_SPANS,
            "{dropped}"
        );
        assert_eq!(traced.metrics.queued.get() as u64 + dropped, ended as u64);

        traced.store.answers.add_permits(ended);
        let (metrics, provider) = (traced.metrics.clone(), traced.provider.clone());
        assert!(traced.export.flush().await);
        assert_eq!(metrics.sent.get() + metrics.dropped.get(), ended as u64);
        assert_eq!(metrics.queued.get(), 0);

        // After the flush nothing is sent any more; that is counted as well.
        drop(provider.tracer("test").start("late"));
        assert_eq!(metrics.dropped.get(), dropped + 1);
    }

    #[tokio::test]
    async fn without_the_pattern_the_thread_that_ends_a_span_waits_for_the_store() {
        let store = Store {
            answers: Arc::new(Semaphore::new(0)),
            does: Does::Take,
        };
        let lifecycle = Lifecycle::new("test");
        let metrics = lifecycle.metrics().spans();
        let built = store.clone();
        let processor = start_waiting(|| Ok(built), &lifecycle).unwrap();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .build();
        let ended = tokio::task::spawn_blocking(move || {
            drop(provider.tracer("test").start("span"));
        });
        while metrics.queued.get() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!ended.is_finished());
        store.answers.add_permits(1);
        ended.await.unwrap();
        assert_eq!((metrics.sent.get(), metrics.queued.get()), (1, 0));
    }

    #[tokio::test]
    async fn spans_that_the_store_refuses_are_counted_as_failed() {
        let traced = traced(Does::Fail);
        traced.store.answers.add_permits(10);
        traced.end_spans(7);
        let metrics = traced.metrics.clone();
        assert!(traced.export.flush().await);
        assert_eq!((metrics.sent.get(), metrics.failed.get()), (0, 7));
    }

    #[tokio::test]
    async fn rejected_spans_of_a_batch_are_counted_as_failed_and_the_rest_as_sent() {
        for (rejects, expected) in [(3, [4, 3, 0]), (0, [7, 0, 0]), (1_000, [0, 7, 0])] {
            let traced = traced(Does::Reject(rejects));
            traced.store.answers.add_permits(1);
            traced.end_spans(7);
            let metrics = traced.metrics.clone();
            assert!(traced.export.flush().await);
            let counts = [&metrics.sent, &metrics.failed, &metrics.dropped].map(Counter::get);
            assert_eq!(counts, expected, "{rejects} rejected");
            assert_eq!(metrics.queued.get(), 0);
        }
    }

    #[tokio::test]
    async fn an_export_task_that_ends_early_stops_the_service() {
        let traced = traced(Does::Panic);
        traced.store.answers.add_permits(1);
        traced.end_spans(1);
        let ended = traced.lifecycle.draining();
        let ended = tokio::time::timeout(EXPORT_TIMEOUT, ended.cancelled()).await;
        assert!(ended.is_ok(), "the service goes on without its spans");
    }

    #[tokio::test]
    async fn without_the_pattern_a_thread_that_panics_stops_the_service_too() {
        let store = Store {
            answers: Arc::new(Semaphore::new(1)),
            does: Does::Panic,
        };
        let lifecycle = Lifecycle::new("test");
        let processor = start_waiting(|| Ok(store), &lifecycle).unwrap();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .build();
        let ending = tokio::task::spawn_blocking(move || {
            drop(provider.tracer("test").start("span"));
        });
        // No thread is left waiting either.
        let both = async {
            ending.await.unwrap();
            lifecycle.draining().cancelled().await;
        };
        assert!(tokio::time::timeout(EXPORT_TIMEOUT, both).await.is_ok());
    }

    #[tokio::test]
    async fn unsampled_spans_are_neither_queued_nor_counted() {
        let traced = traced(Does::Take);
        let unsampled = SdkTracerProvider::builder()
            .with_sampler(opentelemetry_sdk::trace::Sampler::AlwaysOff)
            .build();
        drop(unsampled.tracer("test").start("span"));
        assert_eq!(traced.counts(), [0, 0, 0]);
        assert_eq!(traced.metrics.queued.get(), 0);
    }
}

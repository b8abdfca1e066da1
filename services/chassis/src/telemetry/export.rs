//! The way of spans out of the process: a bounded queue, one export at a time, and exact counts of what became
//! of them.
//!
//! The SDK's own batch processor drops as quietly, but tells nobody how many; here every ended span is in the end
//! counted once, as `sent`, `failed` or `dropped`; what the store rejects of a batch that it takes has failed (`otlp`).
//! Nobody who ends a span ever waits: a store that is away costs the spans of that time, and nothing else. With the pattern `async_export` off whoever ends a span sends it and waits for
//! the store's answer, as the SDK's simple processor does, and the store's weather is everybody's. Left out: trying again
//! what failed.

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

/// Spans that wait; what ends while so many wait is dropped. A span weighs about 1 KiB: what a client could make it grow
/// with is cut off (`telemetry`, `http`).
const QUEUE_SPANS: usize = 2_048;
/// The most spans in one export.
const BATCH_SPANS: usize = 512;
/// How long spans gather before they are exported, unless a batch is full before: two round trips a second are
/// little for a store, and a second is short for whoever waits for a trace.
const GATHER: Duration = Duration::from_millis(500);
/// The wait for the store's answer; past it the batch counts as failed.
pub(super) const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// The wait, when the process ends, for what is queued to be sent.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// What the exporting task, or thread, is called where its end is told of.
const TASK: &str = "span export";

/// Takes a batch to a store, one at a time, and makes no spans of its own while it does.
pub(super) trait Exporter: Send + Sync + 'static {
    /// What the store rejected of the batch; an error when it took none of it, or may not have.
    fn export(&self, batch: Vec<SpanData>)
    -> impl Future<Output = Result<Rejected, String>> + Send;
}

/// What a store that took a batch left out of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Rejected {
    pub(super) spans: u64,
    /// In the store's own words.
    pub(super) reason: String,
}

/// Takes ended spans, and never waits.
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

/// Starts exporting; inside a runtime. Ends the service when it ends before its time: from then on all spans would be lost.
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

/// Starts a thread that exports span after span; `build` makes the exporter, within the thread's own runtime: the
/// service's threads will be the ones that wait. A thread that panics ends the service.
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
                    // Whoever asked waits for this alone.
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
        // Bounded by the export's own timeout, for each of those that wait before.
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
    /// Sends what is queued; whether all of that was done in time.
    pub(super) async fn flush(self) -> bool {
        self.flush.cancel();
        let ended = tokio::time::timeout(FLUSH_TIMEOUT, self.task).await;
        matches!(ended, Ok(Ok(())))
    }
}

impl SpanProcessor for QueueingProcessor {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        // Unsampled spans are in the traces of nobody.
        if !span.span_context.is_sampled() {
            return;
        }
        // Before it can be taken out again: a gauge must not pass below zero.
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

/// Until it is told to flush, and all that was queued then is gone.
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
        // Once, not for each batch: the figures tell how many.
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

/// Exports and counts; why spans of it were lost, if any were.
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
            // Whatever a store says: no span is counted twice.
            (rejected.spans.min(spans), Some(reason))
        }
        // Perhaps the store has them all the same: only its answer counts.
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

    /// A store that answers when it may, and as it is told.
    #[derive(Debug, Clone)]
    struct Store {
        answers: Arc<Semaphore>,
        does: Does,
    }

    #[derive(Debug, Clone, Copy)]
    enum Does {
        Take,
        Fail,
        /// Of each batch so many.
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
    async fn what_a_store_that_hangs_leaves_no_room_for_is_dropped_and_every_span_is_counted_once()
    {
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

        // After the flush nobody sends any more; that is counted as well.
        drop(provider.tracer("test").start("late"));
        assert_eq!(metrics.dropped.get(), dropped + 1);
    }

    #[tokio::test]
    async fn without_the_pattern_whoever_ends_a_span_waits_for_the_store() {
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
    async fn what_the_store_refuses_is_counted_as_failed() {
        let traced = traced(Does::Fail);
        traced.store.answers.add_permits(10);
        traced.end_spans(7);
        let metrics = traced.metrics.clone();
        assert!(traced.export.flush().await);
        assert_eq!((metrics.sent.get(), metrics.failed.get()), (0, 7));
    }

    #[tokio::test]
    async fn what_the_store_rejects_of_a_batch_is_counted_as_failed_and_the_rest_as_sent() {
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
    async fn an_export_that_ends_before_its_time_ends_the_service() {
        let traced = traced(Does::Panic);
        traced.store.answers.add_permits(1);
        traced.end_spans(1);
        let ended = traced.lifecycle.draining();
        let ended = tokio::time::timeout(EXPORT_TIMEOUT, ended.cancelled()).await;
        assert!(ended.is_ok(), "the service goes on without its spans");
    }

    #[tokio::test]
    async fn without_the_pattern_a_thread_that_panics_ends_the_service_too() {
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
        // Nobody is left waiting either.
        let both = async {
            ending.await.unwrap();
            lifecycle.draining().cancelled().await;
        };
        assert!(tokio::time::timeout(EXPORT_TIMEOUT, both).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_not_sampled_is_neither_queued_nor_counted() {
        let traced = traced(Does::Take);
        let unsampled = SdkTracerProvider::builder()
            .with_sampler(opentelemetry_sdk::trace::Sampler::AlwaysOff)
            .build();
        drop(unsampled.tracer("test").start("span"));
        assert_eq!(traced.counts(), [0, 0, 0]);
        assert_eq!(traced.metrics.queued.get(), 0);
    }
}

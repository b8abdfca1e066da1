//! The way of spans out of the process: a bounded queue, one export at a time, and exact counts of what became
//! of them.
//!
//! The SDK's own batch processor drops as quietly, but tells nobody how many; here every ended span is in the end
//! counted once, as `sent`, `failed` or `dropped`. Nobody who ends a span ever waits: a store that is away costs the
//! spans of that time, and nothing else. With the pattern `async_export` off whoever ends a span sends it and waits for
//! the store's answer, as the SDK's simple processor does, and the store's weather is everybody's. Left out: trying again
//! what failed.

use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;
use tracing::{info, warn};

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

/// Starts exporting; inside a runtime.
pub(super) fn start<E: SpanExporter + 'static>(
    mut exporter: E,
    resource: &Resource,
    metrics: SpanMetrics,
) -> (QueueingProcessor, Export) {
    exporter.set_resource(resource);
    let (queue, waiting) = mpsc::channel(QUEUE_SPANS);
    let flush = CancellationToken::new();
    let work = run(exporter, waiting, metrics.clone(), flush.clone());
    let export = Export {
        task: tokio::spawn(work),
        flush,
    };
    (QueueingProcessor { queue, metrics }, export)
}

/// Starts a thread that exports span after span; `build` makes the exporter, within the thread's own runtime: the
/// service's threads will be the ones that wait.
pub(super) fn start_waiting<E: SpanExporter + 'static>(
    build: impl FnOnce() -> anyhow::Result<E>,
    resource: &Resource,
    metrics: SpanMetrics,
) -> anyhow::Result<WaitingProcessor> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start a runtime for spans")?;
    let mut exporter = {
        let _entered = runtime.enter();
        build()?
    };
    exporter.set_resource(resource);
    let (exports, asked) = std::sync::mpsc::channel::<(SpanData, std::sync::mpsc::Sender<()>)>();
    let counted = metrics.clone();
    std::thread::Builder::new()
        .name("spans".to_owned())
        .spawn(move || {
            for (span, done) in asked {
                runtime.block_on(export(&exporter, vec![span], &counted));
                // Whoever asked waits for this alone.
                let _ = done.send(());
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
async fn run<E: SpanExporter>(
    exporter: E,
    mut waiting: mpsc::Receiver<SpanData>,
    metrics: SpanMetrics,
    flush: CancellationToken,
) {
    let mut batch = Vec::with_capacity(BATCH_SPANS);
    let mut in_reach = true;
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
            Some(ref error) if in_reach => {
                warn!(error, "the trace store takes no spans: they are lost")
            }
            None if !in_reach => info!("the trace store takes spans again"),
            _ => {}
        }
        in_reach = failure.is_none();
    }
}

/// Exports and counts; why it failed, if it did.
async fn export<E: SpanExporter>(
    exporter: &E,
    batch: Vec<SpanData>,
    metrics: &SpanMetrics,
) -> Option<String> {
    let spans = batch.len();
    // What the exporter's own client would trace is about spans, and would make more of them.
    let exported = exporter.export(batch).with_subscriber(NoSubscriber::new());
    let failure = match tokio::time::timeout(EXPORT_TIMEOUT, exported).await {
        Ok(Ok(())) => None,
        // Perhaps the store has them all the same: only its answer counts.
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {} s", EXPORT_TIMEOUT.as_secs())),
    };
    let outcome = match failure {
        None => &metrics.sent,
        Some(_) => &metrics.failed,
    };
    outcome.inc_by(spans as u64);
    metrics.queued.dec_by(spans as i64);
    failure
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry::trace::{Tracer, TracerProvider};
    use opentelemetry_sdk::error::OTelSdkError;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use prometheus_client::metrics::counter::Counter;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::metrics::Metrics;

    /// A store that answers when it may, and as it is told.
    #[derive(Debug, Clone)]
    struct Store {
        answers: Arc<Semaphore>,
        works: bool,
    }

    impl SpanExporter for Store {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            let permit = self.answers.acquire().await;
            permit.expect("the semaphore is never closed").forget();
            if self.works {
                return Ok(());
            }
            Err(OTelSdkError::InternalFailure("no".to_owned()))
        }
    }

    struct Traced {
        provider: SdkTracerProvider,
        export: Export,
        metrics: SpanMetrics,
        store: Store,
    }

    fn traced(works: bool) -> Traced {
        let store = Store {
            answers: Arc::new(Semaphore::new(0)),
            works,
        };
        let metrics = Metrics::new("test").spans();
        let resource = Resource::builder_empty().build();
        let (processor, export) = start(store.clone(), &resource, metrics.clone());
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .build();
        Traced {
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
        let traced = traced(true);
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
            works: true,
        };
        let metrics = Metrics::new("test").spans();
        let resource = Resource::builder_empty().build();
        let built = store.clone();
        let processor = start_waiting(|| Ok(built), &resource, metrics.clone()).unwrap();
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
        let traced = traced(false);
        traced.store.answers.add_permits(10);
        traced.end_spans(7);
        let metrics = traced.metrics.clone();
        assert!(traced.export.flush().await);
        assert_eq!((metrics.sent.get(), metrics.failed.get()), (0, 7));
    }

    #[tokio::test]
    async fn what_is_not_sampled_is_neither_queued_nor_counted() {
        let traced = traced(true);
        let unsampled = SdkTracerProvider::builder()
            .with_sampler(opentelemetry_sdk::trace::Sampler::AlwaysOff)
            .build();
        drop(unsampled.tracer("test").start("span"));
        assert_eq!(traced.counts(), [0, 0, 0]);
        assert_eq!(traced.metrics.queued.get(), 0);
    }
}

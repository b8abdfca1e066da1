//! Work that is finished once it was begun, even if the future that awaits it is dropped.
//!
//! The future of a request is dropped at its deadline and when its client goes away, that of a message at its time limit, and
//! any of them when a `select!` takes another branch. Most work can stop at every await. A commit can't: what was committed
//! has to be told to those who wait for it.
//!
//! Awaiting such work costs no more than the work itself: no task is spawned unless it is dropped.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;

/// How long dropped work continues: longer than the database lets a statement take. A peer that vanished never answers.
const CONTINUES_FOR: Duration = Duration::from_secs(10);

/// See [`finished`].
pub(crate) struct Finished<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    work: Option<Pin<Box<F>>>,
    begun: bool,
}

/// Does the work. Dropped after it has begun, it continues in a task of its own, for 10 s at most; its result is dropped.
pub(crate) fn finished<F>(work: F) -> Finished<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    Finished {
        work: Some(Box::pin(work)),
        begun: false,
    }
}

impl<F> Future for Finished<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Taken out meanwhile: work that panics is not polled again.
        let mut work = self.work.take().expect("polled after its end");
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.work = Some(work);
            self.begun = true;
        }
        polled
    }
}

impl<F> Drop for Finished<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn drop(&mut self) {
        let Some(work) = self.work.take().filter(|_| self.begun) else {
            return;
        };
        // Without a runtime it can't go on; dropping it closes what it held.
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn(tokio::time::timeout(CONTINUES_FOR, work)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    /// Work that ends on a signal, and reports that.
    fn work() -> (
        impl Future<Output = ()> + Send + 'static,
        oneshot::Sender<()>,
        oneshot::Receiver<()>,
    ) {
        let (end, signal) = oneshot::channel::<()>();
        let (done, ended) = oneshot::channel();
        let work = async move {
            signal.await.unwrap();
            done.send(()).unwrap();
        };
        (work, end, ended)
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_was_begun_is_finished_though_its_future_was_dropped() {
        let (work, end, ended) = work();
        let waited = tokio::time::timeout(Duration::from_secs(1), finished(work)).await;
        assert!(waited.is_err());
        end.send(()).unwrap();
        ended.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_was_not_begun_is_not_done() {
        let (work, end, ended) = work();
        drop(finished(work));
        assert!(end.send(()).is_err() && ended.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_awaiting_task_gets_the_result() {
        assert_eq!(finished(async { 1 }).await, 1);
        let slow = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            2
        };
        assert_eq!(finished(slow).await, 2);
    }
}

//! The outcomes published by inventory-service, and the status that each leads to.

use chassis::consumer::Handler;
use chassis::failure::Failure;
use chassis::outbox::UnitOfWork;
use shared_events::{Event, EventData, OrderId, StockRejected, StockReleased, StockReserved};
use tracing::{debug, info};

use super::Status;
use super::store;

/// Applies the events of the inventory stream.
pub struct Outcomes;

impl Handler for Outcomes {
    async fn apply(&self, event: &Event, work: &mut UnitOfWork<'_>) -> Result<(), Failure> {
        match event.event_type.as_str() {
            StockReserved::TYPE => {
                let outcome: StockReserved = event.data()?;
                advance(
                    work,
                    outcome.order_id,
                    Status::Pending,
                    Status::Confirmed,
                    None,
                )
                .await
            }
            StockRejected::TYPE => {
                let outcome: StockRejected = event.data()?;
                let reason = Some(outcome.reason.as_str());
                advance(
                    work,
                    outcome.order_id,
                    Status::Pending,
                    Status::Rejected,
                    reason,
                )
                .await
            }
            StockReleased::TYPE => {
                let outcome: StockReleased = event.data()?;
                advance(
                    work,
                    outcome.order_id,
                    Status::Cancelling,
                    Status::Cancelled,
                    None,
                )
                .await
            }
            _ => Err(Failure::unknown_type(event)),
        }
    }
}

/// An order in another status has moved on: the event is stale or a duplicate, and ignored.
async fn advance(
    work: &mut UnitOfWork<'_>,
    id: OrderId,
    from: Status,
    to: Status,
    reason: Option<&str>,
) -> Result<(), Failure> {
    if store::change_status(work.connection(), id, from, to, reason, None).await? {
        info!(order_id = %id, status = to.as_str(), reason, "order decided");
        return Ok(());
    }
    match store::status(work.connection(), id).await? {
        Some(status) => {
            debug!(order_id = %id, status, "stale outcome ignored");
            Ok(())
        }
        None => Err(Failure::rejected(format!("there is no order {id}"))),
    }
}

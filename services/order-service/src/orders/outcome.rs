//! What inventory-service says of orders, and what that makes of them.

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

/// An order that isn't where the event found it has moved on: an outcome that was told late, or twice.
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
            debug!(order_id = %id, status, "an outcome that changes nothing");
            Ok(())
        }
        None => Err(Failure::rejected(format!("there is no order {id}"))),
    }
}
